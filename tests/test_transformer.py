"""The network of language models, and symbols drawn from it one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from collapse_jax.planning.cost import count_operations
from collapse_jax.training.nets import transformer
from collapse_jax.training.nets.sampling import Decoding, decode_rows, pick_symbols, symbol_weights
from collapse_jax.training.nets.sequence_model import SequenceModel, draw_rows, rewrite_rows
from collapse_jax.training.nets.transformer import (
    PRESETS,
    Transformer,
    TransformerSize,
    describe_size,
    draw_initial_parameters,
    empty_cache,
)
from collapse_jax.training.nnx_functional import make_functional

KEY = jax.random.key(3)
SMALL = TransformerSize(16, 2, 4, 2, 24)
V, L = 7, 10


def net(size=SMALL, **options):
    """A network's parameters and its function."""
    by_nnx, apply = make_functional(lambda rngs: Transformer(V, size, rngs=rngs, **options))
    return draw_initial_parameters(KEY, jax.eval_shape(by_nnx, KEY), size.depth), apply


def test_no_symbol_sees_a_later_one():
    for size in (SMALL, SMALL._replace(activation="gelu", tied=False, kv_heads=4)):
        module = Transformer(V, size, rngs=nnx.Rngs(0))
        x = jax.random.normal(KEY, (1, L, 16))
        slopes = jax.jit(jax.jacobian(lambda x, m=module: m.read(x)[0].sum(-1)[0]))(x)[:, 0]  # [L out, L in, 16]
        reach = np.abs(slopes).max(-1)
        assert (reach[np.triu_indices(L, 1)] == 0).all()
        assert (reach[np.tril_indices(L)] > 0).all()


@pytest.mark.parametrize("size", [SMALL, SMALL._replace(kv_heads=1, tied=False), SMALL._replace(activation="gelu")])
def test_a_cached_pass_is_the_full_pass(size):
    """Prompts of any length at once, then one symbol at a time."""
    params, apply = net(size)
    tokens, apply = jax.random.randint(KEY, (3, L), 0, V), jax.jit(apply)
    full = apply(params, tokens)[0]
    for given in (1, 4):
        logits, cache = apply(params, tokens[:, :given], empty_cache(size, 3, L, jnp.float32), 0)
        seen = [logits]
        for position in range(given, L):
            logits, cache = apply(params, tokens[:, position : position + 1], cache, position)
            seen.append(logits)
        np.testing.assert_allclose(np.concatenate(seen, 1), full, rtol=1e-4, atol=1e-5)


def test_positions_are_relative_and_matter():
    """Rotary: what attends to a row shifted as a whole sees the same; the order of symbols is not lost."""
    params, apply = net()
    tokens = jax.random.randint(KEY, (2, 4), 0, V)
    apply = jax.jit(apply)
    at = lambda begin: apply(params, tokens, None, begin)[0]  # noqa: E731
    np.testing.assert_allclose(at(0), at(57), rtol=1e-3, atol=1e-4)
    turned = apply(params, tokens[:, jnp.array([1, 0, 2, 3])])[0]
    assert not np.allclose(turned[:, -1], at(0)[:, -1], rtol=1e-3)


def test_remat_and_bfloat16_compute_the_same():
    tokens = jax.random.randint(KEY, (3, L), 0, V)
    params, apply = net()
    slope = lambda apply: jax.grad(lambda p: (apply(p, tokens)[0] ** 2).mean())(params)  # noqa: E731
    again, half = net(remat=True)[1], net(dtype=jnp.bfloat16)[1]
    words = lambda apply: str(jax.make_jaxpr(lambda _: slope(apply))(params))  # noqa: E731
    assert "remat" in words(again) or "checkpoint" in words(again)
    assert "remat" not in words(apply)
    assert "checkpoint" not in words(apply)
    slopes = jax.jit(lambda: (slope(apply), slope(again), slope(half)))()
    for a, b, c in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
        assert c.dtype == jnp.float32
        assert 1e-4 < np.abs(a - c).max() / np.abs(a).max() < 0.15  # eight bits of precision
    assert jax.eval_shape(half, params, tokens)[0].dtype == jnp.float32


def test_presets_have_the_sizes_that_they_say():
    for name, symbols, millions in (("tiny", 69, 0.105), ("nano", 69, 10.6), ("decoder_124m", 50257, 124)):
        build = lambda rngs, n=name, v=symbols: Transformer(v, PRESETS[n], rngs=rngs)  # noqa: E731
        shapes = jax.eval_shape(make_functional(build)[0], KEY)
        number = sum(x.size for x in jax.tree.leaves(shapes))
        assert number / 1e6 == pytest.approx(millions, rel=0.01)
        assert number - shapes["embedding"].size == PRESETS[name].num_parameters
        assert f"{PRESETS[name].depth} layers, width {PRESETS[name].width}" in describe_size(PRESETS[name])


def test_initial_spreads():
    size = TransformerSize(128, 3, 4, 4, 256, tied=False)
    params, _ = net(size)
    first = params["blocks"][0]
    expected = {"qkv": 128**-0.5, "up": 128**-0.5, "out": (128 * 6) ** -0.5, "down": (256 * 6) ** -0.5}
    for name, spread in expected.items():
        assert float(first[name]["kernel"].std()) == pytest.approx(spread, rel=0.03)
    assert float(params["head"].std()) == pytest.approx(0.02, rel=0.1)
    assert (params["norm"]["scale"] == 1).all()


def kept(logits, **how):
    return [set(np.flatnonzero(row)) for row in np.asarray(symbol_weights(jnp.asarray(logits), Decoding(**how)))]


def test_cuts_of_the_law_of_the_next_symbol():
    share = np.array([[0.5, 0.25, 0.15, 0.07, 0.03], [0.2, 0.2, 0.2, 0.2, 0.2]])
    logits = np.log(share) + 3.0
    np.testing.assert_allclose(symbol_weights(logits, Decoding()) * share.max(1, keepdims=True), share, rtol=1e-5)
    tempered = symbol_weights(logits, Decoding(temperature=2.0))
    np.testing.assert_allclose(tempered[0] / tempered[0].sum(), np.sqrt(share[0]) / np.sqrt(share[0]).sum(), rtol=1e-5)
    assert kept(logits, top_k=2)[0] == {0, 1}
    assert kept(logits, top_p=0.7)[0] == {0, 1}
    assert kept(logits, top_p=0.8)[0] == {0, 1, 2}
    assert kept(logits, top_p=1e-6)[0] == {0}
    assert kept(logits, min_p=0.2)[0] == {0, 1, 2}
    assert kept(logits, min_p=0.2)[1] == {0, 1, 2, 3, 4}
    assert kept(logits, temperature=0.0)[0] == {0}
    # Traced floats take the same cuts.
    traced = jax.jit(lambda t, p, m: symbol_weights(logits, Decoding(t, 3, p, m)))
    np.testing.assert_allclose(traced(0.5, 0.9, 0.1), symbol_weights(logits, Decoding(0.5, 3, 0.9, 0.1)), rtol=1e-6)
    assert (np.asarray(traced(0.0, 1.0, 0.0))[0] > 0).tolist() == [True, False, False, False, False]


def left(logits, temperature, top_k, top_p, min_p):
    """The law after each cut in turn, by NumPy."""
    share = np.exp((logits - logits.max()) / temperature)
    if top_k:
        share = np.where(np.argsort(np.argsort(-share)) < top_k, share, 0)
    order = np.argsort(-share)
    before = np.cumsum(share[order]) - share[order]
    share[order[before >= top_p * share.sum()]] = 0
    share[share < min_p * share.max()] = 0
    return share / share.sum()


def test_cuts_together_come_in_their_order():
    logits = 2.5 * np.random.default_rng(5).normal(size=(40, 12))
    cuts = [(t, k, p, m) for t in (0.7, 1.6) for k in (0, 4, 9) for p in (0.5, 0.8, 1.0) for m in (0.0, 0.15)]
    for cut in cuts:
        ours = np.asarray(symbol_weights(jnp.asarray(logits, jnp.float32), Decoding(*cut)), np.float64)
        expected = np.stack([left(row, *cut) for row in logits])
        np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), expected, atol=1e-5, err_msg=str(cut))
    # The order matters: of three symbols left, two have 0.9 of what is left, but not of all.
    share = np.log([[0.3, 0.25, 0.05, 0.04, *[0.03] * 12]])
    assert kept(share, top_k=3, top_p=0.9) == [{0, 1}]
    assert len(kept(share, top_p=0.9)[0]) > 10


def test_losses_in_parts_are_those_at_once(monkeypatch):
    """So are their slopes, where only a few logits exist at a time."""
    params, apply = net(SMALL._replace(depth=1))
    tokens, labels = jax.random.randint(KEY, (2, 3, L), 0, V)

    def losses(params):
        of = lambda logits, label: -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)[:, 0]  # noqa: E731
        losses_NxL = apply(params, tokens, labels, of, method="judge")
        return (losses_NxL**2).mean(), losses_NxL

    whole = jax.jit(jax.grad(losses, has_aux=True))(params)
    monkeypatch.setattr(transformer, "MOST_LOGITS", 4 * V)
    assert "scan" in str(jax.make_jaxpr(losses)(params))
    parts = jax.jit(jax.grad(lambda params: losses(params), has_aux=True))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), parts, whole)
    log = jax.nn.log_softmax(jax.jit(apply)(params, tokens)[0])
    np.testing.assert_allclose(whole[1], -np.take_along_axis(np.asarray(log), labels[..., None], -1)[..., 0], rtol=1e-4)


def test_bfloat16_turns_by_float32_angles():
    """At position 1001, which bfloat16 takes for 1000: columns turn as far as they should, to its eight bits."""
    x = jax.random.normal(KEY, (1, 1, 1, 8))
    turned = transformer._rotate_columns(x.astype(jnp.bfloat16), transformer._rotation_angles(1, 8, 1001))
    assert turned.dtype == jnp.float32  # queries are scaled before they are rounded
    angle = 1001 * transformer.BASE ** (-np.arange(0, 8, 2) / 8)
    a, b = np.split(np.asarray(x.astype(jnp.bfloat16), np.float64)[0, 0, 0], 2)
    expected = np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])
    np.testing.assert_allclose(np.asarray(turned, np.float64)[0, 0, 0], expected, atol=0.02)


def test_few_rows_more_than_fit_together_cost_few_more():
    params, apply = net()
    network = SequenceModel(apply, V, SMALL, jnp.float32, L, 16)

    def operations(num):
        return count_operations(jax.make_jaxpr(lambda p: draw_rows(network, p, KEY, num, Decoding()))(params).jaxpr)

    assert operations(18) < 1.2 * operations(16)
    rows = jax.jit(lambda p: draw_rows(network, p, KEY, 18, Decoding()))(params)
    assert rows.shape == (18, L)
    assert len({tuple(row) for row in rows.tolist()}) == 18


def test_picks_are_in_proportion_and_never_of_weight_zero():
    weight = jnp.tile(jnp.array([0.0, 3.0, 0.0, 1.0, 0.0]), (40_000, 1))
    chosen = np.bincount(pick_symbols(weight, jax.random.uniform(KEY, (40_000,))), minlength=5)
    assert chosen[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(chosen[1] - 30_000) < 4 * np.sqrt(40_000 * 0.75 * 0.25)
    assert pick_symbols(weight[:2], jnp.array([0.0, 1.0])).tolist() in ([1, 1], [1, 3])  # at the ends, too


def test_decoded_rows_follow_the_full_pass():
    """Every symbol of a row is where its uniform number falls in the law that a pass over the whole row gives."""
    params, apply = net()
    params = jax.tree.map(lambda x: 4 * x, params)  # far from uniform
    full, cache = jax.jit(apply), empty_cache(SMALL, 64, L, jnp.float32)
    for given in (0, 3):
        prompt = jax.random.randint(jax.random.key(9), (64, given), 0, V)
        draw = jax.jit(lambda warm, p=prompt: decode_rows(apply, params, KEY, cache, V, p, L, Decoding(warm)))
        rows = draw(1.0)
        assert (rows[:, :given] == prompt).all()
        start = jnp.concatenate([jnp.full((64, 1), V), rows[:, :-1]], 1)
        share = np.asarray(jax.nn.softmax(full(params, start)[0]))[:, given:]
        uniform = np.asarray(jax.random.uniform(KEY, ((L - given) * 64,))).reshape(L - given, 64).T
        expected = (share.cumsum(-1) <= uniform[..., None]).sum(-1)
        assert (np.asarray(rows)[:, given:] == expected).mean() > 0.99  # but for rounding at a border
    greedy = draw(0.0)
    logits = full(params, jnp.concatenate([jnp.full((64, 1), V), greedy[:, :-1]], 1))[0]
    assert (np.asarray(logits.argmax(-1))[:, 3:] == np.asarray(greedy)[:, 3:]).all()


def test_symbols_drawn_anew_follow_the_row_as_it_is():
    """Every symbol is where its uniform number falls in the law that a pass over the given row gives."""
    params, apply = net()
    params = jax.tree.map(lambda x: 4 * x, params)  # far from uniform
    network = SequenceModel(apply, V, SMALL, jnp.float32, L, 16)
    rows = jax.random.randint(jax.random.key(9), (40, L), 0, V).astype(jnp.uint8)
    again = lambda fraction, *given: rewrite_rows(network, params, KEY, rows, fraction, Decoding(), *given)  # noqa: E731
    new, after_3, some, none = jax.jit(lambda zero: (again(1.0, 0), again(1.0, 3), again(0.25), again(zero)))(0.0)
    np.testing.assert_array_equal(after_3[:, :3], rows[:, :3])
    np.testing.assert_array_equal(after_3[:, 3:], new[:, 3:])
    assert (new.shape, new.dtype) == (rows.shape, rows.dtype)
    stays = np.asarray(jax.random.uniform(KEY, (40 * L,))).reshape(40, L) >= 0.25
    np.testing.assert_array_equal(np.asarray(some)[stays], np.asarray(rows)[stays])
    start = jnp.concatenate([jnp.full((40, 1), V), rows[:, :-1].astype(int)], 1)
    share = np.asarray(jax.nn.softmax(jax.jit(apply)(params, start)[0]))
    expected = (share.cumsum(-1) <= np.asarray(jax.random.uniform(KEY, (40 * L,))).reshape(40, L, 1)).sum(-1)
    assert (np.asarray(new) == expected).mean() > 0.99  # but for rounding at a border
    uniform = np.asarray(jax.random.uniform(KEY, (40 * L,))).reshape(40, L, 1)
    expected = (share.cumsum(-1) <= uniform / 0.25).sum(-1)
    assert (np.asarray(some) == expected)[~stays].mean() > 0.98
    np.testing.assert_array_equal(none, rows)
