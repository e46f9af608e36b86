"""Parts register themselves, remember how they were called, and come from plugins too."""

import sys
from importlib.metadata import EntryPoint

import pytest

import collapse_jax as cj
from collapse_jax import config, policies
from collapse_jax.cli import main
from collapse_jax.core import registry
from collapse_jax.planning.recipe_text import write_recipe
from collapse_jax.planning.recipes import recipe_of
from collapse_jax.types import Policy

pytestmark = pytest.mark.fast

PARTS = """
import collapse_jax as cj
from collapse_jax.planning.recipe_text import write_recipe
from collapse_jax.planning.recipes import recipe_of
from collapse_jax.types import Policy

@cj.register_policy
def halving(factor: float = 0.5) -> Policy:
    "Halve the weight of what is old."
    return Policy("halving", fade=factor)
"""


@pytest.fixture
def parts(tmp_path, monkeypatch, own_parts):
    """A module of parts in the current folder, forgotten after the test."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "halves.py").write_text(PARTS)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_factory_is_known_by_its_name_and_its_calls_are_recorded(own_parts):
    @cj.register_policy
    def fading(factor: float = 0.5, *, keep: int = 3) -> Policy:
        return Policy("fading", keep=keep, fade=factor)

    assert registry.factories("policy")["fading"] is fading
    call = registry.call_of(fading(0.25))
    assert (call.group, call.kind, call.arguments) == ("policy", "fading", {"factor": 0.25, "keep": 3})
    recipe = recipe_of("policy", fading(), "policy")
    assert write_recipe(recipe, "policy") == {"kind": "fading", "factor": 0.5, "keep": 3}


def test_built_in_parts_are_there_in_the_order_of_their_definition():
    assert list(registry.factories("policy"))[:2] == ["replace", "accumulate"]
    for group in registry.GROUPS:
        assert all(registry.plugin_of(factory) is None for factory in registry.factories(group).values())


def test_a_name_is_given_once_and_a_notebook_may_run_a_cell_again(own_parts):
    code = "def replace():\n    return 1\n"
    with pytest.raises(ValueError, match=r"'replace' is registered by collapse_jax\.policies already; choose another"):
        exec(code + "register(replace)", {"__name__": "mine", "register": cj.register_policy})
    for _ in range(2):
        exec(code.replace("replace", "mine") + "register(mine)", {"__name__": "cell", "register": cj.register_policy})
    with pytest.raises(ValueError, match="decorate a function with a name of its own"):
        cj.register_policy(lambda: policies.replace())


@pytest.mark.parametrize("plugin", ["halves", "halves.py"])
def test_the_command_line_loads_plugins_before_it_reads_a_config(parts, capsys, plugin):
    (parts / "a.yaml").write_text(
        "{setting: gaussian, policies: [{kind: halving, factor: 1}], num_samples: 5, num_generations: 2, num_chains: 2}"
    )
    assert main.main(["plan", "a.yaml"]) == 2
    assert "policies.0.kind: unknown 'halving'" in capsys.readouterr().err
    assert main.main(["plan", "a.yaml", "--plugin", plugin]) == 0
    assert main.main(["list", "--plugin", plugin]) == 0  # loaded already
    assert "halving(factor=0.5)  Halve the weight" in capsys.readouterr().out
    named = registry.plugin_of(registry.factories("policy")["halving"])
    assert named == ("halves" if plugin == "halves" else str(parts / "halves.py"))


def test_plugins_that_are_not_there_are_told_in_a_line(parts, capsys):
    for plugin, words in (("absent", "no module of this name"), ("absent.py", "there is no such file")):
        assert main.main(["list", "--plugin", plugin]) == 2
        assert words in capsys.readouterr().err
    (parts / "needs.py").write_text("import a_module_that_is_absent")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_absent"):  # theirs, not a user's mistake in a name
        cj.load_plugin("needs")


def test_installed_packages_add_parts_by_an_entry_point(parts, monkeypatch):
    monkeypatch.syspath_prepend(parts)
    found = (EntryPoint("halves", "halves", registry.ENTRY_POINTS),)
    monkeypatch.setattr(registry, "_entry_points", lambda: found)
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    assert registry.plugin_of(registry.factories("policy")["halving"]) is None  # none need be named
    raw = {"setting": "gaussian", "policies": ["halving"], "num_samples": 5, "num_generations": 2, "num_chains": 2}
    assert config.from_dict(raw).build()[1][0].fade == 0.5


def test_a_factory_must_return_its_kind(own_parts):
    @cj.register_policy
    def odd() -> Policy:
        return cj.settings.gaussian()

    with pytest.raises(cj.UsageError, match="odd must return a Policy, not a Setting"):
        odd()
