import dataclasses

import pytest

from collapse_jax import config, policies
from collapse_jax.config import schema
from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError

BASE = """
setting: {kind: gaussian, source: {kind: normal, dim: 2}}
policies: [replace, {kind: fixed_real, share: 0.2}]
num_samples: 10
num_generations: 3
num_chains: 4
"""


def load_text(tmp_path, text, *overrides):
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    return config.load(file, overrides)


def test_load(tmp_path):
    experiment = load_text(tmp_path, BASE)
    assert (experiment.num_samples, experiment.num_generations, experiment.num_chains) == (10, 3, 4)
    assert experiment.setting.kind == "gaussian"
    assert experiment.setting.source.dim == 2
    assert experiment.policies[1].share == 0.2
    assert experiment.grid().policies == ("replace", "fixed_real")
    setting, made = experiment.build()
    assert setting.name == "gaussian"
    assert [policy.name for policy in made] == ["replace", "fixed_real"]


def test_a_round_trip_changes_nothing(tmp_path):
    experiment = load_text(tmp_path, BASE, "--metrics", "[trace_ratio]", "--chains-per-block", "2")
    assert load_text(tmp_path, config.dumps(experiment)) == experiment
    assert config.from_dict(config.to_dict(experiment)) == experiment


@pytest.mark.parametrize("group", ["setting", "policy", "curator", "source", "symbols", "text", "objective"])
def test_everything_registered_can_be_written(group):
    assert [spec.kind for spec in schema.spec_types(group)] == list(registry.factories(group))


def test_what_is_registered_can_be_configured_the_same_day(tmp_path, own_parts):
    @registry.register_policy
    def halving(factor: float, *, rows: int = 3):
        """Halves."""
        return policies.decay(factor)

    experiment = load_text(tmp_path, BASE, "--policies.0", "{kind: halving, factor: 1}")
    assert dataclasses.asdict(experiment.policies[0]) == {"factor": 1.0, "rows": 3}
    with pytest.raises(config.ConfigError, match=r"policies\.0\.factor: missing; expected a number"):
        load_text(tmp_path, BASE, "--policies.0", "halving")


def test_policies_of_one_kind_are_told_apart(tmp_path):
    experiment = load_text(tmp_path, BASE, "--policies", "[fixed_real, {kind: fixed_real, share: 0.2}, replace]")
    assert experiment.grid().policies == ("fixed_real(share=0.5)", "fixed_real(share=0.2)", "replace")
    assert [policy.name for policy in experiment.build()[1]] == list(experiment.grid().policies)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E2", 200.0), ("1", 1.0), ("-.5e0", -0.5), ("0.25", 0.25)]
)
def test_numbers_as_people_write_them(tmp_path, text, value):
    source = load_text(tmp_path, BASE.replace("dim: 2", f"dim: 2, mean: {text}")).setting.source
    assert source.mean == value
    assert type(source.mean) is float


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        (["--num-chains", "7"], lambda e: e.num_chains == 7),
        (["--num_chains=7"], lambda e: e.num_chains == 7),
        (["--setting.source.dim", "5"], lambda e: e.setting.source.dim == 5),
        (["--policies.1.share", "1e-1"], lambda e: e.policies[1].share == 0.1),
        (["--setting.source.mean", "-1"], lambda e: e.setting.source.mean == -1),
        (["--setting", "kde", "--setting.bandwidth", "scott"], lambda e: e.setting.bandwidth == "scott"),
        (["--setting.source", "moons"], lambda e: e.setting.source.kind == "moons"),
        (["--setting.source", "null"], lambda e: e.setting.source is None),
        (["--policies.0", "{kind: window, k: 2}"], lambda e: e.policies[0].k == 2),
        (["--policies", "[accumulate]", "--policies.0.kind", "decay"], lambda e: e.policies[0].gamma == 0.5),
        (["--metrics", "[trace_ratio]"], lambda e: e.metrics == ("trace_ratio",)),
        (["--metrics", "[all]"], lambda e: e.metrics == ("all",) and e.build()),
    ],
)
def test_overrides(tmp_path, overrides, read):
    assert read(load_text(tmp_path, BASE, *overrides))


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        ("--num-chians 3", ["num_chians: unknown key", "perhaps you meant 'num_chains'"]),
        ("--policies.1.shrae 0.1", ["policies.1.shrae: unknown key of fixed_real", "perhaps you meant 'share'"]),
        ("--policies.0.share 0.1", ["policies.0.share: unknown key of replace", "it has none"]),
        ("--setting.source.kind nromal", ["setting.source.kind: unknown 'nromal'", "perhaps you meant 'normal'"]),
        ("--setting.source {} --setting.source.dim 2", ["setting.source.kind: missing", "moons"]),
        ("--setting.source table", ["setting.source.path: missing", "expected text"]),
        ("--num-samples ten", ["num_samples: expected a whole number, got 'ten'"]),
        ("--num-samples 1.5", ["num_samples: expected a whole number, got 1.5"]),
        ("--num-samples true", ["num_samples: expected a whole number, got True"]),
        ("--num-samples null", ["num_samples: expected a whole number, got None"]),
        ("--num-samples 0", ["num_samples: must be at least 1, got 0"]),
        ("--num-generations -3", ["num_generations: must be at least 1, got -3"]),
        ("--num-chains 0", ["num_chains: must be at least 1, got 0"]),
        ("--chains-per-block 0", ["chains_per_block: must be at least 1, got 0"]),
        ("--policies.1.share half", ["policies.1.share: expected a number, got 'half'"]),
        ("--policies.1.share .nan", ["policies.1.share: expected a number, got nan"]),
        ("--policies.1.share -0.1", ["policies.1: share", "-0.1"]),
        ("--precision float46", ["precision: expected one of 'float32', 'float64'", "perhaps you meant 'float64'"]),
        ("--setting kde --setting.bandwidth scot", ["setting.bandwidth: expected a number or", "meant 'scott'"]),
        ("--setting kde --setting.bandwidth 0", ["setting: bandwidth", "above 0"]),
        ("--setting.dim 3", ["setting: dim is 3", "2 columns"]),
        ("--policies []", ["policies: the list is empty"]),
        ("--policies replace", ["policies: expected a list", "'replace'"]),
        ("--policies [replace,replace]", ["policies.1: the same as policies.0"]),
        ("--policies.0 3", ["policies.0: expected a kind among replace, accumulate", "got 3"]),
        ("--policies.2.k 3", ["policies.2.k: '2' is not one of the 2 items"]),
        ("--metrics trace_ratio", ["metrics: expected a list (items: text) or null, got 'trace_ratio'"]),
        ("--metrics [trace_ratoi]", ["metrics.0: gaussian has no metric", "perhaps you meant 'trace_ratio'"]),
        ("--num-chains.x 3", ["num_chains.x: there is no key under 4"]),
        ("--num-chains", ["--num-chains: a value is missing"]),
        ("--num-chains --seed 1", ["--num-chains: a value is missing"]),
        ("--num-chains [", ["--num-chains: line 1: "]),
        ("stray", ["stray: unexpected"]),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, overrides, fragments):
    with pytest.raises(UsageError) as caught:
        load_text(tmp_path, BASE, *overrides.split()).build()
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n", "config: expected keys and values"),
        ("just words", "config: expected keys and values"),
        ("a: [1\nb: 2\n", "line 2: "),
        ("a: 1\n\tb: 2\n", "line 2: "),
        ("seed: 1\nseed: 2\n", "line 2: 'seed' is there twice"),
        (BASE + "seed: 2026-13-01\n", "seed: expected a whole number"),
        ("? [a]\n: 1\n", "line 1: "),
        ("seed: 1\x00", "not allowed"),
        ("sweep: {n: [1, 2]}\n" + BASE, "sweep.n: unknown key"),
        (BASE.replace("num_chains: 4", ""), "num_chains: missing; expected a whole number"),
    ],
)
def test_a_file_that_cannot_be_understood(tmp_path, text, fragment):
    with pytest.raises(config.ConfigError) as caught:
        load_text(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert fragment in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(config.ConfigError, match="no such file"):
        config.load(tmp_path / "absent.yaml")
    with pytest.raises(config.ConfigError, match="is a directory"):
        config.load(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(config.ConfigError, match="not a text file"):
        config.load(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("name", ["quickstart", "kde_digits"])
def test_the_configs_of_the_repository_load(name, request):
    experiment = config.load(request.config.rootpath / "configs" / f"{name}.yaml")
    assert experiment.grid().policies == ("replace", "accumulate", "accumulate_subsample")
    experiment.build()
