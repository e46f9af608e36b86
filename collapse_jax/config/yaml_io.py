"""From a YAML file and the words of a command line to a mapping."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from collapse_jax.core.errors import UsageError
from collapse_jax.core.yaml_text import MAX_DEPTH, parse_yaml

MAX_BYTES = 2**20  # of a config


class ConfigError(UsageError):
    """A mistake in a config, told in one line that begins with the dotted path of the value."""


def read_yaml(path: Path | str) -> Any:
    """What a YAML file holds; a file that cannot be read is a `ConfigError` of one line."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:  # a path that no file system takes
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES // 2**20} MiB, which is no config")
    try:
        raw = _parse_text(content.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from error
    if raw is None:
        raise ConfigError(f"{path}: the file is empty")
    return raw


def _parse_text(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{origin}: {line}{' '.join(problem.split())}") from error


def apply_overrides(raw: Any, words: Sequence[str]) -> Any:
    """A copy of `raw` with ``--a.b value`` and ``--a.b=value`` put over it; values are YAML, items numbered."""
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"{word}: unexpected; an override is written --key value")
        flag, equals, text = word[2:].partition("=")
        if not equals and (text := next(remaining, "--")).startswith("--"):
            raise ConfigError(f"--{flag}: a value is missing")
        path = flag.replace("-", "_")
        keys = path.split(".")
        if len(keys) > MAX_DEPTH:
            raise ConfigError(f"--{flag[:60]}...: a path of {len(keys):,} keys; no config is that deep")
        raw = put(raw, keys, _parse_text(text, f"--{flag}"), path)
    return raw


def put(node: Any, keys: list[str], value: Any, path: str) -> Any:
    """A copy of `node` with `value` at ``keys``; what is absent on the way becomes a mapping."""
    if not keys:
        return value
    if isinstance(node, list):
        if not _is_number(keys[0]) or int(keys[0]) >= len(node):
            raise ConfigError(f"{path}: {keys[0]!r} is not one of the {len(node)} items, which count from 0")
        place = int(keys[0])
        return [*node[:place], put(node[place], keys[1:], value, path), *node[place + 1 :]]
    if isinstance(node, str):  # the short form of a spec
        node = {"kind": node}
    if not isinstance(node or {}, Mapping):
        raise ConfigError(f"{path}: there is no key under {reprlib.repr(node)}")
    node = dict(node or {})
    return node | {keys[0]: put(node.get(keys[0]), keys[1:], value, path)}


def _is_number(word: str) -> bool:
    """Return whether a word of a path counts items; no list has more than ten digits of them."""
    return word.isascii() and word.isdecimal() and len(word) < 10
