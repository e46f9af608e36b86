"""The laws of settings: shapes and names, purity, multiplicities, statistics, and what a fit must not see."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.checking.layouts import (
    BLOCKS,
    FILLS,
    Fill,
    fill_with_nan,
    fill_with_seven,
    lay_out,
    stack_blocks,
    take_rows,
    weigh_rows,
)
from collapse_jax.checking.problems import (
    Law,
    are_close,
    are_equal,
    describe_shapes,
    find_impurities,
    have_same_shapes,
    names_that_differ,
)
from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain
from collapse_jax.core.random import stream
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.types import ROLES, Batch, Key, Metric, Policy, Setting, Tree, World

Observe = Callable[[Batch], dict[str, Any]]

FEWEST = 9  # real rows of a training batch, or more where a fit needs more
HORIZON = 3


class Trial(NamedTuple):
    """A setting with what its laws are tried on.

    Attributes:
      setting: the part.
      world: its world.
      items: real rows, leaves ``[num, ...]``.
      key: randomness of fits.
    """

    setting: Setting
    world: World
    items: Tree
    key: Key

    @property
    def num(self) -> int:
        """Return how many real rows there are."""
        return count_rows(self.setting)

    def start(self) -> Tree:
        """Return what a first fit starts from."""
        return None if self.setting.init is None else self.setting.init(stream(self.key, "init"), self.world)

    def fit(self, train: Batch) -> Tree:
        """Return the parameters of a fit to `train`."""
        return self.setting.fit(stream(self.key, "fit"), train, self.start())

    def observe(self, train: Batch, items: Tree) -> dict[str, Any]:
        """Return the metrics of a fit; closed forms are given `items` as new rows, so that only fits differ."""
        setting, params = self.setting, self.fit(train)
        given = items if setting.init is None else setting.sample(stream(self.key, "sample"), params, self.num)
        summary = None
        if setting.extras.summarize is not None:
            summary = jax.tree.map(lambda x: x[0, 0], setting.extras.summarize(self.world, train).items)
        return setting.observe(stream(self.key, "observe"), self.world, params, summary, given)


def count_rows(setting: Setting) -> int:
    """Return the rows that fits are tried on: enough for a fit, in whole blocks."""
    return max(FEWEST, -(-setting.info.min_samples // BLOCKS) * BLOCKS)


def shapes_of_settings(setting: Setting, seed: int) -> list[Law]:
    """Return the laws that need no arithmetic, to be tried on `setting` before the others."""
    num = count_rows(setting)

    @cache
    def trial() -> Trial:
        key, world = jax.random.key(seed), setting.world()
        items = jax.eval_shape(lambda: setting.sample_real(stream(key, "rows"), world, num))
        return Trial(setting, world, items, key)

    return [
        ("metrics are described", lambda: _find_descriptions(setting)),
        ("functions take their arguments", lambda: _find_signatures(setting)),
        ("rows are as many as asked for", lambda: _find_rows(trial())),
        ("parameters keep their shape", lambda: _find_parameters(trial())),
        ("metrics are as declared", lambda: _find_metrics(trial())),
        ("statistics are one row", lambda: _find_statistics(trial())),
        ("a row has one score", lambda: _find_scores(trial())),
    ]


def laws_of_settings(setting: Setting, seed: int) -> list[Law]:
    """Return the laws of numbers, to be tried on `setting` where its shapes are right."""
    key, world, num = jax.random.key(seed), setting.world(), count_rows(setting)
    draw = jax.jit(lambda key, world: setting.sample_real(key, world, num))
    items = draw(stream(key, "rows"), world)
    trial = Trial(setting, world, items, key)
    compiled = jax.jit(trial.observe)

    def observe(train: Batch) -> dict[str, Any]:
        return compiled(train, items)

    steps = cache(lambda: _compile_steps(trial))  # three laws share them
    return [
        ("fits, samples and metrics are pure functions", lambda: _find_impure(trial)),
        ("rows of weight 0 are absent", lambda: _find_absent(trial, observe)),
        ("weights are multiplicities", lambda: _find_multiplicities(trial, observe)),
        ("statistics are sufficient", lambda: _find_insufficient(trial, observe)),
        ("a fit sees neither truth nor held-out rows", lambda: _find_leaks(trial, steps)),
        ("every key has rows of its own", lambda: _find_keys(trial, steps, draw)),
        ("a world is always the same", lambda: _find_worlds(trial)),
        ("a chain is one program, and no metric is NaN", lambda: _find_run(trial, steps)),
    ]


def _find_descriptions(setting: Setting) -> Iterator[str]:
    names = [metric.name for metric in setting.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two metrics are called {name!r}"
    if setting.metrics and not any(metric.default for metric in setting.metrics):
        yield "no metric is computed by default"
    for metric in setting.metrics:
        yield from (f"metric {metric.name!r}: {message}" for message in _find_metric_faults(metric))


def _find_metric_faults(metric: Metric) -> Iterator[str]:
    for field in ("name", "long_name", "units", "source"):
        if not str(getattr(metric, field)).strip():
            yield f"{field} is empty"
    for role in metric.role.split():
        if role not in ROLES:
            yield f"role {role!r} is not known; {describe_choices(role, ROLES)}"
    if metric.role and metric.dims:
        yield "it has a role and values that are arrays; verdicts are about numbers"
    if metric.scale not in ("linear", "log"):
        yield f"scale must be linear or log, not {metric.scale!r}"


def _find_signatures(setting: Setting) -> Iterator[str]:
    expected = {"world": 0, "sample_real": 3, "fit": 3, "sample": 3, "observe": 5, "init": 2}
    for name, count in expected.items():
        function = getattr(setting, name)
        if function is None and name == "init":
            continue
        if not callable(function):
            yield f"{name} is {function!r}, not a function"
            continue
        try:
            inspect.signature(function).bind(*range(count))
        except TypeError as error:
            yield f"{name} is called with {count} arguments: {error}"
        except ValueError:  # some built-in functions have no signature
            continue


def _find_rows(trial: Trial) -> Iterator[str]:
    setting = trial.setting
    for x in jax.tree.leaves(trial.items):
        if x.shape[:1] != (trial.num,):
            yield f"asked for {trial.num} rows, sample_real returns {describe_shapes(trial.items)}"
            return
    params = jax.eval_shape(trial.fit, _unit(trial.items))
    for num in (trial.num, 4):
        new = jax.eval_shape(lambda p, n=num: setting.sample(trial.key, p, n), params)
        expected = jax.tree.map(lambda x, n=num: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), trial.items)
        if not have_same_shapes(new, expected):
            yield f"asked for {num} rows, sample returns {describe_shapes(new)}, not {describe_shapes(expected)}"
            return


def _unit(items: Tree) -> Batch:
    """The shapes of one block of rows that weigh 1 each."""
    return jax.eval_shape(lambda: batch.make_batch(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), items)))


def _find_parameters(trial: Trial) -> Iterator[str]:
    if trial.setting.init is None:
        return
    start, params = jax.eval_shape(trial.start), jax.eval_shape(trial.fit, _unit(trial.items))
    if not have_same_shapes(start, params):
        yield f"init returns {describe_shapes(start)}, and fit {describe_shapes(params)}; a chain carries them on"


def _find_metrics(trial: Trial) -> Iterator[str]:
    seen = jax.eval_shape(trial.observe, _unit(trial.items), trial.items)
    declared = {metric.name: metric for metric in trial.setting.metrics}
    for name in declared:
        if name not in seen:
            yield f"observe does not return {name!r}; {describe_choices(name, list(seen))}"
    for name, value in seen.items():
        if name not in declared:
            yield f"observe returns {name!r}, which is not among the setting's metrics"
        elif value.shape != declared[name].shape:
            yield f"metric {name!r} has the shape {value.shape}, and its dims say {declared[name].shape}"


def _find_statistics(trial: Trial) -> Iterator[str]:
    statistics = trial.setting.statistics
    if statistics is None:
        return
    if trial.setting.extras.summarize is not None:
        yield "extras.summarize is given beside statistics; rows are then not kept for it"
    one = jax.eval_shape(statistics.compress, _unit(trial.items))
    if {x.shape[:2] for x in jax.tree.leaves(one.items)} - {(1, 1)}:
        yield f"compress returns {describe_shapes(one.items)}; leaves must begin with the axes [1, 1]"
        return
    params = jax.eval_shape(trial.fit, _unit(trial.items))
    if trial.setting.label_only is None:
        for exact in (False, True):
            drawn = jax.eval_shape(lambda p, e=exact: statistics.sample(trial.key, p, trial.num, trial.num, e), params)
            expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), one.items)
            if not have_same_shapes(drawn, expected):
                yield f"statistics.sample returns {describe_shapes(drawn)}, and compress {describe_shapes(expected)}"
                return


def _find_scores(trial: Trial) -> Iterator[str]:
    params = jax.eval_shape(trial.fit, _unit(trial.items))
    for name, score in trial.setting.extras.row_scores.items():
        seen = jax.eval_shape(score, trial.world, params, trial.items)
        if seen.shape != (trial.num,):
            yield f"score {name!r} of {trial.num} rows has the shape {seen.shape}"


def _find_impure(trial: Trial) -> Iterator[str]:
    setting, train = trial.setting, batch.make_batch(trial.items)
    params = jax.eval_shape(trial.fit, train)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
    yield from find_impurities("sample_real", lambda k, w: setting.sample_real(k, w, trial.num), trial.key, trial.world)
    yield from find_impurities("fit", trial.fit, train)
    yield from find_impurities("sample", lambda k, p: setting.sample(k, p, trial.num), trial.key, params)
    yield from find_impurities("observe", trial.observe, train, trial.items)


def _rows_vary(items: Tree) -> bool:
    return any(np.ptp(np.asarray(x, float), axis=0).any() for x in jax.tree.leaves(items))


def _find_absent(trial: Trial, observe: Observe) -> Iterator[str]:
    index = np.asarray([0, 0, 1, 2, 3, 3, *range(4, trial.num - 1)])
    weight = np.ones(len(index))
    weight[[1, 5]] = 0.0
    rows = take_rows(trial.items, index)
    yield from _find_reached("rows", *(observe(lay_out(trial.num, rows, weight, fill)) for fill in FILLS))

    def with_empty_block(fill: Fill) -> Batch:
        items = jax.tree.map(lambda x: np.broadcast_to(fill(x), x.shape), trial.items)
        return stack_blocks(weigh_rows(trial.items, 1.0), weigh_rows(items, 0.0))

    yield from _find_reached("blocks", *(observe(with_empty_block(fill)) for fill in FILLS))


def _find_reached(what: str, poisoned: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    nan = [name for name in poisoned if np.isnan(poisoned[name]).any()]
    if nan and not any(np.isnan(other[name]).any() for name in nan):
        yield f"NaN in {what} of weight 0 reaches {', '.join(nan)}; guard products by jnp.where(weight > 0, ...)"
    elif changed := names_that_differ(poisoned, other, are_equal):
        yield f"what lies in {what} of weight 0 changes {', '.join(changed)}"


def _find_multiplicities(trial: Trial, observe: Observe) -> Iterator[str]:
    num, lay = trial.num, partial(lay_out, trial.num, fill=fill_with_seven)
    plain, heavy = lay(trial.items, np.ones(num)), lay(trial.items, np.asarray([60, *[1] * (num - 1)]))
    if not names_that_differ(observe(heavy), observe(plain), are_equal) and _rows_vary(trial.items):
        fit = jax.jit(trial.fit)  # no metric may be able to tell
        if are_equal(fit(heavy), fit(plain)):
            yield "the fit ignores weights: a row that is there 60 times changes nothing"
            return
    if trial.setting.init is not None:
        return  # fits by gradients draw other minibatches, and agree in law only
    counts = np.asarray([2, 1, 3, *[1] * (num - 3)])
    twice = observe(lay(take_rows(trial.items, np.repeat(np.arange(num), counts)), np.ones(num + BLOCKS)))
    if changed := names_that_differ(observe(lay(trial.items, counts)), twice, are_close):
        yield f"a row of weight 2 is not the row twice: {', '.join(changed)} differ"
    blocks = observe(stack_blocks(weigh_rows(trial.items, 2.0), weigh_rows(trial.items, 3.0)))
    if changed := names_that_differ(observe(lay(trial.items, np.full(num, 5.0))), blocks, are_close):
        yield f"blocks of weights 2 and 3 are not the rows five times: {', '.join(changed)} differ"


def _find_insufficient(trial: Trial, observe: Observe) -> Iterator[str]:
    if trial.setting.statistics is None:
        return
    compress, weight = jax.jit(trial.setting.statistics.compress), np.linspace(0, 2, trial.num)
    train = lay_out(trial.num, trial.items, weight, fill_with_seven)
    whole, compressed = observe(train), compress(train)
    if not np.isclose(float(compressed.weight.sum()), weight.sum(), rtol=1e-5):
        yield f"statistics of rows of mass {weight.sum():g} weigh {float(compressed.weight.sum()):g}"
    if changed := names_that_differ(whole, observe(compressed), are_close):
        yield f"a fit to statistics is not the fit to their rows: {', '.join(changed)} differ"
        return
    is_early = np.arange(trial.num) < trial.num // 2
    early, late = (
        compress(lay_out(trial.num, trial.items, weight * part, fill_with_seven)) for part in (is_early, ~is_early)
    )
    hole = jax.tree.map(lambda x: np.broadcast_to(fill_with_nan(x), x.shape), early)
    hole = hole._replace(weight=np.zeros_like(early.weight))
    merged = stack_blocks(early, hole, late)
    if changed := names_that_differ(whole, observe(compress(merged)), are_close):
        yield f"statistics of two parts do not merge to those of the whole: {', '.join(changed)} differ"
    if changed := names_that_differ(whole, observe(merged), are_close):
        yield f"a fit to the statistics of two parts is not the fit to the whole: {', '.join(changed)} differ"
    lighter = early._replace(weight=0.5 * np.asarray(early.weight))
    halved = observe(compress(stack_blocks(lighter, hole, late)))
    expected = observe(lay_out(trial.num, trial.items, weight * np.where(is_early, 0.5, 1.0), fill_with_seven))
    if changed := names_that_differ(expected, halved, are_close):
        yield f"statistics at half their weight are not those of their rows: {', '.join(changed)} differ"


def _compile_steps(trial: Trial) -> tuple[Callable, Callable]:
    """Return how a chain of `trial` begins and goes on, each a program that is compiled when it is first called."""
    chain = make_chain(trial.setting, Policy("accumulate"), num_samples=trial.num, num_generations=HORIZON)

    def advance(world: World, state: Tree, generation: jax.Array) -> tuple[Tree, Tree, Tree, dict[str, Any]]:
        fitted, new, observations = chain.emit(world, state, generation)
        return chain.absorb(world, fitted, new, generation), fitted.params, new, observations

    return jax.jit(chain.init), jax.jit(advance)


def _find_leaks(trial: Trial, steps: Callable) -> Iterator[str]:
    init, advance = steps()
    poison = partial(jax.tree.map, lambda x: np.full(np.shape(x), fill_with_nan(jnp.asarray(x))))

    def go(world: World) -> tuple[Tree, Tree, Tree]:
        state = init(trial.key, world)
        return state.pool, *advance(world, state, jnp.int32(1))[1:3]

    blind = trial.world._replace(truth=poison(trial.world.truth), test=poison(trial.world.test))
    for name, a, b in zip(("real rows", "fit", "new rows"), go(trial.world), go(blind), strict=True):
        if not are_equal(a, b):
            yield f"the {name} change with World.truth or World.test"
            return


def _find_keys(trial: Trial, steps: Callable, draw: Callable[[Key, World], Tree]) -> Iterator[str]:
    setting = trial.setting
    if setting.init is None:
        params = jax.jit(trial.fit)(weigh_rows(trial.items, 1.0))
    else:  # a chain keeps the fit, whose program is there already
        init, advance = steps()
        params = advance(trial.world, init(trial.key, trial.world), jnp.int32(1))[1]
    sample = jax.jit(lambda key, params: setting.sample(key, params, trial.num))
    keys = [jax.random.fold_in(trial.key, i) for i in (1, 2)]
    if _rows_vary(trial.items) and are_equal(*(sample(key, params) for key in keys)):
        yield "sample returns the same rows for two keys"
    if _rows_vary(trial.items) and are_equal(*(draw(key, trial.world) for key in keys)):
        yield "sample_real returns the same rows for two keys"


def _find_worlds(trial: Trial) -> Iterator[str]:
    again = trial.setting.world()
    if not have_same_shapes(again, trial.world) or not are_equal(again, trial.world):
        yield "world returns something else when it is called again; give it a seed"


def _find_run(trial: Trial, steps: Callable) -> Iterator[str]:
    init, advance = steps()
    state = init(trial.key, trial.world)
    for generation in range(1, HORIZON + 1):
        before, (state, _, _, observations) = state, advance(trial.world, state, jnp.int32(generation))
        if not have_same_shapes(before, state):
            yield f"its state is {describe_shapes(before)}, and {describe_shapes(state)} after generation {generation}"
            return
        for name, value in jax.device_get(observations).items():
            if np.isnan(value).any():
                yield f"metric {name!r} is nan at generation {generation}"
                return
