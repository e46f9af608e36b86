"""PyTorch: eager, one chain at a time; ``torch.func.vmap`` of the same step over chains; and that compiled.

A chain alone gives ``[generations, metrics]``, chains at once ``[chains, generations, metrics]``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Step = Callable[..., Any]


def _gaussian(rows: Any) -> tuple[Any, Any]:
    mean = rows.mean(0)
    centred = rows - mean
    covariance = centred.T @ centred / rows.shape[0]
    seen = torch.stack([(mean**2).sum(), covariance.trace() / rows.shape[1], torch.linalg.slogdet(covariance)[1]])
    return mean + torch.randn_like(rows) @ torch.linalg.cholesky(covariance).T, seen


def _kde(test: Any, bandwidth: float) -> Step:
    def step(rows: Any) -> tuple[Any, Any]:
        squares = ((test[:, None] - rows) ** 2).sum(2)
        log_kernel = torch.logsumexp(-squares / (2 * bandwidth**2), 1) - np.log(rows.shape[0])
        new = rows[torch.randint(rows.shape[0], rows.shape[:1])] + bandwidth * torch.randn_like(rows)
        return new, (np.log(2 * np.pi * bandwidth**2) - log_kernel.mean())[None]

    return step


def _linear(given: Any) -> tuple[Any, Any]:
    x, gram, fit = given
    fit = torch.linalg.solve(gram, x.T @ (x @ fit + torch.randn(x.shape[0])))
    return (x, gram, fit), ((fit - 1) ** 2).sum()[None]


def gaussian(how: str, seed: int, chains: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Squared error of the mean, trace and log determinant ratios under replace."""
    torch.manual_seed(seed)
    return _run(how, "gaussian", _gaussian, lambda: torch.randn(n, dim), chains, generations)


def kde(how: str, seed: int, chains: int, test: np.ndarray, n: int, generations: int, bandwidth: float) -> np.ndarray:
    """Test NLL under replace, rows of two columns."""
    torch.manual_seed(seed)
    step = _kde(torch.tensor(test, dtype=torch.float32), bandwidth)
    return _run(how, "kde", step, lambda: torch.randn(n, 2), chains, generations)


def linear_regression(how: str, seed: int, chains: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of label-only chains under replace."""
    torch.manual_seed(seed)

    def start() -> Any:
        x = torch.randn(n, dim)
        return x, x.T @ x, torch.ones(dim)

    return _run(how, "linear", _linear, start, chains, generations)


def discrete(how: str, seed: int, chains: int, num: int, n: int, generations: int) -> np.ndarray:
    """Entropy and symbols alive under replace; "vmap" stands for a batch of distributions."""
    torch.manual_seed(seed)

    def loop(share: Any) -> np.ndarray:
        out = []
        for _ in range(generations):
            share = torch.distributions.Multinomial(n, share).sample() / n
            out.append(torch.stack([torch.special.entr(share).sum(-1), (share > 0).sum(-1)], -1))
        return torch.stack(out, -2).numpy()

    if how == "eager":
        return np.stack([loop(torch.full((num,), 1 / num)) for _ in range(chains)])
    return loop(torch.full((chains, num), 1 / num))


def _run(how: str, name: str, step: Step, start: Callable[[], Any], chains: int, generations: int) -> np.ndarray:
    if how == "eager":
        return np.stack([_loop(step, start(), generations) for _ in range(chains)])
    starts = [start() for _ in range(chains)]
    many = tuple(map(torch.stack, zip(*starts, strict=True))) if isinstance(starts[0], tuple) else torch.stack(starts)
    over = torch.func.vmap(step, randomness="different")
    return _loop(_compiled(name, over) if how == "compile" else over, many, generations).swapaxes(0, 1)


_COMPILED: dict[str, Step] = {}


def _compiled(name: str, step: Step) -> Step:
    """Compiled once a name: the step of a name is always the same."""
    return _COMPILED.setdefault(name, torch.compile(step))


def _loop(step: Step, state: Any, generations: int) -> np.ndarray:
    out = []
    for _ in range(generations):
        state, seen = step(state)
        out.append(seen)
    return torch.stack(out).numpy()
