"""The words of a report: what was run, the question, and an answer put together from the verdicts."""

from typing import Any

import numpy as np
import xarray as xr
import yaml

from collapse_jax.analysis.collapse_times import with_role
from collapse_jax.analysis.verdicts import DEFINITIONS, NO, UNKNOWN, YES
from collapse_jax.reporting.html.charts import words
from collapse_jax.results import summary
from collapse_jax.results.variables import grid_dims, select_scalars

_RECORDS = ("precision", "rng", "backend", "mesh", "device", "platform", "time")
_SHORT = {definition.name: definition.title.replace("-\n", "").replace("\n", " ") for definition in DEFINITIONS}
_MOST_NAMED = 6


def facts(ds: xr.Dataset) -> list[tuple[str, str]]:
    """What was run, when, where and with what."""
    made = _config(ds)
    sizes = f"{ds.sizes['chain']:,} of {ds.sizes['generation']:,} generations"
    found = [("setting", setting(ds)), ("policies", _and(policies(ds))), ("chains", sizes)]
    number = made.get("num_samples", ds.attrs.get("num_samples"))
    if number is not None and "num_samples" not in ds.dims:
        found.append(("rows of a batch (n)", f"{number:,}" if isinstance(number, int) else str(number)))
    found += [(f"sweep over {dim}", ", ".join(words(ds, dim))) for dim in grid_dims(ds) if dim != "policy"]
    found += [("seed", str(made.get("seed", ds.attrs.get("seed", "not recorded"))))]
    found += [(key, str(ds.attrs[key])) for key in _RECORDS if key in ds.attrs]
    if seconds := {k.partition("_")[2]: float(v) for k, v in ds.attrs.items() if k.startswith("seconds_")}:
        found.append(("seconds", ", ".join(f"{name} {value:,.1f}" for name, value in seconds.items())))
    versions = {k.removeprefix("version_"): v for k, v in ds.attrs.items() if k.startswith("version_")}
    return found + [("versions", ", ".join(f"{name} {v}" for name, v in versions.items()))] * bool(versions)


def setting(ds: xr.Dataset) -> str:
    """The setting's name in words."""
    return str(ds.attrs.get("setting", "unnamed setting"))


def policies(ds: xr.Dataset) -> list[str]:
    """Their labels."""
    return words(ds, "policy") if "policy" in ds.dims else [str(ds["policy"].item())] if "policy" in ds.coords else []


def question(ds: xr.Dataset) -> str:
    """What the run asks."""
    kept = f" under {_and(policies(ds), 'or')}" if policies(ds) else ""
    swept = [dim for dim in grid_dims(ds) if dim != "policy"]
    along = f", at each point of a sweep over {_and(swept)}" if swept else ""
    return f"Does {setting(ds)} collapse when it is fitted, generation after generation, to what it made{kept}{along}?"


def answer(ds: xr.Dataset, verdicts: xr.Dataset) -> list[str]:
    """Two sentences: which definitions of collapse hold, and where the metric that says most went."""
    if not _finished(ds):
        return ["No chain is finished yet; the answer will stand here as soon as some are."]
    so_far = "" if is_done(ds) else f"So far, with {done(ds)} done: "
    return [so_far + _by_definitions(verdicts), *_by_numbers(ds)]


def is_done(ds: xr.Dataset) -> bool:
    """Whether nothing of the run is left."""
    return bool(ds.attrs.get("done", 1.0) >= 1.0)


def done(ds: xr.Dataset) -> str:
    """How far the run is; never 100% of what is not finished."""
    share = float(ds.attrs.get("done", 1.0))
    return f"{min(share, 0.999):.1%}" if share < 1 else "100%"


def _finished(ds: xr.Dataset) -> bool:
    return any(bool(values.notnull().any()) for values in select_scalars(ds).data_vars.values())


def _config(ds: xr.Dataset) -> dict[str, Any]:
    try:
        found = yaml.safe_load(str(ds.attrs.get("config", "")))
    except yaml.YAMLError:
        found = None
    return found if isinstance(found, dict) else {}


def _by_definitions(verdicts: xr.Dataset) -> str:
    """Policies of which the same is said share their words."""
    said = verdicts["verdict"]
    said = (said if "policy" in said.dims else said.expand_dims("policy")).transpose("policy", "definition", ...)
    names = policies(verdicts) or ["the run"]
    together: dict[str, list[str]] = {}
    for name, here in zip(names, said.to_numpy(), strict=True):
        together.setdefault(_verdict(here.reshape(len(_SHORT), -1)), []).append(name)
    return "By eight definitions of model collapse, " + "; ".join(
        f"{_and(kept)} {words if len(kept) == 1 else _plural(words)}" for words, kept in together.items()
    ) + "."  # fmt: skip


def _plural(words: str) -> str:
    """What is said of one policy, of several: the verb comes first."""
    verb, _, rest = words.partition(" ")
    return f"{verb if verb == 'cannot' else verb.removesuffix('s')} {rest}"


def _verdict(here: np.ndarray) -> str:
    """Of ``[definition, point]``."""
    names, points = list(_SHORT.values()), here.shape[1]
    if points > 1:
        counts = {name: int((row == YES).sum()) for name, row in zip(names, here, strict=True)}
        held = [f"{name} at {count} of {points} points" for name, count in counts.items() if count]
        return f"shows {', '.join(held)}" if held else "collapses by none at any point"
    yes, unknown = ([n for n, row in zip(names, here, strict=True) if row[0] == word] for word in (YES, UNKNOWN))
    tell = f"{len(unknown)} cannot be told from this run" if unknown else ""
    if len(unknown) == len(names):
        return "cannot be judged from this run"
    if not yes:
        return f"collapses by none ({int((here == NO).sum())} say no{', ' + tell if tell else ''})"
    return f"collapses by {len(yes)} ({', '.join(yes)}{'; ' + tell if tell else ''})"


def _by_numbers(ds: xr.Dataset) -> list[str]:
    """Where the metric went that tells most: the spread, or else a risk, or else the first there is."""
    ds = select_scalars(ds)
    names = [name for role in ("log_variance", "excess_risk", "risk", "modes") for name in with_role(ds, role)]
    name = (names or [*map(str, ds.data_vars), ""])[0]
    if not name:
        return []
    units = ds[name].attrs.get("units", "1")
    units = "" if units in ("", "1") else f" {units}"
    first, last = (summary.summarize(ds[[name]], generation) for generation in (0, -1))
    title = str(ds[name].attrs.get("long_name", name))
    begin, end = (int(ds["generation"].to_numpy()[i]) for i in (0, -1))
    head = f"From generation {begin:,} to {end:,} the {title} goes" if end > begin else f"The {title} is"
    if len(last) > _MOST_NAMED:
        ends = [row.centre for row in last if np.isfinite(row.centre)]
        where = f"between {min(ends):.3g} and {max(ends):.3g}{units}" if ends else "nowhere that is finite"
        return [f"At generation {end:,} the {title} lies {where} ({last[0].kind} over chains, all points)."]
    moves = []
    for start, stop in zip(first, last, strict=True):
        limits = "" if np.isnan(stop.low) else f" ({stop.low:.3g}, {stop.high:.3g})"
        begun = f"from {start.centre:.3g} to " if end > begin else ""
        moves.append(f"{begun}{stop.centre:.3g}{limits}{units}" + (f" under {stop.column}" if stop.column else ""))
    moves = [move for move in moves if "nan" not in move]
    over = f"{last[0].kind} over chains, 95% interval in parentheses" if ds.sizes["chain"] > 1 else "one chain"
    return [f"{head} {'; '.join(moves)} ({over})."] if moves else []


def _and(names: list[str], word: str = "and") -> str:
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)
