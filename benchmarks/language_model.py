"""A transformer's training step and KV-cached sampling, beside PyTorch. ``python benchmarks/language_model.py``.

The same model (sizes, rotary positions, RMSNorm, SwiGLU, tied embeddings), minibatches of the same rows, AdamW with
clipping; PyTorch eager, and compiled too where the machine has a C++ compiler. Both sides run in turn in one process,
on as many cores as it may use; each figure is the best of its rounds, each ratio the median over rounds. Parameters are
copied over, and the two losses compared, before anything is timed. Needs the extra ``bench``.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from side_by_side import in_turn, options, run, timed

from collapse_jax import policies, settings
from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.training.nets.sampling import Decoding
from collapse_jax.training.nets.sequence_model import SequenceModel, draw_rows, sequence_loss
from collapse_jax.training.nets.transformer import BASE, PRESETS, Transformer, TransformerSize, draw_initial_parameters
from collapse_jax.training.nnx_functional import make_functional
from collapse_jax.training.sgd import fit_sgd, make_adamw
from collapse_jax.types import Policy, Setting

V = 69


class Peer(torch.nn.Module):
    """The network of the benchmark in PyTorch."""

    def __init__(self, size: TransformerSize, params: Any, longest: int):
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
        frequency = BASE ** (-torch.arange(0, size.head, 2) / size.head)
        angle = torch.arange(longest)[:, None] * frequency
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, tokens: torch.Tensor, cache: Any = None, position: int = 0) -> torch.Tensor:
        """Logits; `cache` holds the keys and values of what came before `position`."""
        size, (rows, length) = self.size, tokens.shape
        cos, sin = (turn[position : position + length] for turn in (self.cos, self.sin))
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


def ours(size: TransformerSize, length: int, at_once: int = 64) -> tuple[Any, SequenceModel]:
    by_nnx, apply = make_functional(lambda rngs: Transformer(V, size, rngs=rngs))
    key = jax.random.key(0)
    params = draw_initial_parameters(key, jax.eval_shape(by_nnx, key), size.depth)
    return params, SequenceModel(apply, V, size, jnp.float32, length, at_once)


def shifted(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full((len(rows), 1), V), rows[:, :-1]], 1)


def training(size: TransformerSize, num_rows: int, length: int, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds a step."""
    params, network = ours(size, length)
    rows = np.random.default_rng(0).integers(0, V, (1024, length))
    optimizer = partial(make_adamw, 1e-3, "constant", 0, 0.1, 1.0)
    fit = fit_sgd(partial(sequence_loss, network), optimizer, init=lambda _: params, steps=steps, batch_size=num_rows)
    train = batch.make_batch(jnp.asarray(rows, jnp.uint8))
    compiled = jax.jit(fit).lower(jax.random.key(1), train, None).compile()
    peer, held = Peer(size, params, length), torch.tensor(rows)
    theirs = F.cross_entropy(peer(shifted(held)).reshape(-1, V), held.reshape(-1)).item()
    np.testing.assert_allclose(
        theirs, float(sequence_loss(network, params, jax.random.key(0), jnp.asarray(rows))), rtol=1e-4
    )
    adam = torch.optim.AdamW(peer.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1)

    def peer_steps(model: Callable[..., torch.Tensor]) -> None:
        for _ in range(steps):
            chosen = held[torch.randint(len(held), (num_rows,))]
            adam.zero_grad()
            F.cross_entropy(model(shifted(chosen)).reshape(-1, V), chosen.reshape(-1)).backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            adam.step()

    calls = [lambda: jax.block_until_ready(compiled(jax.random.key(1), train, None)), partial(peer_steps, peer)]
    if (built := torch_compiled(peer, shifted(held[:num_rows]))) is not None:
        calls.append(partial(peer_steps, built))
    weights = sum(x.size for x in jax.tree.leaves(params))
    flops = 6 * num_rows * length * (weights + size.depth * length * size.width)  # half of attention is masked
    return told(
        f"training step, d={size.width}, {size.depth} layers, {num_rows} x {length}", calls, rounds, steps, flops
    )


def torch_compiled(peer: Peer, tokens: torch.Tensor) -> Callable[..., torch.Tensor] | None:
    try:
        built = torch.compile(peer)
        built(tokens).sum().backward()
    except Exception as error:  # no C++ compiler, mostly
        print(f"torch.compile does not work here: {type(error).__name__}", flush=True)
        return None
    return built


def sampling(size: TransformerSize, rows: int, length: int, rounds: int) -> dict[str, Any]:
    """Seconds for all rows."""
    params, network = ours(size, length)
    sample = jax.jit(lambda params, key: draw_rows(network, params, key, rows, Decoding()))
    compiled = sample.lower(params, jax.random.key(0)).compile()
    peer = Peer(size, params, length)

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

    calls = [lambda: jax.block_until_ready(compiled(params, jax.random.key(1))), peer_draw]
    weights = sum(x.size for x in jax.tree.leaves(params))
    flops = rows * length * (2 * weights + 2 * length * size.depth * size.width)
    return told(f"sampling, {rows} rows x {length}", calls, rounds, 1, flops)


def chains(rounds: int, many: int = 16, steps: int = 20) -> dict[str, Any]:
    """Seconds a chain of a fit through the engine: of `many` chains, and of one alone."""
    setting = settings.language_model(steps=steps, warmup=2)
    run = [partial(run_plan, plan_of(setting, num)) for num in (many, 1)]
    times = in_turn(run, rounds) / [many, 1]
    return {
        "job": f"{many} chains at once",
        "a_chain_ms": 1e3 * float(times[:, 0].min()),
        "one_alone_ms": 1e3 * float(times[:, 1].min()),
        "ratio": float(np.median(times[:, 1] / times[:, 0])),
    }


def plan_of(setting: Setting, num_chains: int) -> Runner:
    options = Options(num_chains=num_chains, metrics=("test_nll_per_symbol",))
    return Runner(
        make_plan(make_grid(setting, policies.replace(), num_samples=256, num_generations=1), options), lambda _: None
    )


def run_plan(runner: Runner) -> None:
    for unit in runner.announce(runner.plan.units):
        runner.run_unit(unit)


def accumulating(rounds: int, generation: int = 20, num: int = 1000) -> dict[str, Any]:
    """Seconds of a late generation under accumulate and under replace, all metrics in it."""
    setting = settings.language_model(steps=100)
    world = setting.world()

    def made(policy: Policy) -> Callable[[], Any]:
        chain = make_chain(setting, policy, num_samples=num, num_generations=generation)

        def step(world: Any, state: Any, g: jax.Array) -> Any:
            state, new, seen = chain.emit(world, state, g)
            return chain.absorb(world, state, new, g), seen

        state = jax.jit(chain.init)(jax.random.key(0), world)
        compiled, g = jax.jit(step).lower(world, state, jnp.int32(1)).compile(), jnp.int32(generation)
        return lambda: jax.block_until_ready(compiled(world, state, g))

    times = in_turn([made(policies.accumulate()), made(policies.replace())], rounds)
    return {
        "job": f"generation {generation}, {num} rows, fixed steps",
        "accumulate_ms": 1e3 * float(times[:, 0].min()),
        "replace_ms": 1e3 * float(times[:, 1].min()),
        "ratio": float(np.median(times[:, 0] / times[:, 1])),
    }


def matmul_rate(rounds: int = 5, n: int = 1024) -> float:
    """Floating-point operations a second of large products on this machine."""
    a = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a).lower(a).compile()
    seconds = [timed(lambda: jax.block_until_ready(product(a))) for _ in range(rounds)]
    return 2 * n**3 / min(seconds)


def told(name: str, calls: list[Callable[[], Any]], rounds: int, units: int, flops: float) -> dict[str, Any]:
    """Return times of ours and of PyTorch, eager and perhaps compiled, and shares of the matrix-product rate."""
    times, rate = in_turn(calls, rounds) / units, matmul_rate()
    result: dict[str, Any] = {"job": name}
    for who, seconds in zip(("ours", "torch", "torch_compiled"), times.T, strict=False):
        result |= {f"{who}_ms": 1e3 * float(seconds.min()), f"{who}_share": flops / float(seconds.min()) / rate}
        if who != "ours":
            result[f"{who}_over_ours"] = float(np.median(seconds / times[:, 0]))
    return result


def main() -> None:
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tiny, larger, rounds = PRESETS["tiny"], TransformerSize(256, 4, 4, 4, 704), arguments.rounds
    jobs = {
        "tiny": partial(training, tiny, 32, 64, 20, rounds),
        "larger": partial(training, larger, 32, 64, 3, rounds),
        "sampling": partial(sampling, tiny, 256, 64, rounds),
        "chains": partial(chains, rounds),
        "accumulating": partial(accumulating, rounds),
    }
    run(jobs, arguments)


if __name__ == "__main__":
    main()
