"""From a dataset to the arguments that make it again."""

from typing import Any

import xarray as xr
import yaml

from collapse_jax.config.experiment import Experiment, from_dict
from collapse_jax.core.errors import UsageError
from collapse_jax.results.live_arguments import recall_arguments
from collapse_jax.results.provenance import missing_plugins


def arguments_of(ds: xr.Dataset) -> dict[str, Any]:
    """Return keyword arguments with which ``cj.run`` or ``cj.sweep``, whichever made a dataset, repeats it bit for bit.

    Example:
      >>> import collapse_jax as cj
      >>> runs = cj.run("gaussian", "replace", num_samples=10, num_generations=3, num_chains=4)
      >>> again = cj.run(**cj.arguments_of(runs))
      >>> bool((again.trace_ratio == runs.trace_ratio).all())
      True

    Args:
      ds: what ``run``, ``sweep`` or ``open`` returned, or a part of it that kept its attributes. Its attribute ``call``
        says whether ``run`` or ``sweep`` made it; results of the command line are of ``sweep``.

    Raises:
      UsageError: the dataset is of a file, and a part of it is not registered or in a plugin that is not loaded.
    """
    live = recall_arguments(ds.attrs.get("run_id"))
    if live is not None:
        return live
    if "config" not in ds.attrs:
        why = ds.attrs.get("config_missing", "it has no attribute 'config'")
        raise UsageError(f"arguments_of: the dataset cannot say what was run: {why}")
    missing = missing_plugins(ds.attrs)
    if missing is not None:
        raise UsageError(f"arguments_of: {missing}")
    arguments = experiment_arguments(from_dict(yaml.safe_load(ds.attrs["config"])))
    if ds.attrs.get("call") == "run":
        (arguments["policy"],) = arguments["policy"]
    return arguments


def experiment_arguments(experiment: Experiment) -> dict[str, Any]:
    """Return the keyword arguments with which ``cj.sweep`` runs an experiment."""
    design, options = experiment.design(), experiment.options()._asdict()
    first = {path: value for axis in design.axes for path, value in zip(axis.paths, axis.values[0], strict=True)}
    moved = [design.moved(i, first) for i in range(len(design.policies))]
    setting, _, curator = moved[0]
    axes = {
        axis.paths if len(axis.paths) > 1 else axis.paths[0]: [
            point if len(axis.paths) > 1 else point[0] for point in axis.values
        ]
        for axis in design.axes
    }
    kept = {name: value for name, value in options.items() if name != "checkpoint_every"}
    swept_curator = any("curator" in axis.paths for axis in design.axes)
    return {
        "setting": setting.build("setting"),
        "policy": [policy.build(f"policies.{i}") for i, (_, policy, _) in enumerate(moved)],
        "num_samples": design.num_samples,
        "num_generations": design.num_generations,
        "curator": None if curator is None or swept_curator else curator.build("curator"),
        "axes": axes,
        "trace": design.trace,
        "seed": 0 if design.seed is None else design.seed,
        **kept,
    }
