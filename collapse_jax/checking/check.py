"""One call that tries a part against all the laws of its kind."""

import inspect
from typing import Any

from collapse_jax.checking.curators import laws_of_curators
from collapse_jax.checking.policies import laws_of_policies
from collapse_jax.checking.problems import Problem, try_laws
from collapse_jax.checking.settings import laws_of_settings, shapes_of_settings
from collapse_jax.checking.sources import laws_of_sources
from collapse_jax.core.errors import UsageError
from collapse_jax.types import Curator, Policy, Setting, Source


def check(part: Any, *, setting: Setting | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """Try a setting, a policy, a curator or a source against the laws of its kind.

    Closed forms take some seconds, for programs are compiled; networks take as long as their fits to nine rows do.

    Example:
      >>> import collapse_jax as cj
      >>> from collapse_jax.types import Policy
      >>> cj.check(cj.policies.window(k=2))
      ()
      >>> for problem in cj.check(Policy("doubled", fade=-1.0)):
      ...     print(problem)
      weights are multiplicities: at generation 2 a weight is -1

    Args:
      part: a ``Setting``, ``Policy``, ``Curator`` or ``Source``, or a factory of one that needs no argument.
      setting: whose rows a curator is tried on; default one of numbers that are judged by themselves.
      seed: of the random numbers.

    Returns:
      What is wrong, one ``Problem`` a line; empty where every law holds.

    Raises:
      UsageError: `part` is none of these.
    """
    if callable(part):
        try:
            inspect.signature(part).bind()
        except TypeError as error:
            raise UsageError(f"check: {getattr(part, '__name__', part)} is called without arguments: {error}") from None
    made = part() if callable(part) else part
    if isinstance(made, Setting):
        shapes = try_laws(shapes_of_settings(made, seed))
        return shapes or try_laws(laws_of_settings(made, seed))
    if isinstance(made, Policy):
        return try_laws(laws_of_policies(made, seed))
    if isinstance(made, Curator):
        return try_laws(laws_of_curators(made, setting, seed))
    if isinstance(made, Source):
        return try_laws(laws_of_sources(made, seed))
    raise UsageError(f"check: give a Setting, Policy, Curator or Source, not {type(made).__name__}")
