"""From a YAML file and the words of a command line to a mapping."""

import copy
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from collapse_jax.core.errors import UsageError


class ConfigError(UsageError):
    """A mistake in a config, told in one line that begins with the dotted path of the value."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-3`` as a number (YAML 1.2 does, 1.1 does not) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path | str) -> Any:
    """What a YAML file holds; a file that cannot be read is a `ConfigError` of one line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from error
    raw = _parse_yaml(text, str(path))
    if raw is None:
        raise ConfigError(f"{path}: the file is empty")
    return raw


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets a date such as 2026-13-01 escape as ValueError
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{origin}: {line}{' '.join(problem.split())}") from error


def apply_overrides(raw: Any, words: Sequence[str]) -> Any:
    """A copy of `raw` with ``--a.b value`` and ``--a.b=value`` put over it; values are YAML, items numbered."""
    raw, remaining = copy.deepcopy(raw), iter(words)
    for word in remaining:
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"{word}: unexpected; an override is written --key value")
        flag, equals, text = word[2:].partition("=")
        if not equals and (text := next(remaining, "--")).startswith("--"):
            raise ConfigError(f"--{flag}: a value is missing")
        path = flag.replace("-", "_")
        raw = put(raw, path.split("."), _parse_yaml(text, f"--{flag}"), path)
    return raw


def put(node: Any, keys: list[str], value: Any, path: str) -> Any:
    """A copy of `node` with `value` at ``keys``; what is absent on the way becomes a mapping."""
    if not keys:
        return value
    if isinstance(node, list):
        if not keys[0].isdecimal() or int(keys[0]) >= len(node):
            raise ConfigError(f"{path}: {keys[0]!r} is not one of the {len(node)} items, which count from 0")
        node[int(keys[0])] = put(node[int(keys[0])], keys[1:], value, path)
        return node
    if isinstance(node, str):  # the short form of a spec
        node = {"kind": node}
    if not isinstance(node or {}, Mapping):
        raise ConfigError(f"{path}: there is no key under {reprlib.repr(node)}")
    node = dict(node or {})
    return node | {keys[0]: put(node.get(keys[0]), keys[1:], value, path)}
