"""A linear probe that learns its own labels, on the digits' pixels and on what our own encoder makes of them.

``python experiments/encoder_features.py [--chains 20] [--steps 1000] [--out results/encoder_features.csv]``

The protocol of arXiv 2410.22812: features are frozen, a probe is fitted to labels, and the next generation's labels are
drawn from it. ``configs/self_supervised/probe_labels.yaml`` does so on pixels as they are; here an MLP learns the train
split by VICReg, without labels, and both inputs are standardised. The held-out digits are the same.

Accuracy at generations 1, 5 and 10, means of 20 chains (standard errors 0.006 at most):

    pixels    replace               0.962  0.916  0.864
              accumulate            0.962  0.956  0.955
              accumulate_subsample  0.962  0.942  0.933
    encoder   replace               0.982  0.953  0.923
              accumulate            0.982  0.978  0.978
              accumulate_subsample  0.982  0.973  0.967

So better features help every policy, and most where a probe sees its own labels alone: ten generations of "replace"
cost 0.10 on pixels and 0.06 on what the encoder makes of them.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import collapse_jax as cj
from collapse_jax import data, policies, settings
from collapse_jax.core import batch
from collapse_jax.data.tables import Split, make_empirical_source, standardize_split
from collapse_jax.training import augmentation, ssl_objectives
from collapse_jax.training.nets.encoders import make_encoder
from collapse_jax.training.sgd import fit_sgd, make_adamw
from collapse_jax.types import Source

FEATURES, HELD_OUT = 64, 359


def sources(steps: int) -> dict[str, Source]:
    """Pixels and features of the digits, standardised, the class in the last column; the split is the digits' own."""
    digits = data.digits(pca=None, labels=True)
    assert digits.shape is not None
    pixels = Split(np.asarray(digits.arrays), np.asarray(digits.held_out(HELD_OUT)))
    pretext = ssl_objectives.vicreg()
    nets = make_encoder("mlp", digits.shape, FEATURES, {}, pretext.heads(FEATURES, digits.dim - 1))
    view = partial(augmentation.draw_view, augmentation.AugmentationStrength(), digits.shape)
    fit = fit_sgd(
        lambda params, key, rows: pretext.loss(nets, params, None, key, rows[:, :-1], view),
        partial(make_adamw, 2e-3, "cosine", 50, 0.0, 1.0),
        init=nets.init,
        steps=steps,
        batch_size=128,
    )
    params = jax.jit(fit)(jax.random.key(0), batch.make_batch(jnp.asarray(pixels.train, float)), None)
    encode = jax.jit(partial(nets.encode, params["encoder"]))
    seen = Split(*(np.hstack([encode(rows[:, :-1]), rows[:, -1:]]) for rows in pixels))
    return {
        name: make_empirical_source(name, standardize_split(split, labels=True), classes=10)
        for name, split in {"pixels": pixels, "encoder": seen}.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("results/encoder_features.csv"))
    arguments = parser.parse_args()
    told = {}
    for name, source in sources(arguments.steps).items():
        runs = cj.sweep(
            settings.logistic_regression(source=source, ridge=1e-3, num_test=350),
            [policies.replace(), policies.accumulate(), policies.accumulate_subsample()],
            num_samples=1000,
            num_generations=10,
            num_chains=arguments.chains,
            metrics=("accuracy",),
        )
        told |= {(name, policy): runs.accuracy.sel(policy=policy) for policy in runs.policy.values}
    table = np.stack([runs.mean("chain").values for runs in told.values()], 1)
    error = max(float((runs.std("chain", ddof=1) / runs.sizes["chain"] ** 0.5).max()) for runs in told.values())
    header = ",".join(["generation", *(" ".join(pair) for pair in told)])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = np.column_stack([np.arange(1, len(table) + 1), table])
    np.savetxt(arguments.out, rows, delimiter=",", header=header, fmt="%.4f", comments="")
    print(arguments.out.read_text() + f"standard errors of these means: {error:.4f} at most")


if __name__ == "__main__":
    main()
