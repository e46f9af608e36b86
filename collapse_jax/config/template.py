"""A config to begin with: every key, with what the docstrings of its setting and of ``Experiment`` say of it."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from collapse_jax import config
from collapse_jax.config import parse, schema
from collapse_jax.config.experiment import Experiment
from collapse_jax.config.schema import Spec
from collapse_jax.config.yaml_io import ConfigError
from collapse_jax.core import registry
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.core.yaml_text import write_yaml

_WIDTH = 100  # of comments
_CLOSED = {"num_samples": 100, "num_generations": 20, "num_chains": 100}
_TRAINED = {"num_samples": 500, "num_generations": 4, "num_chains": 6}  # by gradients: minutes, and still a verdict
_FILES = {"table": "my.csv", "text_file": "my.txt", "symbol_file": "my.txt"}  # parts that read a file of the user's
_LIVE = 2  # policies that are run; the others stand in comments


def write(kind: str, path: Path | None = None) -> Path:
    """Writes ``text(kind)`` into a new file, by default ``kind.yaml``; returns its path.

    Raises:
      ConfigError: no such setting, a file that is there already, or one that cannot be written.
    """
    path = path or Path(f"{kind}.yaml")
    made = text(kind, str(path))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(made)
    except FileExistsError as error:
        raise ConfigError(f"{path}: is there already; choose another file with --out") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    return path


def text(kind: str, path: str = "FILE") -> str:
    """A commented config of the setting `kind`, all at its defaults, that ``config.load`` reads; it will be at `path`.

    Raises:
      ConfigError: no such setting.
    """
    specs = {spec.kind: spec for spec in schema.spec_types("setting")}
    if kind not in specs:
        raise ConfigError(f"{kind}: no such setting; {describe_choices(kind, specs)}")
    return "\n".join(_lines(specs[kind], path)) + "\n"


def read_argument_docs(documented: Any) -> dict[str, str]:
    """Return what the section ``Args`` (or ``Attributes``) of a docstring says of each name."""
    section = re.search(r"^(?:Args|Attributes):\n(.*?)(?:\n\n|\Z)", inspect.getdoc(documented) or "", re.M | re.S)
    entries = re.findall(r"^  (\w+): (.*?)(?=^  \w|\Z)", section[1] if section else "", re.M | re.S)
    return {name: _plain(words) for name, words in entries}


def _lines(spec: type[Spec], path: str) -> Iterator[str]:
    made = spec(**_defaults(spec)).build("setting")
    values = _CLOSED if made.init is None else _TRAINED
    words, hints = read_argument_docs(Experiment), typing.get_type_hints(Experiment)
    yield from _comment(f"{spec.kind}: {_first_line(spec)}", "")
    plugin = registry.plugin_of(spec.factory)
    flags = "" if plugin is None else f" --plugin {plugin}"
    yield from ("#", f"#   collapse-jax plan {path}{flags}", f"#   collapse-jax run {path}{flags}", "#")
    yield from _comment(
        "Every key stands here, the setting's at their defaults: delete what you do not need. Each is a flag of `run`, "
        "too (--num-chains 10); `collapse-jax list` tells what a kind takes.",
        "",
    )
    special = {"setting": _setting(spec), "policies": _policies(), "sweep": _sweep()}
    for field in dataclasses.fields(Experiment):
        about, value = words[field.name], values.get(field.name, field.default)
        if field.name == "trace":  # is written under sweep
            continue
        yield ""
        if field.name in special:
            yield from _comment(about, "")
            yield from special[field.name]
        elif field.name == "curator":
            yield from (*_comment(about, ""), *_choices("curator", "#   "), format_flow({"curator": value})[1:-1])
        else:
            yield from _explained(field.name, value, f"{about} ({parse.describe(hints[field.name])})")
        if field.name == "metrics":
            for metric in made.metrics:
                asked = "" if metric.default else "; not by default"
                yield f"#   {metric.name}: {metric.long_name} ({metric.units}{asked})"


def _setting(spec: type[Spec]) -> Iterator[str]:
    words, hints = read_argument_docs(spec), typing.get_type_hints(spec)
    yield from ("setting:", f"  kind: {spec.kind}")
    for name, value in _defaults(spec).items():
        yield from _explained(name, value, f"{words.get(name, '')} ({parse.describe(hints[name])})".lstrip(), "  ")
        if example := _example_of_part(hints[name]):
            yield f"  # For example: {format_flow({name: example})[1:-1]}"


def _example_of_part(hint: Any) -> dict[str, Any] | None:
    """Return a nested part as one would write it, preferably one that reads a user's file; None where none fits."""
    kinds = {part.kind: part for part in typing.get_args(hint) if isinstance(part, type) and issubclass(part, Spec)}
    for kind, file in _FILES.items():
        if kind in kinds:
            return {"kind": kind, "path": file}
    first = next(iter(kinds.values()), None)
    return None if first is None else {"kind": first.kind, **_defaults(first)}


def _policies() -> Iterator[str]:
    kinds = [spec.kind for spec in schema.spec_types("policy")][:_LIVE]
    yield from ("policies:", *(f"  - {kind}" for kind in kinds))
    yield from _choices("policy", "  # - ", skip=kinds)


def _choices(group: str, head: str, skip: Sequence[str] = ()) -> Iterator[str]:
    """Each kind of a group as one would write it, with all its arguments."""
    for spec in schema.spec_types(group):
        if spec.kind not in skip:
            yield f"{head}{format_flow({'kind': spec.kind, **_defaults(spec)})}  # {_first_line(spec)}"


def _sweep() -> Iterator[str]:
    yield from ("# Take the # away to run a grid; `zip` in place of `product` moves its keys together.", "# sweep:",
                "#   product:", "#     num_samples: [10, 100, 1000]")  # fmt: skip


def _defaults(spec: type[Spec]) -> dict[str, Any]:
    """Its arguments; null where there is no default."""
    return {f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(spec)}


def _first_line(spec: type[Spec]) -> str:
    return _plain((spec.__doc__ or "").strip().partition("\n")[0])


def _plain(words: str) -> str:
    return " ".join(words.replace("``", "`").split())


def _comment(words: str, indent: str) -> list[str]:
    words = words[:1].upper() + words[1:]
    return textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _explained(name: str, value: Any, words: str, indent: str = "") -> list[str]:
    """A key with what is said of it: after it where there is room, else above it."""
    line = indent + format_flow({name: value})[1:-1]
    beside = f"{line}  # {words}"
    return [beside] if len(beside) <= _WIDTH else [*_comment(words, indent), line]


def format_flow(value: Any) -> str:
    """Return a value of a config as YAML on one line, mappings in braces and lists in brackets."""
    plain = {name: config.to_dict(part) for name, part in value.items()} if isinstance(value, dict) else value
    text = write_yaml(plain, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").rstrip()
