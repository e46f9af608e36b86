"""What the chains of a setting share, made once however many programs share it."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import is_traced, require_integer
from collapse_jax.types import Setting, Source, World

P = ParamSpec("P")


def count_test_rows(num_test: int | None, source: Source | None, default: int, low: int = 1) -> int:
    """Return the number of held-out rows of metrics: what is asked for, or `default`, or all where they are fewer.

    Args:
      num_test: what is asked for, or None.
      source: the real law; None for one whose rows never end.
      default: where nothing is asked for.
      low: the smallest number that makes sense.

    Raises:
      UsageError: `num_test` is no whole number of at least `low`.
    """
    if num_test is not None:
        return require_integer("num_test", num_test, low)
    known = getattr(source, "num_held_out", None)
    return default if known is None else min(default, known)


def on_host(make: Callable[P, World]) -> Callable[P, World]:
    """Let a function that makes a world be called inside ``jax.jit``, too, where the world is a constant.

    Worlds are made by NumPy and on the host, from data and numbers that are known.

    Raises:
      UsageError: when called inside ``jax.jit``: the world follows from a number that is traced.

    Example:
      >>> world = on_host(lambda: World(real=(), truth=np.asarray(jnp.ones(2)), test=None))
      >>> jax.jit(lambda: world().truth)().shape
      (2,)
    """

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> World:
        if not is_traced(jnp.zeros(())):
            return make(*args, **kwargs)
        try:
            with jax.ensure_compile_time_eval():
                return make(*args, **kwargs)
        except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
            raise UsageError(
                "world: it follows from a number that is traced; make it outside of jax.jit, and pass it in"
            ) from None

    return call


def require_own_world(setting: Setting) -> None:
    """Raise ``UsageError`` where the source draws data for each chain, and the setting has one world for all."""
    source = setting.info.source
    if isinstance(source, Source) and source.draw_own is not None and setting.extras.chain_world is None:
        raise UsageError(
            f"setting {setting.name}: source {source.name} draws data for each chain, which it cannot use (kde can)"
        )


class PlannedWorlds:
    """What each setting's runs are planned by: its world, or the shapes of one that takes compute."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Setting, Any]] = {}

    def shapes_of(self, setting: Setting) -> Any:
        """Return the shapes of the setting's world where it tells them, or the world."""
        if id(setting) not in self._known:
            self._known[id(setting)] = setting, (setting.info.world_shapes or setting.world)()
        return self._known[id(setting)][1]


class Worlds:
    """Worlds by their shapes: wherever these agree, one world serves."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, World]] = []

    def world_of(self, setting: Setting, shapes: Any) -> World:
        """Return the world that `shapes` stand for; they are it where the setting tells no shapes apart."""
        if setting.info.world_shapes is None:
            return shapes
        for known, world in self._made:
            if same_world(known, shapes):
                return world
        self._made.append((shapes, setting.world()))
        return self._made[-1][1]


def same_world(a: Any, b: Any) -> bool:
    """Return whether two worlds are alike, keys of dicts too; shapes stand for arrays that are not computed yet."""
    x, y = jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b)
    if [path for path, _ in x] != [path for path, _ in y]:
        return False
    return all(np.array_equal(one, other) for (_, one), (_, other) in zip(x, y, strict=True))
