"""Training steps of encoders beside PyTorch, and evaluation beside the rest of a generation.

``python benchmarks/self_supervised.py``. VICReg on 8x8 images, an MLP and a head: the same network, two random views of
the same minibatch in every step (PyTorch's by ``affine_grid`` and ``grid_sample``), AdamW with clipping; PyTorch eager.
Both sides run in turn in one process; each figure is the best of its rounds, each ratio the median of pairs. Parameters
are copied over, and embeddings and losses compared, before anything is timed. Needs the extra ``bench`` and PyTorch.
``--ours`` runs without PyTorch (on an accelerator, say).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion import linear
from side_by_side import in_turn, options, run, told_of

from collapse_jax import data, settings
from collapse_jax.core import batch
from collapse_jax.core.random import stream
from collapse_jax.training import augmentation, ssl_objectives
from collapse_jax.training.nets.encoders import make_encoder
from collapse_jax.training.sgd import make_adamw

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None  # type: ignore[assignment]

SHAPE, FEATURES = (8, 8, 1), 64
STRENGTH, PRETEXT = augmentation.AugmentationStrength(), ssl_objectives.vicreg()


def perceptron(p: Any, x: Any) -> Any:
    """Apply our perceptron to PyTorch's tensors: GELU layers, the hidden ones normalised where there are norms."""
    last = len(p["layers"]) - 1
    for i, layer in p["layers"].items():
        x = linear(layer, x)
        if i < last:
            norm = p.get("norms", {}).get(i)
            x = x if norm is None else F.layer_norm(x, x.shape[1:], norm["scale"], norm["bias"], 1e-6)
            x = F.gelu(x, approximate="tanh")
    return x


def embedded(p: Any, x: Any) -> Any:
    return perceptron(p["heads"]["project"], perceptron(p["encoder"], 2 * x - 1))


def vicreg(a: Any, b: Any) -> Any:
    loss = 25 * F.mse_loss(a, b)
    for z in (a, b):
        z = z - z.mean(0)
        covariance = z.T @ z / (len(z) - 1)
        variance = covariance.diagonal()
        loss = loss + 12.5 * F.relu(1 - (variance + 1e-4).sqrt()).mean()
        loss = loss + ((covariance**2).sum() - (variance**2).sum()) / z.shape[1]
    return loss


def view(x: Any) -> Any:
    """A random view of each image."""
    (height, width, channels), rows = SHAPE, len(x)
    either = 2 * torch.rand(7, rows) - 1
    scale, angle = 1 - STRENGTH.crop * (0.5 + 0.5 * either[0]), STRENGTH.turn * either[3]
    cos, sin, (down, across) = scale * angle.cos(), scale * angle.sin(), 2 * STRENGTH.shift * either[1:3]
    turn = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    image = x.view(rows, height, width, channels).permute(0, 3, 1, 2)
    image = F.grid_sample(image, F.affine_grid(turn, image.shape, align_corners=False), align_corners=False)
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + (1 + STRENGTH.contrast * either[4])[:, None, None, None] * (image - mean)
    image = image + STRENGTH.noise * torch.randn_like(image)
    within = lambda n, place: ((torch.arange(n) + 0.5) / n - place[:, None]).abs() < STRENGTH.mask / 2  # noqa: E731
    place = 0.5 + 0.5 * either[5:7]
    square = within(height, place[0])[:, None, :, None] & within(width, place[1])[:, None, None]
    return image.masked_fill(square, 0.0).permute(0, 2, 3, 1).reshape(x.shape)


def training(num_rows: int, steps: int, rounds: int, chains: int = 1) -> dict[str, Any]:
    """Milliseconds a step a chain, of ours and of PyTorch's."""
    nets = make_encoder("mlp", SHAPE, FEATURES, {}, PRETEXT.heads(FEATURES, int(np.prod(SHAPE))))
    params = nets.init(jax.random.key(0))
    rows = np.random.default_rng(0).uniform(size=(num_rows, int(np.prod(SHAPE)))).astype(np.float32)
    optimizer, see = make_adamw(1e-3, "constant", 0, 0.0, 1.0, steps), partial(augmentation.draw_view, STRENGTH, SHAPE)

    def fit(params: Any, key: jax.Array) -> Any:
        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(lambda p: PRETEXT.loss(nets, p, None, key, rows, see))(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]

    many = jax.tree.map(lambda x: jnp.stack([x] * chains), params)
    keys = jax.random.split(jax.random.key(2), chains)
    compiled = jax.jit(jax.vmap(fit)).lower(many, keys).compile()
    ours = lambda: jax.block_until_ready(compiled(many, keys))  # noqa: E731
    weights = sum(x.size for x in jax.tree.leaves(params))
    name = f"training step, vicreg, mlp of {weights} weights, 8x8, batch {num_rows}, {chains} chain(s)"
    return told_of(name, in_turn([ours, peer(nets, params, rows, steps)], rounds), steps * chains, steps)


def peer(nets: Any, params: Any, rows: np.ndarray, steps: int) -> Callable[[], Any] | None:
    if torch is None:
        return None
    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(np.asarray(x))), params)
    weights, x = jax.tree.leaves(theirs), torch.tensor(rows)
    mine = nets.head(params, "project", nets.encode(params["encoder"], rows))
    said = embedded(theirs, x)
    np.testing.assert_allclose(mine, said.detach(), rtol=1e-3, atol=1e-3)
    loss = ssl_objectives.vicreg_loss(*jnp.split(mine, 2), 25.0, 25.0, 1.0)
    np.testing.assert_allclose(loss, vicreg(*said.chunk(2)).item(), rtol=1e-3)
    optimizer = torch.optim.AdamW(weights, 1e-3, (0.9, 0.99), weight_decay=0.0)

    def go() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            vicreg(*embedded(theirs, torch.cat([view(x), view(x)])).chunk(2)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()

    return go


def evaluation(rounds: int, num: int = 1400) -> dict[str, Any]:
    """Seconds of one generation of one chain, and the share of them that judging its encoder takes."""
    source = data.digits(pca=None, labels=True)
    generator = settings.diffusion(source, steps=2000, learning_rate=0.006, sampler_steps=24, num_test=359)
    setting = settings.self_supervised(generator, num_test=359)
    world, key, others = setting.world(), jax.random.key(0), {metric.name for metric in generator.metrics}
    assert setting.init is not None

    def judged(params: Any, new: jax.Array) -> dict[str, jax.Array]:  # the generator's metrics are dead code here
        seen = setting.observe(stream(key, "observe"), world, params, None, new)
        return {name: value for name, value in seen.items() if name not in others}

    train, start = batch.make_batch(setting.sample_real(key, world, num)), setting.init(key, world)
    parts: dict[str, Callable[..., Any]] = {
        "fit": jax.jit(lambda train, start: setting.fit(key, train, start)),
        "sample": jax.jit(lambda params: setting.sample(key, params, num)),
        "judge": jax.jit(judged),
    }
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        params = jax.block_until_ready(parts["fit"](train, start))
        after_fit = time.perf_counter()
        new = jax.block_until_ready(parts["sample"](params))
        after_sample = time.perf_counter()
        jax.block_until_ready(parts["judge"](params, new))
        times.append([after_fit - begin, after_sample - after_fit, time.perf_counter() - after_sample])
    fit, sample, judge = np.median(times[1:], axis=0)
    share = float(np.median([t[2] / sum(t) for t in times[1:]]))
    return {"job": "evaluation of the encoder, configs/self_supervised/quick.yaml", "fit_s": fit, "sample_s": sample,
            "judge_s": judge, "share": share}  # fmt: skip


def main() -> None:
    arguments = options(__doc__, alone=True).parse_args()
    if arguments.ours:
        globals()["torch"] = None
    jobs = {
        "step 1": partial(training, 256, 100, arguments.rounds),
        "step 16": partial(training, 256, 25, arguments.rounds, chains=16),
        "evaluation": partial(evaluation, min(arguments.rounds, 3)),
    }
    run(jobs, arguments)


if __name__ == "__main__":
    main()
