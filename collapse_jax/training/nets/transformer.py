"""A decoder-only transformer over symbols: one function for whole rows and for single symbols (KV cache)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_choice, require_flag, require_integer
from collapse_jax.training.nets.attention import weigh_values
from collapse_jax.training.nets.linear import Linear
from collapse_jax.training.nnx_functional import draw_parameters
from collapse_jax.types import Array, Key, Tree

BASE = 10_000.0  # base of the wavelengths of rotary positions (arXiv 2104.09864)
MOST_LOGITS = 2**24  # numbers: 64 MiB

# Keys [B, kv_heads, head, P] and values [B, kv_heads, P, head] of each block: so laid out, both products of attention
# run along what lies side by side (3.6 times as fast on a CPU as in the order of a row).
Cache = tuple[tuple[Array, Array], ...]


class TransformerSize(NamedTuple):
    """Sizes of a transformer; `heads` share `kv_heads` keys and values in groups (arXiv 2305.13245)."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    activation: Literal["swiglu", "gelu"] = "swiglu"
    tied: bool = True

    @property
    def num_parameters(self) -> int:
        """Return the number of parameters without those of the embedding."""
        heads = (self.heads + 2 * self.kv_heads) * self.head
        attention = self.width * heads + self.width * self.width
        feed_forward = (3 if self.activation == "swiglu" else 2) * self.width * self.hidden
        norms = (2 * self.depth + 1) * self.width
        return self.depth * (attention + feed_forward) + norms

    @property
    def head(self) -> int:
        """Return the number of columns of a head."""
        return self.width // self.heads


# The largest has 124 million parameters with an embedding of 50,257 symbols. It has the sizes of the smallest GPT-2 and
# not its layers: RMSNorm, rotary positions and no biases.
PRESETS = {
    "tiny": TransformerSize(64, 2, 2, 2, 176),
    "nano": TransformerSize(384, 6, 6, 6, 1024),
    "decoder_124m": TransformerSize(768, 12, 12, 12, 3072, "gelu"),
}


def describe_size(size: TransformerSize) -> str:
    """Return the sizes of a transformer in words."""
    return (
        f"{size.depth} layers, width {size.width}, {size.heads} heads, hidden width {size.hidden} ({size.activation}), "
        f"{size.num_parameters / 1e6:.1f} million parameters without the embedding"
    )


def resolve_size(model: str, given: dict[str, Any]) -> TransformerSize:
    """Return a preset's sizes with some replaced; hidden layer and kv heads follow width and heads unless given.

    Raises:
      UsageError: the preset is unknown, a number is below 1, or sizes do not divide.
    """
    require_choice("model", model, tuple(PRESETS))
    preset = PRESETS[model]
    for name in ("width", "depth", "heads", "kv_heads", "hidden"):
        if name in given:
            require_integer(name, given[name], 1)
    if "width" in given:
        given = {"hidden": preset.hidden * given["width"] // preset.width, **given}
    if "heads" in given:
        given = {"kv_heads": given["heads"], **given}
    size = preset._replace(**given)
    require_choice("activation", size.activation, ("swiglu", "gelu"))
    require_flag(f"{model}: tied", size.tied)
    if size.width % (2 * size.heads):
        raise UsageError(f"width must be a multiple of twice the {size.heads} heads (positions turn pairs of columns), "
                         f"not {size.width}")  # fmt: skip
    if size.heads % size.kv_heads:
        raise UsageError(f"heads must be a multiple of kv_heads ({size.kv_heads}), not {size.heads}")
    return size


class TransformerBlock(nnx.Module):
    """A block of attention and a feed-forward layer, each on a normalised stream (arXiv 1910.07467, 2002.05202).

    It has no biases. Parameters come from ``draw_initial_parameters``: what nnx would draw here is never computed.
    """

    def __init__(self, size: TransformerSize, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        linear = partial(Linear, use_bias=False, dtype=dtype, rngs=rngs)
        self.size = size
        self.attention_norm = nnx.RMSNorm(size.width, dtype=dtype, rngs=rngs)
        self.qkv = linear(size.width, (size.heads + 2 * size.kv_heads) * size.head)
        self.out = linear(size.width, size.width)
        self.feed_norm = nnx.RMSNorm(size.width, dtype=dtype, rngs=rngs)
        self.up = linear(size.width, size.hidden * (2 if size.activation == "swiglu" else 1))
        self.down = linear(size.hidden, size.width)

    def __call__(
        self, x_BxLxD: Array, turn: tuple[Array, Array], cache: tuple[Array, Array] | None, position: Array | int
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """Return the stream after this block, and its cache with the new keys and values at `position`."""
        x_BxLxD, cache = self.attend(x_BxLxD, turn, cache, position)
        up_BxLxF = self.up(self.feed_norm(x_BxLxD))
        if self.size.activation == "swiglu":
            gate_BxLxF, up_BxLxF = jnp.split(up_BxLxF, 2, axis=-1)
            up_BxLxF = nnx.silu(gate_BxLxF) * up_BxLxF
        else:
            up_BxLxF = nnx.gelu(up_BxLxF)
        return x_BxLxD + self.down(up_BxLxF), cache

    def attend(
        self, x_BxLxD: Array, turn: tuple[Array, Array], cache: tuple[Array, Array] | None, position: Array | int
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """Return the stream after attention, and the cache."""
        size, (rows, length, _) = self.size, x_BxLxD.shape
        heads_BxHxLxK = self.qkv(self.attention_norm(x_BxLxD)).reshape(rows, length, -1, size.head).swapaxes(1, 2)
        query, key, value = jnp.split(heads_BxHxLxK, (size.heads, size.heads + size.kv_heads), axis=1)
        query, key = _rotate_columns(query, turn), _rotate_columns(key, turn)  # apart: together is slower in the cache
        query = (query / size.head**0.5).reshape(rows, size.kv_heads, -1, length, size.head).astype(value.dtype)
        key = key.astype(value.dtype)
        if cache is None:
            mixed_BxGxHxLxK = _attend_rows(query, key, value)
        else:
            write = jax.lax.dynamic_update_slice_in_dim
            cache = write(cache[0], key.swapaxes(2, 3), position, 3), write(cache[1], value, position, 2)
            mixed_BxGxHxLxK = _attend_cached(query, *cache, position)
        mixed_BxLxD = mixed_BxGxHxLxK.reshape(rows, size.heads, length, -1).swapaxes(1, 2).reshape(rows, length, -1)
        return x_BxLxD + self.out(mixed_BxLxD), cache


class Transformer(nnx.Module):
    """A network that gives the logits of the next symbol after each symbol of a row; symbol `num_symbols` starts a row.

    Parameters are float32 and cast to `dtype` where they are used; norms, softmax and logits are float32. With `remat`,
    the backward pass computes a block's values again instead of keeping them.
    """

    def __init__(
        self,
        num_symbols: int,
        size: TransformerSize,
        dtype: jnp.dtype = jnp.float32,
        remat: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        self.num_symbols, self.size, self.dtype, self.remat = num_symbols, size, dtype, remat
        small = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(small(rngs.params(), (num_symbols + 1, size.width), jnp.float32))
        self.blocks = nnx.List([TransformerBlock(size, dtype, rngs=rngs) for _ in range(size.depth)])
        self.norm = nnx.RMSNorm(size.width, dtype=dtype, rngs=rngs)
        if not size.tied:
            self.head = nnx.Param(small(rngs.params(), (num_symbols, size.width), jnp.float32))

    def __call__(
        self, tokens_BxL: Array, cache: Cache | None = None, position: Array | int = 0
    ) -> tuple[Array, Cache | None]:
        """Return logits ``[B, L, V]`` in float32, and the cache.

        Args:
          tokens_BxL: symbols.
          cache: of the symbols before `position` (``empty_cache``); None processes whole rows.
          position: place of the first of these symbols in the row.
        """
        return self.read(self.embed(tokens_BxL), cache, position)

    def embed(self, tokens_BxL: Array) -> Array:
        """Return symbols as columns of the stream."""
        return self.embedding[...].astype(self.dtype)[tokens_BxL]

    def read(self, x_BxLxD: Array, cache: Cache | None = None, position: Array | int = 0) -> tuple[Array, Cache | None]:
        """Return logits and cache from embedded symbols."""
        x_BxLxD, cache = self.stream(x_BxLxD, cache, position)
        return _compute_logits(x_BxLxD, self.head_VxD()), cache

    def judge(self, tokens_BxL: Array, beside_BxL: Array, function: Callable[[Array, Array], Tree]) -> Tree:
        """Return ``function(logits [S, V], beside [S])`` of the logits after each symbol, as leaves ``[B, L]``.

        Where all logits would be more than 2^24 numbers, only so many exist at a time, and again in the backward pass.
        """
        x_BxLxD, head_VxD = self.stream(self.embed(tokens_BxL))[0], self.head_VxD()
        x_SxD, beside_S = x_BxLxD.reshape(-1, self.size.width), beside_BxL.reshape(-1)
        count, at_once = beside_S.size, max(MOST_LOGITS // self.num_symbols, 1)

        def judge_some(x_SxD: Array, beside_S: Array) -> Tree:
            return function(_compute_logits(x_SxD, head_VxD), beside_S)

        if count <= at_once:
            return jax.tree.map(lambda x: x.reshape(beside_BxL.shape), judge_some(x_SxD, beside_S))

        def fold(x: Array) -> Array:
            padding = [(0, -count % at_once), *[(0, 0)] * (x.ndim - 1)]
            return jnp.pad(x, padding).reshape(-1, at_once, *x.shape[1:])

        judged = jax.lax.map(lambda both: jax.checkpoint(judge_some)(*both), (fold(x_SxD), fold(beside_S)))
        return jax.tree.map(lambda x: x.reshape(-1)[:count].reshape(beside_BxL.shape), judged)

    def stream(
        self, x_BxLxD: Array, cache: Cache | None = None, position: Array | int = 0
    ) -> tuple[Array, Cache | None]:
        """Return the stream that logits are read from, and the cache, from embedded symbols."""
        turn = _rotation_angles(x_BxLxD.shape[1], self.size.head, position)
        caches: list[Any] = []
        for i, block in enumerate(self.blocks):
            run = jax.checkpoint(block) if self.remat and cache is None else block
            x_BxLxD, filled = run(x_BxLxD, turn, None if cache is None else cache[i], position)
            caches.append(filled)
        return self.norm(x_BxLxD), None if cache is None else tuple(caches)

    def head_VxD(self) -> Array:
        """Return the matrix that turns the stream into logits."""
        head_VxD = self.embedding[...][: self.num_symbols] if self.size.tied else self.head[...]
        return head_VxD.astype(self.dtype)


def _compute_logits(x: Array, head_VxD: Array) -> Array:
    """Return logits in float32."""
    return jnp.einsum("...d,vd->...v", x, head_VxD, preferred_element_type=jnp.float32)


def draw_initial_parameters(key: Key, shapes: Tree, depth: int) -> Tree:
    """Draw a fresh network's parameters, of standard deviation 0.02 for embeddings and ``fan_in^-1/2`` for matrices.

    Matrices that write to the stream between blocks start ``sqrt(2 depth)`` times smaller, so that the stream's
    variance does not grow with depth; scales of norms are 1.
    """

    def deviation(names: tuple, shape: tuple[int, ...]) -> float:
        if names[-1] in ("embedding", "head"):
            return 0.02
        writes = names[-2] in ("out", "down")
        return (shape[0] * (2 * depth if writes else 1)) ** -0.5

    return draw_parameters(key, shapes, deviation)


def empty_cache(size: TransformerSize, rows: int, positions: int, dtype: jnp.dtype) -> Cache:
    """Return a cache of keys and values without symbols, with room for `positions`."""
    keys = jnp.zeros((rows, size.kv_heads, size.head, positions), dtype)
    return tuple((keys, keys.swapaxes(2, 3)) for _ in range(size.depth))


def _attend_rows(query_BxGxHxLxK: Array, key_BxGxLxK: Array, value_BxGxLxK: Array) -> Array:
    """Return each symbol's attention to all symbols of its row up to itself; G groups of heads share keys.

    A training step with positions beside columns, as here, takes four fifths of one with ``dot_product_attention``.
    """
    score = jnp.einsum("bghlk,bgmk->bghlm", query_BxGxHxLxK, key_BxGxLxK, preferred_element_type=jnp.float32)
    visible_LxL = jnp.tril(jnp.ones(score.shape[-2:], bool))
    return weigh_values(score, value_BxGxLxK[:, :, None], visible_LxL)


def _attend_cached(query_BxGxHxLxK: Array, key_BxGxKxP: Array, value_BxGxPxK: Array, position: Array | int) -> Array:
    """Return the attention of L symbols at `position` to all up to their own; G groups of heads share keys."""
    score = jnp.einsum("bghlk,bgkp->bghlp", query_BxGxHxLxK, key_BxGxKxP, preferred_element_type=jnp.float32)
    length, positions = score.shape[-2:]
    visible_LxP = jnp.arange(positions)[None] <= position + jnp.arange(length)[:, None]
    return weigh_values(score, value_BxGxPxK[:, :, None], visible_LxP)


def _rotation_angles(length: int, head: int, position: Array | int) -> tuple[Array, Array]:
    """Return cosines and sines ``[L, head / 2]`` of the angles by which pairs of columns turn at each position.

    They are computed in float32, because bfloat16 has only every second whole number above 256.
    """
    frequency_F = BASE ** (-jnp.arange(0, head, 2, jnp.float32) / head)
    angle_LxF = (position + jnp.arange(length)).astype(frequency_F.dtype)[:, None] * frequency_F[None]
    return jnp.cos(angle_LxF), jnp.sin(angle_LxF)


def _rotate_columns(x_BxHxLxK: Array, turn: tuple[Array, Array]) -> Array:
    """Return columns turned by their position's angles, in float32."""
    cos, sin = (x[None, None] for x in turn)
    a, b = jnp.split(x_BxHxLxK.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
