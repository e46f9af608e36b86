"""The config of a sweep, written from its recorded calls: YAML that ``collapse-jax run`` accepts."""

from collections.abc import Mapping
from typing import Any

from collapse_jax.core.errors import UsageError
from collapse_jax.core.yaml_text import write_yaml
from collapse_jax.planning.design import Design
from collapse_jax.planning.options import Options
from collapse_jax.planning.paths import SIZES
from collapse_jax.planning.recipe_text import write_recipe, write_value


def describe_experiment(design: Design, options: Options) -> dict[str, Any]:
    """Return what a config says of a sweep, with every default.

    Raises:
      UsageError: a part that is not registered, or an argument that YAML cannot say.
    """
    first = {path: value for axis in design.axes for path, value in zip(axis.paths, axis.values[0], strict=True)}
    policies = []
    for i in range(len(design.policies)):
        setting, policy, curator = design.moved(i, first)
        policies.append(write_recipe(policy, f"policies.{i}"))
    sizes = {name: write_value(first.get(name, getattr(design, name)), name) for name in SIZES}
    rest = {name: _plain(value) for name, value in options._asdict().items() if name not in SIZES}
    section = _describe_axes(design)
    return {
        "setting": write_recipe(setting, "setting"),
        "policies": policies,
        "num_samples": sizes.pop("num_samples"),
        "num_generations": sizes.pop("num_generations"),
        "num_chains": rest.pop("num_chains"),
        **sizes,
        **rest,
        "curator": None if curator is None else write_recipe(curator, "curator"),
        **({"sweep": section} if section else {}),
    }


def write_config(design: Design, options: Options) -> str:
    """Return ``describe_experiment`` as YAML."""
    return write_yaml(describe_experiment(design, options))


def config_attributes(design: Design, options: Options) -> dict[str, str]:
    """Return the attribute ``config``; or ``config_missing``, which names the part that no config can say."""
    try:
        return {"config": write_config(design, options)}
    except UsageError as error:
        return {"config_missing": str(error)}


def _describe_axes(design: Design) -> Any:
    """Return the ``sweep:`` section: one mapping where its order says that of the axes, else a list of mappings."""
    columns = [
        {path: [write_value(point[i], path) for point in axis.values] for i, path in enumerate(axis.paths)}
        for axis in design.axes
    ]
    together = [len(column) > 1 for column in columns]
    trace = {"trace": list(design.trace)} if design.trace else {}
    if together == sorted(together) and sum(together) <= 1:
        product = {path: values for column in columns if len(column) == 1 for path, values in column.items()}
        both = {"product": product, "zip": columns[-1] if sum(together) else {}}
        return {key: part for key, part in both.items() if part} | trace
    return [{("zip" if several else "product"): c} for c, several in zip(columns, together, strict=True)] + (
        [trace] if trace else []
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list | tuple) else value
