"""Write the sentences of a report: what was run, the question, and an answer made from the verdicts."""

from typing import Any

import numpy as np
import xarray as xr
import yaml

from collapse_jax.analysis.collapse_times import metrics_with_role
from collapse_jax.analysis.comparisons import BETTER, HIGHER, LOWER, UNKNOWN, UNSEEN, WORSE, compare
from collapse_jax.analysis.verdicts import DEFINITIONS, NO, RISING, YES
from collapse_jax.numerics.confidence_intervals import name_interval
from collapse_jax.reporting.html.charts import axis_labels
from collapse_jax.results import summary
from collapse_jax.results.variables import grid_dims, select_scalars

_RECORDS = ("precision", "rng", "backend", "mesh", "device", "platform", "time")
_TITLES = {definition.name: definition.title.replace("-\n", "").replace("\n", " ") for definition in DEFINITIONS}
_MAX_CURVES = 6  # that a sentence names one by one


def list_facts(ds: xr.Dataset) -> list[tuple[str, str]]:
    """Return what was run, when, where and with what, as pairs of a name and a text."""
    config = _read_config(ds)
    sizes = f"{ds.sizes['chain']:,} of {ds.sizes['generation']:,} generations"
    facts = [("setting", setting_name(ds)), ("policies", _join(policy_labels(ds))), ("chains", sizes)]
    number = config.get("num_samples", ds.attrs.get("num_samples"))
    if number is not None and "num_samples" not in ds.dims:
        facts.append(("rows of a batch (n)", f"{number:,}" if isinstance(number, int) else str(number)))
    facts += [(f"sweep over {dim}", ", ".join(axis_labels(ds, dim))) for dim in grid_dims(ds) if dim != "policy"]
    facts += [("seed", str(config.get("seed", ds.attrs.get("seed", "not recorded"))))]
    facts += [(key, str(ds.attrs[key])) for key in _RECORDS if key in ds.attrs]
    if seconds := {k.partition("_")[2]: float(v) for k, v in ds.attrs.items() if k.startswith("seconds_")}:
        facts.append(("seconds", ", ".join(f"{name} {value:,.1f}" for name, value in seconds.items())))
    versions = {k.removeprefix("version_"): v for k, v in ds.attrs.items() if k.startswith("version_")}
    return facts + [("versions", ", ".join(f"{name} {v}" for name, v in versions.items()))] * bool(versions)


def setting_name(ds: xr.Dataset) -> str:
    """Return the setting's name, or a phrase where it is not recorded."""
    return str(ds.attrs.get("setting", "unnamed setting"))


def policy_labels(ds: xr.Dataset) -> list[str]:
    """Return the labels of the policies."""
    if "policy" in ds.dims:
        return axis_labels(ds, "policy")
    return [str(ds["policy"].item())] if "policy" in ds.coords else []


def write_question(ds: xr.Dataset) -> str:
    """Return the question that the run asks."""
    under = f" under {_join(policy_labels(ds), 'or')}" if policy_labels(ds) else ""
    swept = [dim for dim in grid_dims(ds) if dim != "policy"]
    along = f" at each point of a sweep over {_join(swept)}" if swept else ""
    return f"Does {setting_name(ds)} collapse when it is fitted again and again to its own samples{under}{along}?"


def write_answer(ds: xr.Dataset, verdicts: xr.Dataset) -> list[str]:
    """Return sentences: how policies differ, which definitions of collapse hold, and how the variance changed."""
    if not _has_finished_chains(ds):
        return ["No chain is finished yet. The answer appears here as soon as some are."]
    so_far = "" if is_done(ds) else f"So far, with {format_progress(ds)} done: "
    compared = _describe_comparison(ds)
    told = _describe_verdicts(verdicts)
    return [so_far + compared[0], *compared[1:], told, *_describe_change(ds)] if compared else [
        so_far + told, *_describe_change(ds)]  # fmt: skip


def _describe_comparison(ds: xr.Dataset) -> list[str]:
    """Return sentences on the risk of each policy against the first, and on what moved most; none for one policy."""
    if ds.sizes.get("policy", 1) < 2 or not select_scalars(ds):
        return []
    found = compare(ds)
    primary, (first, *others) = found.attrs["primary"], policy_labels(ds)
    if not primary:
        return [f"No metric of this setting is a risk, so no policy is called better or worse than {first}."]
    end, title = int(ds["generation"].to_numpy()[-1]), str(ds[primary].attrs.get("long_name", primary))
    risk = found.sel(metric=primary)
    clauses = []
    for policy in others:
        cell = risk.sel(policy=policy)
        answers = cell["answer"].to_numpy().ravel().tolist()
        if len(answers) == 1:
            clauses.append(f"{policy} {_describe_difference(cell, first)}")
        else:
            counts = [
                f"{word} at {answers.count(word)}" for word in (BETTER, WORSE, UNSEEN, UNKNOWN) if word in answers
            ]
            clauses.append(f"{policy} is {_join(counts)} of {len(answers)} points against {first}")
    chains = int(risk["chains"].max())
    text = f"At generation {end:,}, by the {title}: {'; '.join(clauses)} ({chains} chains in pairs)."
    return [text, *_describe_largest(found, first)]


def _describe_difference(cell: xr.Dataset, first: str) -> str:
    """Return a clause on the primary metric at one point; the verb comes first."""
    answer, estimate, low, high = (cell[key].item() for key in ("answer", "difference", "low", "high"))
    units = str(cell["units"].item())
    units = "" if units in ("", "1") else f" {units}"
    interval = "" if np.isnan(low) else f", 95% {low:+.3g} to {high:+.3g}"
    number = f"{estimate:+.3g}{units}{interval}"
    if answer == UNKNOWN:
        return f"cannot be compared with {first}"
    if answer == UNSEEN:
        return f"differs from {first} by less than this run can see ({number})"
    return f"is {answer} than {first} ({number})"


def _describe_largest(found: xr.Dataset, first: str) -> list[str]:
    """Return a sentence on the other metric that differs most, in standard errors, among those that surely differ."""
    cells = found.stack(cell=found["difference"].dims)
    width = cells["high"] - cells["low"]
    sure = cells["answer"].isin([HIGHER, LOWER]) & (width >= 0)
    if not bool(sure.any()):
        return [f"No other metric surely differs from {first}, by Holm's method over all of them."]
    ratio = (abs(cells["difference"]) / width).where(sure)  # infinite where all chains differ alike
    most = cells.isel(cell=int(np.nanargmax(ratio.to_numpy())))
    name, policy, answer = most["metric"].item(), most["policy"].item(), most["answer"].item()
    axes = [str(dim) for dim in found["difference"].dims if dim not in ("policy", "metric")]
    at = f" (at {', '.join(f'{dim} = {most[dim].item()}' for dim in axes)})" if axes else ""
    return [
        f"What moved most is {name}: {answer} under {policy}{at} by {abs(most['difference'].item()):.3g} "
        f"({most['low'].item():+.3g} to {most['high'].item():+.3g})."
    ]


def is_done(ds: xr.Dataset) -> bool:
    """Return whether nothing of the run is left to do."""
    return bool(ds.attrs.get("done", 1.0) >= 1.0)


def format_progress(ds: xr.Dataset) -> str:
    """Return the share of the run that is done; it is never 100% while something is left."""
    share = float(ds.attrs.get("done", 1.0))
    return f"{min(share, 0.999):.1%}" if share < 1 else "100%"


def _has_finished_chains(ds: xr.Dataset) -> bool:
    return any(bool(values.notnull().any()) for values in select_scalars(ds).data_vars.values())


def _read_config(ds: xr.Dataset) -> dict[str, Any]:
    try:
        config = yaml.safe_load(str(ds.attrs.get("config", "")))
    except yaml.YAMLError:
        config = None
    return config if isinstance(config, dict) else {}


def _describe_verdicts(verdicts: xr.Dataset) -> str:
    """Return one sentence; policies with the same verdicts share a clause."""
    values = verdicts["verdict"]
    values = values if "policy" in values.dims else values.expand_dims("policy")
    values = values.transpose("policy", "definition", ...)
    policies_of: dict[str, list[str]] = {}
    for policy, table in zip(policy_labels(verdicts) or ["the run"], values.to_numpy(), strict=True):
        clause = _describe_policy(table.reshape(len(_TITLES), -1))
        policies_of.setdefault(clause, []).append(policy)
    clauses = (
        f"{_join(policies)} {clause if len(policies) == 1 else _make_plural(clause)}"
        for clause, policies in policies_of.items()
    )
    return f"By eight definitions of model collapse, {'; '.join(clauses)}."


def _make_plural(clause: str) -> str:
    """Return a clause on one policy as one on several; the verb is its first word."""
    verb, _, rest = clause.partition(" ")
    return f"{verb if verb == 'cannot' else verb.removesuffix('s')} {rest}"


def _describe_policy(verdicts: np.ndarray) -> str:
    """Return a clause on the verdicts ``[definition, point]`` of one policy."""
    titles, points = list(_TITLES.values()), verdicts.shape[1]
    if points > 1:
        counts = {title: int((row == YES).sum()) for title, row in zip(titles, verdicts, strict=True)}
        shown = [f"{title} at {count} of {points} points" for title, count in counts.items() if count]
        return f"shows {', '.join(shown)}" if shown else "collapses by none at any point"
    yes, rising, unknown = (
        [title for title, row in zip(titles, verdicts, strict=True) if row[0] == answer]
        for answer in (YES, RISING, UNKNOWN)
    )
    untold = [f"{title} is open, as it is still rising" for title in rising]
    untold += [f"{len(unknown)} cannot be told from this run"] if unknown else []
    if len(unknown) == len(titles):
        return "cannot be judged from this run"
    if not yes:
        return f"collapses by none ({int((verdicts == NO).sum())} say no{''.join(f', {part}' for part in untold)})"
    return f"collapses by {len(yes)} ({', '.join(yes)}{''.join(f'; {part}' for part in untold)})"


def _describe_change(ds: xr.Dataset) -> list[str]:
    """Return one sentence on the change of the most telling metric: the variance, else a risk, else the first."""
    ds = select_scalars(ds)
    names = [name for role in ("log_variance", "excess_risk", "risk", "modes") for name in metrics_with_role(ds, role)]
    name = (names or [*map(str, ds.data_vars), ""])[0]
    if not name:
        return []
    units = ds[name].attrs.get("units", "1")
    units = "" if units in ("", "1") else f" {units}"
    first, last = (summary.summarize(ds[[name]], generation) for generation in (0, -1))
    title = str(ds[name].attrs.get("long_name", name))
    begin, end = (int(ds["generation"].to_numpy()[i]) for i in (0, -1))
    if len(last) > _MAX_CURVES:
        centres = [row.median for row in last if np.isfinite(row.median)]
        if not centres:
            return [f"At generation {end:,} the {title} is finite at no point."]
        limits = f"between {min(centres):.3g} and {max(centres):.3g}{units}"
        return [f"At generation {end:,} the {title} lies {limits} (medians over chains, all points)."]
    changes = []
    for start, stop in zip(first, last, strict=True):
        interval = "" if np.isnan(stop.low) else f" ({stop.low:.3g}, {stop.high:.3g})"
        before = f"from {start.median:.3g} to " if end > begin else ""
        under = f" under {stop.column}" if stop.column else ""
        changes.append(f"{before}{stop.median:.3g}{interval}{units}{under}")
    changes = [change for change in changes if "nan" not in change]
    if not changes:
        return []
    over = (
        f"median over chains, {name_interval(ds.sizes['chain'])} in parentheses"
        if ds.sizes["chain"] > 1
        else "one chain"
    )
    head = f"From generation {begin:,} to {end:,} the {title} goes" if end > begin else f"The {title} is"
    return [f"{head} {'; '.join(changes)} ({over})."]


def _join(names: list[str], word: str = "and") -> str:
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)
