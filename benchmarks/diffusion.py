"""Training steps and sampling of diffusion models, beside PyTorch. ``python benchmarks/diffusion.py``.

The same networks (MLP, DiT, U-Net), the same minibatch, noise drawn in every step, AdamW with clipping and an average
of the weights; PyTorch eager. Both sides run in turn in one process; each figure is the best of its rounds, each ratio
the median of pairs. Parameters are copied over, and what the two networks say compared, before anything is timed. Needs
the extra ``bench`` and PyTorch. ``--ours`` runs without PyTorch (on an accelerator, say).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from side_by_side import in_turn, options, run, told_of

from collapse_jax.core import batching
from collapse_jax.core.random import draw_normals
from collapse_jax.training import diffusion_objectives, diffusion_samplers
from collapse_jax.training.nets.denoiser import DEFAULTS, make_denoiser
from collapse_jax.training.sgd import AveragedParams, average_params

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None  # type: ignore[assignment]

FLOW = diffusion_objectives.flow_objective()
FREQUENCIES = np.geomspace(1.0, 1000.0, 32)


def linear(p: Any, x: Any) -> Any:
    """A map of ours on PyTorch's tensors."""
    return F.linear(x, p["kernel"].T, p["bias"])


def mlp(p: Any, x: Any, t: Any, shape: Any) -> Any:
    angle = np.pi * t[:, None] * torch.arange(1, 5)
    h = torch.cat([x, t[:, None], angle.cos(), angle.sin()], 1)
    for layer in p["hidden"].values():
        h = F.silu(linear(layer, h))
    return linear(p["out"], h)


def told(p: Any, t: Any) -> Any:
    angle = t[:, None] * torch.tensor(FREQUENCIES, dtype=torch.float32)
    return linear(p["mix"], F.silu(linear(p["up"], torch.cat([angle.cos(), angle.sin()], 1))))


def dit(p: Any, x: Any, t: Any, shape: Any) -> Any:
    """With PyTorch's fused norms and attention."""
    from collapse_jax.training.nets.dit import position_waves

    size, (height, width, channels) = DEFAULTS["dit"], shape
    side, rows = size.patch, len(x)
    down, across = height // side, width // side
    grid = x.view(rows, down, side, across, side, channels).transpose(2, 3).reshape(rows, down * across, -1)
    stream = linear(p["read"], grid) + torch.tensor(position_waves(down, across, size.width), dtype=torch.float32)
    say = linear(p["modulate"], F.silu(told(p["time_and_label"], t))).view(rows, -1, 1, size.width).unbind(1)
    norm = lambda x, scale, shift: F.layer_norm(x, (size.width,), eps=1e-6) * (1 + scale) + shift  # noqa: E731
    for i, block in p["blocks"].items():
        shift, scale, gate, shift_feed, scale_feed, gate_feed = say[6 * i : 6 * i + 6]
        qkv = linear(block["qkv"], norm(stream, scale, shift)).view(rows, down * across, 3, size.heads, -1)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).reshape(stream.shape)
        stream = stream + gate * linear(block["out"], mixed)
        up = F.gelu(linear(block["up"], norm(stream, scale_feed, shift_feed)), approximate="tanh")
        stream = stream + gate_feed * linear(block["down"], up)
    said = linear(p["write"], norm(stream, say[-1], say[-2]))
    return said.view(rows, down, across, side, side, channels).transpose(2, 3).reshape(x.shape)


def convolution(p: Any, x: Any) -> Any:
    """PyTorch's own, channels first."""
    kernel = p["map"]["kernel"]
    return F.conv2d(x, kernel.view(3, 3, -1, kernel.shape[1]).permute(3, 2, 0, 1), p["map"]["bias"], padding=1)


def pointwise(p: Any, x: Any) -> Any:
    return F.conv2d(x, p["kernel"].T[:, :, None, None], p["bias"])


def unet(p: Any, x: Any, t: Any, shape: Any) -> Any:
    height, width, channels = shape
    say = F.silu(told(p["time_and_label"], t))
    norm = lambda p, x: F.group_norm(x, 8, p.get("scale"), p.get("bias"), 1e-6)  # noqa: E731

    def block(p: Any, x: Any) -> Any:
        h = convolution(p["first"], F.silu(norm(p["norm"], x)))
        scale, shift = linear(p["modulate"], say)[:, :, None, None].chunk(2, 1)
        h = norm({}, h) * (1 + scale) + shift
        x = pointwise(p["skip"], x) if "skip" in p else x
        return x + convolution(p["second"], F.silu(h))

    image, kept = convolution(p["read"], x.view(-1, height, width, channels).permute(0, 3, 1, 2)), []
    for i in p["down"]:
        if i:
            rows, c, h, w = image.shape
            square = image.view(rows, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
            image = pointwise(p["halve"][i - 1], square.reshape(rows, 4 * c, h // 2, w // 2))
        image = block(p["down"][i], image)
        kept.append(image)
    rows, c, h, w = image.shape
    q, k, v = (
        pointwise(p["attend"]["qkv"], norm(p["attend"]["norm"], image))
        .view(rows, 3, c, h * w)
        .transpose(2, 3)
        .unbind(1)
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(image.shape)
    image = image + pointwise(p["attend"]["out"], mixed)
    for i in reversed(range(len(kept))):
        image = block(p["up"][i], torch.cat([image, kept[i]], 1))
        if i:
            doubled = pointwise(p["double"][i - 1], image)
            rows, c, h, w = doubled.shape
            square = doubled.view(rows, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
            image = square.reshape(rows, c // 4, 2 * h, 2 * w)
    said = convolution(p["last"], F.silu(norm(p["norm"], image)))
    return said.permute(0, 2, 3, 1).reshape(len(x), -1)


PEERS = {"mlp": mlp, "dit": dit, "unet": unet}


def made(net: str, shape: tuple[int, int, int], width: int | None = None) -> tuple[Any, Callable[..., Any]]:
    """Parameters of ours, none of them 0, and the network."""
    init, apply = make_denoiser(net, int(np.prod(shape)), shape, {"width": width}, 0, jnp.float32)
    leaves, tree = jax.tree.flatten(init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x + 0.02 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]), apply


def loss(apply: Any, params: Any, key: jax.Array, rows: jax.Array) -> jax.Array:
    key_time, key_noise = jax.random.split(key)
    sigma = FLOW.levels(jax.random.uniform(key_time, rows.shape[:1]))
    x, target = diffusion_objectives.noise_rows(FLOW, rows, draw_normals(key_noise, rows.shape), sigma)
    return jnp.mean((apply(params, x, FLOW.path(sigma)[0]) - target) ** 2)


def training(
    net: str,
    shape: tuple[int, int, int],
    batch: int,
    steps: int,
    rounds: int,
    chains: int = 1,
    width: int | None = None,
) -> dict[str, Any]:
    """Milliseconds a step a chain, of ours and of PyTorch's."""
    params, apply = made(net, shape, width)
    rows = np.random.default_rng(0).normal(size=(batch, int(np.prod(shape)))).astype(np.float32)
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b2=0.99, weight_decay=0.0))
    optimizer = average_params(inner, 0.99)

    def fit(params: Any, key: jax.Array) -> Any:
        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(lambda now: loss(apply, now, key, rows))(params.now)
            updates, state = optimizer.update(AveragedParams(grads, None), state, params)
            return (optax.apply_updates(params, updates), state), None

        both = AveragedParams(params, params)
        return jax.lax.scan(step, (both, optimizer.init(both)), jax.random.split(key, steps))[0][0]

    many = params if chains == 1 else jax.tree.map(lambda x: jnp.stack([x] * chains), params)
    keys = jax.random.key(2) if chains == 1 else jax.random.split(jax.random.key(2), chains)
    compiled = jax.jit(fit if chains == 1 else jax.vmap(fit)).lower(many, keys).compile()
    ours = lambda: jax.block_until_ready(compiled(many, keys))  # noqa: E731
    weights = sum(x.size for x in jax.tree.leaves(params))
    name = f"training step, {net}, {'x'.join(map(str, shape))}, {weights} weights, batch {batch}, {chains} chain(s)"
    return told_of(
        name, in_turn([ours, peer_training(net, shape, params, apply, rows, steps)], rounds), steps * chains, steps
    )


def peer_training(
    net: str, shape: Any, params: Any, apply: Any, rows: np.ndarray, steps: int
) -> Callable[[], Any] | None:
    if torch is None:
        return None
    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(np.asarray(x))), params)
    weights = jax.tree.leaves(theirs)
    agree(net, shape, params, theirs, apply, rows)
    adamw, data = torch.optim.AdamW(weights, 1e-3, (0.9, 0.99), weight_decay=0.0), torch.tensor(rows)
    average = [x.detach().clone() for x in weights]

    def go() -> None:
        for _ in range(steps):
            t, noise = torch.rand(len(data)), torch.randn_like(data)
            x = t[:, None] * data + (1 - t[:, None]) * noise
            adamw.zero_grad()
            F.mse_loss(PEERS[net](theirs, x, t, shape), data - noise).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            adamw.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 0.01)

    return go


def agree(net: str, shape: Any, params: Any, theirs: Any, apply: Any, rows: np.ndarray) -> None:
    """What the two networks say of some rows."""
    some, t = rows[:8], np.linspace(0, 1, 8, dtype=np.float32)
    with torch.inference_mode():
        peer = PEERS[net](theirs, torch.tensor(some), torch.tensor(t), shape).numpy()
    np.testing.assert_allclose(apply(params, some, t), peer, rtol=1e-3, atol=1e-3)


def sampling(
    net: str,
    shape: tuple[int, int, int],
    num: int,
    steps: int,
    rounds: int,
    at_once: int = 2048,
    width: int | None = None,
) -> dict[str, Any]:
    """Milliseconds for `num` images in `steps` steps of Euler's rule; ours take `at_once` images at a time."""
    params, apply = made(net, shape, width)
    dim, sigma = int(np.prod(shape)), jnp.asarray(FLOW.grid(steps), jnp.float32)

    def draw(params: Any, key: jax.Array) -> jax.Array:
        def estimate(x: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
            sigma = jnp.full(x.shape[:1], sigma)
            return diffusion_objectives.estimate_row_and_noise(FLOW, x, apply(params, x, FLOW.path(sigma)[0]), sigma)

        some = lambda key, rows: diffusion_samplers.sample_rows(estimate, FLOW.path, key, (rows, dim), sigma, "ddim")  # noqa: E731
        return batching.draw_in_batches(some, key, num, at_once)

    compiled = jax.jit(draw).lower(params, jax.random.key(0)).compile()
    ours = lambda: jax.block_until_ready(compiled(params, jax.random.key(1)))  # noqa: E731
    weights = sum(x.size for x in jax.tree.leaves(params))
    name = f"sampling, {net}, {'x'.join(map(str, shape))}, {weights} weights, {num} images, {steps} steps"
    return told_of(name, in_turn([ours, peer_sampling(net, shape, params, num, steps)], rounds), 1, 1)


def peer_sampling(net: str, shape: Any, params: Any, num: int, steps: int) -> Callable[[], Any] | None:
    if torch is None:
        return None
    theirs = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)

    @torch.inference_mode()
    def go() -> Any:
        x = torch.randn(num, int(np.prod(shape)))
        for i in range(steps):
            x = x + PEERS[net](theirs, x, torch.full((num,), i / steps), shape) / steps
        return x

    return go


def main() -> None:
    arguments = options(__doc__, alone=True).parse_args()
    if arguments.ours:
        globals()["torch"] = None
    rounds, small, large = arguments.rounds, (8, 8, 1), (28, 28, 1)
    jobs = {
        "mlp 1": partial(training, "mlp", small, 128, 200, rounds),
        "mlp 16": partial(training, "mlp", small, 128, 50, rounds, chains=16),
        "mlp sampling": partial(sampling, "mlp", small, 1500, 50, rounds),
        "narrow mlp 1": partial(training, "mlp", small, 128, 200, rounds, width=128),
        "narrow mlp 16": partial(training, "mlp", small, 128, 50, rounds, chains=16, width=128),
        "narrow mlp sampling": partial(sampling, "mlp", small, 1500, 50, rounds, width=128),
        "dit 1": partial(training, "dit", large, 64, 5, rounds),
        "dit sampling": partial(sampling, "dit", large, 128, 10, rounds, at_once=64),
        "unet 1": partial(training, "unet", large, 64, 3, rounds),
    }
    run(jobs, arguments)


if __name__ == "__main__":
    main()
