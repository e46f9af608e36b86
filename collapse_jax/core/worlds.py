"""What the chains of a setting share, made once however many programs share it."""

from typing import Any

import jax
import numpy as np

from collapse_jax.types import Setting, World


class Outlines:
    """What each setting's runs are planned by: its world, or the shapes of one that takes compute."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Setting, Any]] = {}

    def of(self, setting: Setting) -> Any:
        """The outline where the setting has one, or the world."""
        if id(setting) not in self._known:
            self._known[id(setting)] = setting, (setting.info.world_shapes or setting.world)()
        return self._known[id(setting)][1]


class Worlds:
    """Worlds by their outlines: wherever outlines agree, one serves."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, World]] = []

    def of(self, setting: Setting, outline: Any) -> World:
        """The world that `outline` stands for; it is its own where the setting has none."""
        if setting.info.world_shapes is None:
            return outline
        for known, world in self._made:
            if same(known, outline):
                return world
        self._made.append((outline, setting.world()))
        return self._made[-1][1]


def same(a: Any, b: Any) -> bool:
    """Whether two worlds are alike, keys of dicts too; shapes stand for what they outline."""
    x, y = jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b)
    if [path for path, _ in x] != [path for path, _ in y]:
        return False
    return all(np.array_equal(one, other) for (_, one), (_, other) in zip(x, y, strict=True))
