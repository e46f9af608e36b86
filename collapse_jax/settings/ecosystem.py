"""Several models that train on each other's outputs, from isolation to full mixing."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import one_line, require_integer, require_share
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.types import (
    Array,
    Batch,
    InitFn,
    Key,
    LabelOnly,
    Metric,
    RewriteFn,
    RowScoreFn,
    Setting,
    SummarizeFn,
    Tree,
    World,
)

# The axis of a batch that models lie along; a place weighs the same for all.
_ALONG: Any = Batch(2, None)  # type: ignore[arg-type]  # vmap takes axes in the place of arrays


class Coupled(NamedTuple):
    """What the functions of a setting share.

    Attributes:
      generator: what each model is.
      models: number of models, m.
      edges: ``[m, m]``: model i reads model (i + s) mod m where a uniform number first lies below ``edges[i, s]``.
    """

    generator: Setting
    models: int
    edges: Array | np.ndarray


@register_setting
def ecosystem(
    generator: Setting | None = None, models: int = 2, mixing: Array | float | Sequence[Sequence[float]] = 1.0
) -> Setting:
    """Fit several models of one setting, each to a mix of what all of them generate.

    A row holds one row of each of the m models, so a policy does to every model's data what it does to one's. Each
    model begins with real rows of its own. Row r of model i's next batch is the row r that one of the models generated:
    model j with probability ``mixing[i][j]``. One uniform number a row decides for all models, so that where the matrix
    is circulant (any share is) each generated row is read by exactly one of them. With the identity they are m
    independent chains, the first of which is the chain that its setting has alone (by rows; only
    ``accumulate_subsample`` draws the same places for all). In loops of labels each model labels the inputs of those
    who read it.

    Isolated models collapse one by one, but apart: what they hold together keeps 1 - 1/m of the real variance for ever.
    Fully mixed ones have no more than one model of m n rows, and lose all of it, m times as slowly
    (``theory.ecosystem``; island models of population genetics: Wright 1931).

    Every number the setting measures is given three times: its mean over models under its own name; each model's
    (``_by_model``); and that of a fit to all new rows of all models (``_together``), which costs a fit. Arrays (sample
    texts, pictures) are the first model's. Metrics of new rows look at what a model will read. Curators judge the m
    rows of a place together, by their mean score.

    Args:
      generator: The setting that each model is of. The default is ``gaussian``.
      models: Number of models, m.
      mixing: Share of a batch that is drawn from all models alike: 0 isolates them, 1 mixes them fully; or a matrix: m
        rows of m shares, whose sums are 1.

    Raises:
      UsageError: a share or a matrix out of range, m below 1, or a generator that is no setting.

    Example:
      >>> [metric.name for metric in ecosystem(models=3).metrics if metric.name.startswith("trace_ratio")]
      ['trace_ratio', 'trace_ratio_by_model', 'trace_ratio_together']
    """
    generator = gaussian() if generator is None else generator
    if not isinstance(generator, Setting):
        raise UsageError(f"generator must be a Setting, such as settings.gaussian(), not {one_line(repr(generator))}")
    if any(metric.name.endswith(("_by_model", "_together")) for metric in generator.metrics):
        raise UsageError(f"generator {generator.name}: an ecosystem is made of models, not of ecosystems")
    require_integer("models", models, 1)
    coupled = Coupled(generator, models, _edges(models, mixing))
    extras, label_only, largest = generator.extras, generator.label_only, generator.info.largest_block
    sized = extras.sized_summarize
    return generator._replace(
        name="ecosystem",
        sample_real=partial(_sample_real, coupled),
        fit=partial(_fit, coupled),
        sample=partial(_sample, coupled),
        observe=partial(_observe, coupled),
        metrics=_metrics(coupled),
        init=None if generator.init is None else partial(_init, coupled, generator.init),
        statistics=None,  # each row is of some model, drawn row by row
        label_only=None if label_only is None else LabelOnly(partial(_relabel, coupled, label_only)),
        extras=extras._replace(
            summarize=None if extras.summarize is None else partial(_summarize, extras.summarize),
            sample_children=None,  # rows of a place may come from different places
            rewrite=None if extras.rewrite is None else partial(_rewrite, coupled, extras.rewrite),
            row_scores={name: partial(_score, score) for name, score in extras.row_scores.items()},
            sized_summarize=None if sized is None else lambda num: partial(_summarize, sized(num)),
        ),
        info=generator.info._replace(call=None, largest_block=None if largest is None else max(largest // models, 1)),
    )


def _edges(models: int, mixing: Any) -> Array | np.ndarray:
    """Return cumulative shares, counted from each model on; exactly 1 where nothing is left."""
    if np.ndim(mixing) == 0:
        require_share("mixing", mixing)
        rest = jnp.arange(models - 1, -1, -1, dtype=float) * (mixing / models)
        return jnp.broadcast_to(1 - rest, (models, models))
    matrix = np.asarray(mixing, float)
    right = matrix.shape == (models, models) and (matrix >= 0).all() and np.allclose(matrix.sum(1), 1, atol=1e-6)
    if not right:
        raise UsageError(
            f"mixing must be a share or {models} rows of {models} shares that sum to 1, not {one_line(repr(mixing))}"
        )
    place = (np.arange(models)[:, None] + np.arange(models)) % models
    turned = np.take_along_axis(matrix / matrix.sum(1, keepdims=True), place, 1)
    return 1 - (np.cumsum(turned[:, ::-1], 1)[:, ::-1] - turned)


def _keys(coupled: Coupled, key: Key) -> Key:
    """Return a key for each model; the first has the key that it would have alone."""
    return jnp.stack([key, *(stream(key, f"model {i}") for i in range(1, coupled.models))])


def _over(coupled: Coupled, function: Callable, key: Key, *given: Tree, axes: Sequence = (), out: Any = 0) -> Tree:
    """Apply `function`, of a key and of what is given, model by model."""
    return jax.vmap(function, (0, *axes), out)(_keys(coupled, key), *given)


def _sample_real(coupled: Coupled, key: Key, world: World, num: int) -> Tree:
    return _over(coupled, lambda k: coupled.generator.sample_real(k, world, num), key, out=1)


def _init(coupled: Coupled, init: InitFn, key: Key, world: World) -> Tree:
    return _over(coupled, lambda k: init(k, world), key)


def _fit(coupled: Coupled, key: Key, train: Batch, start: Tree) -> Tree:
    axes = (_ALONG, None if start is None else 0)
    return _over(coupled, coupled.generator.fit, key, train, start, axes=axes)


def _sources(coupled: Coupled, key: Key, num: int) -> Array:
    """Return which model each model reads, ``[num, m]``."""
    uniform = jax.random.uniform(stream(key, "sources"), (num, 1, 1))
    shift = (uniform >= jnp.asarray(coupled.edges)[None, :, :-1]).sum(-1)
    return (jnp.arange(coupled.models)[None] + shift) % coupled.models


def _sample(coupled: Coupled, key: Key, params: Tree, num: int) -> Tree:
    generated = _over(coupled, lambda k, p: coupled.generator.sample(k, p, num), key, params, axes=(0,))
    source, place = _sources(coupled, key, num), jnp.arange(num)[:, None]
    return jax.tree.map(lambda x: x[source, place], generated)


def _relabel(coupled: Coupled, label_only: LabelOnly, key: Key, params: Tree, items: Tree) -> Tree:
    """Label everyone's inputs by every model, and take one label each."""
    by_all = jax.vmap(label_only.relabel, (None, 0, None))
    labelled = _over(coupled, lambda k, x: by_all(k, params, x), key, items, axes=(1,))
    num = jax.tree.leaves(items)[0].shape[0]
    reader, place = jnp.arange(coupled.models), jnp.arange(num)[:, None]
    return jax.tree.map(lambda x: x[reader, _sources(coupled, key, num), place], labelled)


def _rewrite(
    coupled: Coupled, rewrite: RewriteFn, key: Key, params: Tree, items: Tree, fraction: Array | float
) -> Tree:
    """Rewrite each model's rows by that model."""
    return _over(coupled, lambda k, p, x: rewrite(k, p, x, fraction), key, params, items, axes=(0, 1), out=1)


def _summarize(summarize: SummarizeFn, world: World, train: Batch) -> Batch:
    by_model = jax.vmap(lambda rows: summarize(world, rows), (_ALONG,), _ALONG._replace(weight=0))(train)
    return by_model._replace(weight=by_model.weight[0])


def _score(score: RowScoreFn, world: World, params: Tree, items: Tree) -> Array:
    """Return the mean over models of what each one's row is worth."""
    return jax.vmap(partial(score, world), (0, 1))(params, items).mean(0)


def _metrics(coupled: Coupled) -> tuple[Metric, ...]:
    metrics = coupled.generator.metrics
    numbers = [m._replace(role="", baseline=None) for m in metrics if not m.dims]
    models = (("model", coupled.models),)
    return (
        *(m if m.dims else m._replace(long_name=f"{m.long_name}, mean over models") for m in metrics),
        *(m._replace(name=f"{m.name}_by_model", long_name=f"{m.long_name}, by model", dims=models) for m in numbers),
        *(m._replace(name=f"{m.name}_together", long_name=f"{m.long_name}, of all models' rows") for m in numbers),
    )


def _observe(
    coupled: Coupled, key: Key, world: World, params: Tree, summary: Tree, generated: Tree
) -> dict[str, Array]:
    generator, key_all = coupled.generator, stream(key, "together")

    def one(key: Key, params: Tree, summary: Tree, generated: Tree) -> dict[str, Array]:
        return generator.observe(key, world, params, summary, generated)

    axes = (0, None if summary is None else 0, 1)
    by_model = _over(coupled, one, key, params, summary, generated, axes=axes)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), generated)
    everything = batch.make_batch(rows)
    start = None if generator.init is None else generator.init(key_all, world)
    whole = generator.fit(key_all, everything, start)
    evaluated, summarize = None, generator.extras.summarize
    if summarize is not None:
        evaluated = jax.tree.map(lambda x: x[0, 0], summarize(world, everything).items)
    together = generator.observe(key_all, world, whole, evaluated, rows)
    arrays = {m.name for m in generator.metrics if m.dims}
    numbers = [m.name for m in generator.metrics if not m.dims]
    return (
        {name: value[0] if name in arrays else value.mean(0) for name, value in by_model.items()}
        | {f"{name}_by_model": by_model[name] for name in numbers}
        | {f"{name}_together": together[name] for name in numbers}
    )
