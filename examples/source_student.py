"""How to add a source of real rows: Student's law, whose tails are heavy.

Run it: ``python examples/source_student.py``.
"""

import jax
import numpy as np
from jax.scipy import stats

import collapse_jax as cj
from collapse_jax import data, policies, settings
from collapse_jax.calls import recorded
from collapse_jax.check import integer, number
from collapse_jax.data.toy import held_out_of
from collapse_jax.types import Array, Key, Source, Tree


@recorded
def student(dim: int = 1, dof: float = 5.0) -> Source:
    """Independent columns of Student's law, mean 0 and variance dof / (dof - 2).

    Args:
      dim: number of columns.
      dof: degrees of freedom, above 2.

    Raises:
      ValueError: a number out of range.
    """
    dim = integer("student", "dim", dim, 1)
    dof = number("student", "dof", dof, "a number above 2", lambda x: x > 2)

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        return jax.random.t(key, dof, (num, dim))

    return Source(
        name="student",
        dim=dim,
        arrays=(),  # a table would stand here: it travels to compiled code as an argument
        draw=draw,
        held_out=held_out_of("student", draw, ()),
        mean=np.zeros(dim),
        covariance=dof / (dof - 2) * np.eye(dim),
        log_density=lambda arrays, rows: stats.t.logpdf(rows, dof).sum(1),
    )


data.REGISTRY["student"] = student


def main() -> None:
    """A kernel density estimate and a normal law, fitted to heavy tails again and again: who keeps the likelihood?"""
    for setting in (settings.kde("scott", source=student()), settings.gaussian(source=student())):
        runs = cj.run(setting, policies.accumulate(), num_samples=100, num_generations=10, num_chains=50)
        first, last = (float(runs.test_nll.median("chain").sel(generation=g)) for g in (1, 10))
        print(f"{setting.name}: negative log likelihood of held-out rows {first:.2f}, at generation 10 {last:.2f}")


if __name__ == "__main__":
    main()
