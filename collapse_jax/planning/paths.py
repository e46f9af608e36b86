"""The paths of what an axis of a sweep moves: ``setting.dim``, ``policies.share``, ``curator.k``, ``num_samples``."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from collapse_jax.core.errors import UsageError
from collapse_jax.core.suggestions import describe_choices

SIZES = ("num_samples", "num_generations", "seed")
ALL_METRICS = ("all",)  # the metrics of a setting, those too that it does not compute by default


class DesignAxis(NamedTuple):
    """One dimension of a sweep, before anything is built.

    Attributes:
      paths: what moves along it, together: ``setting.dim``, ``policies.share``, ``policies.0.share``, ``curator``,
        ``curator.k``, or one of ``SIZES``.
      values: ``[points][paths]``; parts among them are recipes.
    """

    paths: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


def expand_name(name: str, words: Mapping[str, Sequence[str]]) -> str:
    """Return the whole path of an axis's name, whose first word may be one of ``short_forms``.

    Raises:
      UsageError: the name stands for nothing here, or for several paths.
    """
    name = name.removesuffix(".kind")
    head, _, rest = name.partition(".")
    if name in (*SIZES, "curator") or (head in ("setting", "policies", "curator") and rest):
        return name
    paths = words.get(head, [])
    if len(paths) > 1:
        raise UsageError(f"axis {name!r} is a parameter of several parts; write {' or '.join(map(repr, paths))}")
    if not paths or paths[0] in SIZES:
        hint = describe_choices(name.rpartition(".")[2], words)
        raise UsageError(f"axis {name!r} is no parameter of the parts here; {hint}")
    return f"{paths[0]}.{rest}" if rest else paths[0]


def short_names(paths: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """Return a short name for each path: its last word, or all of it where that word is taken."""
    last = {path: path.rpartition(".")[2] for path in paths}
    words = list(last.values())
    return {path: word if words.count(word) == 1 and word not in taken else path for path, word in last.items()}


def targets(path: str, count: int) -> list[str]:
    """Return the paths of single policies that a path means: ``policies.share`` is the share of each of `count`."""
    head, _, rest = path.partition(".")
    if head == "policies" and not rest.partition(".")[0].isdecimal():
        return [f"policies.{i}.{rest}" for i in range(count)]
    return [path]


def below(head: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values at paths below another; below ``policies``, those of all policies alone."""
    below = {path.removeprefix(head + "."): value for path, value in values.items() if path.startswith(head + ".")}
    return {path: value for path, value in below.items() if head != "policies" or not path.split(".")[0].isdecimal()}


def refuse_overlaps(paths: Sequence[str]) -> None:
    """Raise ``UsageError`` where two axes move the same thing."""
    for i, path in enumerate(paths):
        for other in paths[:i]:
            if path == other:
                raise UsageError(f"axis {path!r} is there twice; keep one")
            if _overlap(path, other):
                raise UsageError(f"axes {other!r} and {path!r} move the same thing; keep one")


def _overlap(a: str, b: str) -> bool:
    """Return whether one path lies in the other; ``policies.share`` lies in every policy."""
    (number_a, rest_a), (number_b, rest_b) = _split_number(a), _split_number(b)
    apart = None not in (number_a, number_b) and number_a != number_b
    return not apart and (f"{rest_a}.".startswith(f"{rest_b}.") or f"{rest_b}.".startswith(f"{rest_a}."))


def _split_number(path: str) -> tuple[str | None, str]:
    """Return the policy's number, if one is named, and the path without it."""
    words = path.split(".")
    number = words[1] if words[0] == "policies" and words[1].isdecimal() else None
    return number, ".".join(words if number is None else [words[0], *words[2:]])
