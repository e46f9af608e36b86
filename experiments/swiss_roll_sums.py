"""Recompute a published test loss whose sums scikit-learn gets wrong: ``python -m experiments.swiss_roll_sums``.

The swiss roll under accumulate, bandwidth 0.1, n = 32, fit 20, as published with arXiv 2410.16713: chains by the same
protocol (NumPy's generator seeded with 0 to 99, scikit-learn's roll and samples), whose last fit is scored in several
ways. From 41 rows on ``KernelDensity`` sums over a tree, between bounds that it takes from each other as logarithms;
far from all rows that leaves an error, whatever ``atol`` and ``rtol`` are (both are 0 by default). With all rows in one
leaf its sums are exact.
"""

import numpy as np
from scipy.special import logsumexp
from sklearn.datasets import make_swiss_roll
from sklearn.neighbors import KernelDensity

import collapse_jax as cj
from collapse_jax import data, settings
from experiments.kde import read_published

BANDWIDTH, NUM, FIT, RUNS, NUM_TEST = 0.1, 32, 20, 100, 500


def training_and_test_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the last fit of a published chain saw, and its test rows."""
    np.random.seed(seed)  # noqa: NPY002 - the generator of the published runs
    rows, test = (make_swiss_roll(num, noise=0.05)[0] for num in (NUM, NUM_TEST))
    for _ in range(FIT - 1):
        new = KernelDensity(bandwidth=BANDWIDTH).fit(rows).sample(NUM)
        rows = np.concatenate([rows, new])
    return rows, test


def exact_loss(rows: np.ndarray, test: np.ndarray) -> float:
    """Return the mean negative log density of the test rows, by all pairs in float64."""
    squared = ((test[:, None] - rows) ** 2).sum(2) / (2 * BANDWIDTH**2)
    log_norm = np.log(len(rows)) + rows.shape[1] * np.log(BANDWIDTH * np.sqrt(2 * np.pi))
    return float(log_norm - logsumexp(-squared, axis=1).mean())


def tree_loss(rows: np.ndarray, test: np.ndarray, **options: float) -> float:
    """Return the same by scikit-learn."""
    return -float(KernelDensity(bandwidth=BANDWIDTH, **options).fit(rows).score_samples(test).mean())


def main() -> None:
    """Print the means over runs, and their standard errors."""
    chains = [training_and_test_rows(seed) for seed in range(RUNS)]
    setting = settings.kde(BANDWIDTH, num_test=NUM_TEST, source=data.swiss_roll(per_chain=True))
    ours = cj.run(setting, "accumulate", num_samples=NUM, num_generations=FIT, num_chains=RUNS, metrics=["test_nll"])
    cell = {
        "source": "swiss_roll",
        "bandwidth": BANDWIDTH,
        "policy": "accumulate",
        "num_samples": NUM,
        "generation": FIT,
    }
    (published,) = [(mean, error) for found, mean, error in read_published() if found == cell]
    losses = {
        "published (scikit-learn), 100 runs": None,
        "its chains, exact (NumPy, float64)": [exact_loss(*c) for c in chains],
        "its chains, scikit-learn as it is (atol = rtol = 0)": [tree_loss(*c) for c in chains],
        "its chains, scikit-learn, rtol = 1e-8": [tree_loss(*c, rtol=1e-8) for c in chains],
        "its chains, scikit-learn, all rows in one leaf": [tree_loss(*c, leaf_size=NUM * FIT) for c in chains],
        "collapse_jax, chains of its own": ours.test_nll.isel(generation=-1).to_numpy().ravel(),
    }
    for name, values in losses.items():
        mean, error = published if values is None else (np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5)
        print(f"{name:52} {mean:7.1f} +- {error:.1f}")


if __name__ == "__main__":
    main()
