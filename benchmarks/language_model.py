"""A transformer's training step and KV-cached sampling, beside PyTorch. ``python benchmarks/language_model.py``.

The same model (sizes, rotary positions, RMSNorm, SwiGLU), the same minibatch and AdamW with clipping; PyTorch eager.
Both sides run in turn in one process; each figure is the best of its rounds, each ratio the median of pairs. Parameters
are copied over, and the two losses compared, before anything is timed. Needs the extra ``bench`` and PyTorch.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

from collapse_jax.functional import functional
from collapse_jax.nets.decode import Decoding, decode
from collapse_jax.nets.transformer import BASE, Size, Transformer, empty_cache, initial

V = 69


class Peer(torch.nn.Module):
    """The same network in PyTorch."""

    def __init__(self, size: Size, params: Any):
        super().__init__()
        take = lambda x: torch.nn.Parameter(torch.tensor(np.asarray(x)))  # noqa: E731
        self.size = size
        self.embedding = take(params["embedding"])
        self.norm = take(params["norm"]["scale"])
        names = ("qkv", "out", "up", "down")
        self.blocks = torch.nn.ModuleList()
        for i in range(size.depth):
            block, made = params["blocks"][i], torch.nn.ParameterDict()
            for name in names:
                made[name] = take(np.asarray(block[name]["kernel"]).T.copy())
            for name in ("attention_norm", "feed_norm"):
                made[name] = take(block[name]["scale"])
            self.blocks.append(made)

    def forward(self, tokens: torch.Tensor, cache: Any = None, position: int = 0) -> torch.Tensor:
        """Logits; `cache` holds the keys and values of what came before `position`."""
        size, (rows, length) = self.size, tokens.shape
        frequency = BASE ** (-torch.arange(0, size.head, 2) / size.head)
        angle = torch.arange(position, position + length)[:, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        x = self.embedding[tokens]
        for i, block in enumerate(self.blocks):
            normed = F.rms_norm(x, (size.width,), block["attention_norm"], 1e-6)
            heads = F.linear(normed, block["qkv"]).view(rows, length, -1, size.head).transpose(1, 2)
            q, k, v = heads.split((size.heads, size.kv_heads, size.kv_heads), 1)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            if cache is not None:
                cache[i][0][:, :, position : position + length] = k
                cache[i][1][:, :, position : position + length] = v
                k, v = (part[:, :, : position + length] for part in cache[i])
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
            x = x + F.linear(mixed.transpose(1, 2).reshape(rows, length, -1), block["out"])
            gate, up = F.linear(F.rms_norm(x, (size.width,), block["feed_norm"], 1e-6), block["up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, block["down"])
        return F.linear(F.rms_norm(x, (size.width,), self.norm, 1e-6), self.embedding[:V])


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def ours(size: Size) -> tuple[Any, Callable[..., Any]]:
    by_nnx, apply = functional(lambda rngs: Transformer(V, size, rngs=rngs))
    key = jax.random.key(0)
    return initial(key, jax.eval_shape(by_nnx, key), size.depth), apply


def shifted(rows: Any) -> Any:
    return np.concatenate([np.full((len(rows), 1), V), rows[:, :-1]], 1)


def training(size: Size, batch: int, length: int, steps: int, rounds: int, chains: int = 1) -> dict[str, Any]:
    """Seconds a step a chain, of ours and of PyTorch's."""
    params, apply = ours(size)
    rows = np.random.default_rng(0).integers(0, V, (batch, length))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b2=0.99, weight_decay=0.1))

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        logits = apply(params, jnp.asarray(shifted(rows)))[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows).mean()

    def fit(params: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]

    many = jax.tree.map(lambda x: jnp.stack([x] * chains), params)
    compiled = jax.jit(jax.vmap(fit)).lower(many).compile()
    peer = Peer(size, params)
    tokens, labels = torch.tensor(shifted(rows)), torch.tensor(rows).reshape(-1)
    theirs = F.cross_entropy(peer(tokens).reshape(-1, V), labels)
    np.testing.assert_allclose(float(theirs), float(loss(params, rows)), rtol=1e-4)
    adamw = torch.optim.AdamW(peer.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1)

    def peer_steps() -> None:
        for _ in range(steps):
            adamw.zero_grad()
            F.cross_entropy(peer(tokens).reshape(-1, V), labels).backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            adamw.step()

    times = in_turn(lambda: jax.block_until_ready(compiled(many)), peer_steps, rounds)
    weights = sum(x.size for x in jax.tree.leaves(params))
    flops = (
        6 * weights * batch * length + 6 * size.depth * batch * length**2 * size.width
    )  # half of attention is masked
    name = f"training step, d={size.width}, {size.depth} layers, {batch} x {length}, {chains} chain(s)"
    return told(name, times, steps * chains, steps, flops)


def sampling(size: Size, rows: int, length: int, rounds: int, at_once: int = 64) -> dict[str, Any]:
    """Seconds for all rows."""
    params, apply = ours(size)
    empty, none = empty_cache(size, at_once, length, jnp.float32), jnp.zeros((at_once, 0), jnp.int32)

    def draw(params: Any, key: jax.Array) -> jax.Array:
        some = lambda key: decode(apply, params, key, empty, V, none, length, Decoding())  # noqa: E731
        return jax.lax.map(some, jax.random.split(key, rows // at_once))

    compiled = jax.jit(draw).lower(params, jax.random.key(0)).compile()
    peer = Peer(size, params)

    @torch.inference_mode()
    def peer_draw() -> torch.Tensor:
        shape = (rows, size.kv_heads, length, size.head)
        cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(size.depth)]
        symbol, seen = torch.full((rows, 1), V), []
        for position in range(length):
            share = peer(symbol, cache, position)[:, -1].softmax(-1)
            symbol = torch.multinomial(share, 1)
            seen.append(symbol)
        return torch.cat(seen, 1)

    times = in_turn(lambda: jax.block_until_ready(compiled(params, jax.random.key(1))), peer_draw, rounds)
    weights = sum(x.size for x in jax.tree.leaves(params))
    flops = rows * length * (2 * weights + 2 * length * size.depth * size.width)
    return told(f"sampling, {rows} rows x {length}", times, 1, 1, flops)


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> np.ndarray:
    ours(), theirs()
    times = []
    for _ in range(rounds):
        pair = []
        for call in (ours, theirs):
            begin = time.perf_counter()
            call()
            pair.append(time.perf_counter() - begin)
        times.append(pair)
    return np.array(times)


def matmul_rate(rounds: int = 5, n: int = 1024) -> float:
    """Floating-point operations a second of large products on this machine."""
    a = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a).lower(a).compile()
    seconds = [timed(lambda: jax.block_until_ready(product(a))) for _ in range(rounds)]
    return 2 * n**3 / min(seconds)


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def told(name: str, times: np.ndarray, our_units: int, their_units: int, flops: float) -> dict[str, Any]:
    mine, theirs = times[:, 0] / our_units, times[:, 1] / their_units
    rate = matmul_rate()
    return {
        "job": name,
        "ours_ms": 1e3 * float(mine.min()),
        "torch_ms": 1e3 * float(theirs.min()),
        "ratio": float(np.median(theirs / mine)),
        "share_of_matmul_rate": flops / float(mine.min()) / rate,
        "torch_share": flops / float(theirs.min()) / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    tiny, larger, rounds = Size(64, 2, 2, 2, 176), Size(256, 4, 4, 4, 704), arguments.rounds
    jobs = (
        partial(training, tiny, 32, 64, 20, rounds),
        partial(training, tiny, 32, 64, 5, rounds, chains=16),
        partial(training, larger, 32, 64, 3, rounds),
        partial(sampling, tiny, 256, 64, rounds),
    )
    results = []
    for job in jobs:
        results.append(job())
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in results[-1].items()}, flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
