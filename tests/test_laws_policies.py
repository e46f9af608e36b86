"""Laws of policies, on rows that know where they come from."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import POLICIES, floats_of, record, recorded, z_score

from collapse_jax import policies
from collapse_jax.checking.recorder import make_recorder
from collapse_jax.core import batch, registry
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.random import chain_keys
from collapse_jax.types import Curator, PartlyReal, Policy, Resample

N, T = 5, 4  # as `recorded` has them
GENERATIONS = range(1, T + 1)
OF_SHARES = [name for name, factory in registry.factories("policy").items() if "share" in floats_of(factory)]
REDRAWS_WITH_REPLACEMENT = {
    name for name, make in POLICIES.items() if (resample := make().resample) is not None and resample.replacement
}
FLOATS = [(name, p) for name, factory in registry.factories("policy").items() for p in floats_of(factory)]


@pytest.mark.fast
@pytest.mark.parametrize("name", POLICIES)
def test_weights_are_of_rows_that_exist(name):
    seen = recorded(name)
    assert np.isfinite(seen.weight).all()
    assert (seen.weight >= 0).all()
    assert (seen.weight.sum(-1) > 0).all()
    # Every row of positive weight is real, or was made by an earlier fit; empty slots are neither.
    birth, there = seen.birth(), seen.weight > 0
    assert (birth[there] >= 0).all()
    assert ((seen.number >= 0) & (seen.number < max(N, *POLICIES[name]().sizes, 0)))[there].all()
    for g in GENERATIONS:
        rows = [row[:2] for row in seen.seen(g)]
        assert len(set(rows)) == len(rows) or name in REDRAWS_WITH_REPLACEMENT


@pytest.mark.fast
@pytest.mark.parametrize("name", POLICIES)
def test_generation_one_is_the_real_rows(name):
    rows = recorded(name).seen(1)
    assert {(real, weight) for _, _, real, weight in rows} == {(1, 1.0)}
    assert len({tag for tag, *_ in rows}) == 1
    resample = POLICIES[name]().resample
    if name in REDRAWS_WITH_REPLACEMENT:
        assert len(rows) == resample.num(N)
    else:
        assert [number for _, number, *_ in rows] == list(range(N))


def test_replace_forgets_the_real_rows():
    seen = recorded("replace")
    for g in GENERATIONS[1:]:
        assert (seen.mass(g, g - 1), seen.mass(g, 0), seen.weight[0, g - 1].sum()) == (N, 0, N)


def test_accumulate_keeps_every_batch():
    seen = recorded("accumulate")
    for g in GENERATIONS:
        assert [seen.mass(g, b) for b in range(g)] == [N] * g
        assert seen.weight[0, g - 1].sum() == g * N


def same(a, b, factor=1.0, after=1):
    """Fits from generation `after` on saw the same rows, at `factor` times the weight."""
    for g in range(after, T + 1):
        scaled = [(*row, factor * weight) for *row, weight in b.seen(g)]
        assert a.seen(g) == scaled, f"generation {g}"
    assert len(a.seen(T)) > 0


@pytest.mark.fast
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (policies.window(1), "replace"),
        (policies.decay(0.0), "replace"),
        (policies.fixed_real(0.0), "replace"),
        (policies.fresh_real(0.0), "replace"),
        (policies.window(T), "accumulate"),
        (policies.window(T + 3), "accumulate"),
        (policies.decay(1.0), "accumulate"),
        (policies.contaminated(0.0), "accumulate"),
        (policies.accumulate_subsample(N * T), "accumulate"),
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_policies_that_are_others_in_disguise(a, b):
    same(record(a), recorded(b))


def test_window_keeps_the_last_k():
    seen = recorded("window-3")
    assert [[seen.mass(g, b) for b in range(g)] for g in GENERATIONS] == [[N], [N, N], [N, N, N], [0, N, N, N]]


def test_decay_weighs_by_age():
    gamma = 0.5
    seen = recorded("decay")
    for g in GENERATIONS:
        np.testing.assert_allclose([seen.mass(g, b) / N for b in range(g)], gamma ** np.arange(g - 1, -1, -1.0))


def test_a_subsample_is_of_distinct_rows_of_the_whole_pool():
    for name, num in (("accumulate_subsample", N), ("accumulate_subsample-7", 7)):
        seen = recorded(name)
        for g in GENERATIONS:
            rows = seen.seen(g)
            assert len({row[:2] for row in rows}) == len(rows) == min(num, g * N)
            assert {row[3] for row in rows} == {1.0}
    with_replacement = recorded("accumulate_subsample-replacement")
    assert [len(with_replacement.seen(g)) for g in GENERATIONS] == [N] * T


def inclusions(seen, n, generation):
    """``[chains, generation * n]``: how often each row of the pool is in the fit."""
    rows = seen.birth()[:, generation - 1] * n + seen.number[:, generation - 1]
    return (rows[:, :, None] == np.arange(generation * n)).sum(1)


@pytest.mark.parametrize("num", [3, 5])
def test_every_row_and_every_pair_is_equally_likely_in_a_subsample(num):
    n, horizon = 3, 3
    chosen = record(policies.accumulate_subsample(num), n, horizon, 4000)
    for generation in (2, 3):
        count = n * generation
        seen = inclusions(chosen, n, generation)
        assert (seen.sum(1) == num).all()
        assert seen.max() == 1
        for i in range(count):
            assert abs(z_score(seen[:, i], num / count)) < 4
        for i, j in itertools.combinations(range(count), 2):
            assert abs(z_score(seen[:, i] * seen[:, j], num * (num - 1) / (count * (count - 1)))) < 4
        assert len({tuple(x) for x in seen}) == math.comb(count, num)  # every choice is made by some chain
    # Each fit draws anew: whether the first real row is in one tells nothing of the next.
    first = [inclusions(chosen, n, g)[:, 0] for g in (2, 3)]
    assert abs(z_score(first[0] * first[1], num / 6 * num / 9)) < 4


def test_a_subsample_with_replacement_draws_independent_rows():
    n, generation = 3, 3
    seen = inclusions(record(policies.accumulate_subsample(replacement=True), n, generation, 4000), n, generation)
    assert (seen.sum(1) == n).all()
    for i in range(9):
        assert abs(z_score(seen[:, i], 1 / 3)) < 4
    assert abs(z_score((seen > 0).sum(1), 9 * (1 - (8 / 9) ** 3))) < 4


COUNTS = [  # n, share, real rows: half up, and one row stays on each side
    (5, 0.5, 3), (5, 0.3, 2), (5, 0.1, 1), (5, 0.01, 1), (5, 0.99, 4), (5, 0.0, 0), (5, 1.0, 5), (8, 0.5, 4),
    (10, 0.25, 3), (10, 0.24, 2), (2, 0.01, 1), (2, 0.99, 1), (100, 0.005, 1), (50, 0.29, 15), (100, 0.345, 35),
]  # fmt: skip


@pytest.mark.parametrize("policy", OF_SHARES)
def test_counts_of_real_rows_round_half_up(policy):
    factory = registry.factories("policy")[policy]
    for n, share, count in COUNTS:
        assert int(factory(share).batches.num_real(n)) == count, (n, share)


@pytest.mark.parametrize("policy", OF_SHARES)
def test_traced_shares_count_as_concrete_ones(policy):
    factory = registry.factories("policy")[policy]
    shares = [i / 100 for i in range(101)]
    for n in (2, 5, 20, 50, 100, 1000):
        traced = jax.jit(jax.vmap(lambda s, n=n: jnp.asarray(factory(s).batches.num_real(n))))(jnp.asarray(shares))
        concrete = [factory(s).batches.num_real(n) for s in shares]
        wrong = [(s, int(t), int(c)) for s, t, c in zip(shares, traced, concrete, strict=True) if t != c]
        assert not wrong, f"n = {n}: (share, traced, concrete) {wrong}"


@pytest.mark.fast
@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.2, 1), (0.01, 1), (0.99, 4), (1.0, 5)])
def test_fixed_real_keeps_the_same_real_rows(share, count):
    seen = record(policies.fixed_real(share))
    real = [[row for row in seen.seen(g) if row[2] == 1] for g in GENERATIONS]
    assert len(real[1]) == count
    assert real[1:] == [real[1]] * (T - 1)
    assert set(real[1]) <= set(real[0])
    for g in GENERATIONS[1:]:
        assert (seen.mass(g, g - 1), seen.weight[0, g - 1].sum()) == (N - count, N)


@pytest.mark.fast
@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.2, 1), (1.0, 5)])
def test_fresh_real_brings_new_real_rows(share, count):
    seen = record(policies.fresh_real(share))
    tags = []
    for g in GENERATIONS[1:]:
        real = [row for row in seen.seen(g) if row[2] == 1]
        assert len(real) == count
        assert {row[3] for row in real} == {1.0}
        tags += list({row[0] for row in real})
        assert (seen.mass(g, g - 1), seen.weight[0, g - 1].sum()) == (N - count, N)
    tags.append(seen.seen(1)[0][0])
    assert len(set(tags)) == len(tags) == T  # one batch of real rows each generation, none twice


@pytest.mark.parametrize("w", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_weighted_fresh_weighs_real_and_synthetic_rows(w):
    seen = record(policies.weighted_fresh(w))
    tags = set()
    for g in GENERATIONS[1:]:
        assert seen.mass(g, 0) == pytest.approx(2 * w * N)
        assert seen.mass(g, g - 1) == pytest.approx(2 * (1 - w) * N)
        assert seen.weight[0, g - 1].sum() == pytest.approx(2 * N)
        assert all(weight == pytest.approx(2 * w if real else 2 * (1 - w)) for _, _, real, weight in seen.seen(g))
        assert len(seen.seen(g)) == N * ((w > 0) + (w < 1))
        tags |= {row[0] for row in seen.seen(g) if row[2] == 1}
    assert len(tags) == (T - 1) * (w > 0)
    if w == 0.5:
        assert {row[3] for row in seen.seen(T)} == {1.0}  # pooling


def test_weighted_fresh_takes_a_number_of_real_rows():
    w, real = 0.3, 8
    seen = record(policies.weighted_fresh(w, real))
    for g in GENERATIONS[1:]:
        assert seen.mass(g, 0) == pytest.approx(2 * w * N)
        assert seen.mass(g, g - 1) == pytest.approx(2 * (1 - w) * N)
        assert [row[2] for row in seen.seen(g)].count(1) == real
    same(record(policies.weighted_fresh(w, N)), record(policies.weighted_fresh(w)))


@pytest.mark.fast
@pytest.mark.parametrize(("real", "made", "nested"), [(2, 7, True), (5, 1, True), (3, 0, True), (8, 3, False)])
def test_a_mix_is_of_real_and_synthetic_rows(real, made, nested):
    seen, tags = record(policies.mix(real, made, nested), scan=True), set()
    for g in GENERATIONS[1:]:
        rows = seen.seen(g)
        there = [row for row in rows if row[2] == 1]
        assert (len(there), len(rows) - len(there)) == (real, made)
        assert {row[3] for row in rows} == {1.0}
        assert seen.mass(g, g - 1) == made
        assert (set(there) <= set(seen.seen(1))) == nested
        tags |= {row[0] for row in there}
    assert len(tags) == (1 if nested else T - 1)


@pytest.mark.fast
def test_mixes_that_cannot_be():
    same(record(policies.mix(0)), recorded("replace"))
    with pytest.raises(ValueError, match="policy mix: real must be a whole number from 0 to 5, not 6"):
        record(policies.mix(6, 1))
    for given, message in (((0, 0), "a fit would see no rows"), ((-1, 3), "real must"), ((2, 1.5), "synthetic must")):
        with pytest.raises(ValueError, match=message):
            policies.mix(*given)


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.2, 1), (1.0, 5)])
def test_contaminated_pools_grow_by_real_and_synthetic_rows(share, count):
    seen = record(policies.contaminated(share))
    for g in GENERATIONS:
        assert seen.weight[0, g - 1].sum() == g * N
        assert seen.mass(g, 0) == N + (g - 1) * count
        assert [seen.mass(g, b) for b in range(1, g)] == [N - count] * (g - 1)
        assert set(seen.seen(max(g - 1, 1))) <= set(seen.seen(g))  # nothing is forgotten or replaced
        assert len({row[0] for row in seen.seen(g) if row[2] == 1}) == g


@pytest.mark.fast
@pytest.mark.parametrize(("name", "parameter"), FLOATS)
def test_traced_floats_give_what_concrete_ones_give(name, parameter):
    factory, values = registry.factories("policy")[name], [0.0, 0.2, 0.5, 1.0]
    key, setting = chain_keys(0, 1)[0], make_recorder()

    def one(value, key):
        chain = make_chain(setting, factory(**{parameter: value}), num_samples=N, num_generations=T)
        return simulate(chain, key, setting.world(), T)

    traced = jax.jit(jax.vmap(one, (0, None)))(jnp.asarray(values), key)
    for i, value in enumerate(values):
        concrete = record(factory(**{parameter: value}))
        weight = concrete.weight[0]
        np.testing.assert_allclose(traced["weight"][i], weight, rtol=1e-6)
        for a, b in zip(traced["rows"], concrete[:3], strict=True):
            np.testing.assert_array_equal(np.where(weight > 0, a[i], 0), np.where(weight > 0, b[0], 0))


@pytest.mark.fast
def test_the_registered_floats_are_found():
    assert {("fixed_real", "share"), ("weighted_fresh", "weight"), ("decay", "gamma")} <= set(FLOATS)
    assert {name for name, _ in FLOATS}.isdisjoint({"replace", "accumulate", "window"})


def test_a_users_own_combination_of_fields():
    gamma = 0.5
    fading = Policy("fading_subsample", fade=gamma, resample=Resample(lambda n: n))
    seen = record(fading, num=20)
    birth = seen.birth()
    for g in GENERATIONS:
        there = seen.weight[:, g - 1] > 0
        assert (there.sum(1) == N).all()
        np.testing.assert_allclose(seen.weight[:, g - 1][there], gamma ** (g - 1.0 - birth[:, g - 1][there]))
    last = Policy("last_two_with_real", keep=2, batches=PartlyReal("first", lambda n: 2))
    seen = record(last)
    assert [seen.mass(g, 0) for g in GENERATIONS] == [N, N + 2, 4, 4]
    assert [seen.weight[0, g - 1].sum() for g in GENERATIONS] == [N, 2 * N, 2 * N, 2 * N]


def halves(width):
    """A curator that keeps the first n candidates at weight 1/2, one weight a row or one for all."""

    def apply(setting, key, world, params, candidates, num):
        items = jax.tree.map(lambda x: x[:, :num], candidates.items)
        return batch.Batch(items, jnp.full((1, num if width == "rows" else 1), 0.5))

    return Curator("halves", 2, apply)


@pytest.mark.parametrize("width", ["batch", "rows"])
@pytest.mark.parametrize("name", registry.factories("policy"))
def test_weights_that_a_curator_gives_are_kept(name, width):
    plain, seen = recorded(name), record(POLICIES[name](), curator=halves(width), scan=width == "rows" or None)
    if POLICIES[name]().resample is None:  # a redraw is uniform over rows, whatever they weigh
        for g in GENERATIONS:
            # Rows that a curated batch lost to real ones were real before, too: only synthetic weights halve.
            for b in range(g):
                factor = 1.0 if b == 0 else 0.5
                assert seen.mass(g, b) == pytest.approx(factor * plain.mass(g, b)), (g, b)
    else:
        birth = seen.birth()
        there = seen.weight > 0
        assert (birth[there] >= 0).all()
        np.testing.assert_allclose(seen.weight[there], np.where(birth[there] == 0, 1.0, 0.5))
        assert (birth[there] > 0).any()
