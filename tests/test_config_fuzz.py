"""Whatever is wrong in a config or on the command line is told in one line, at once; what is right loads."""

import contextlib
import signal

import pytest
import yaml
from config_mutations import make_bomb, make_mutations

from collapse_jax import config
from collapse_jax.core.errors import MAX_MESSAGE, UsageError
from collapse_jax.core.yaml_text import parse_yaml, write_yaml

BASE = "policies: [replace]\nnum_samples: 10\nnum_generations: 3\nnum_chains: 4\n"
DEADLINE = 60  # seconds of one mutation; what does not end is found, and a busy machine is not


class Late(BaseException):
    """A config was not loaded or refused before the deadline."""


@contextlib.contextmanager
def stopped_at_deadline():
    def stop(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def load_or_refuse(file, words=()):
    """Return the line in which a config is refused, or None where it loads and writes what it read."""
    try:
        with stopped_at_deadline():
            experiment = config.load(file, words)
            experiment.grid()
            assert config.from_dict(parse_yaml(config.dumps(experiment))) == experiment
    except UsageError as error:
        line = str(error)
        assert line.isprintable()
        assert 0 < len(line) <= MAX_MESSAGE
        return line
    return None


@pytest.mark.parametrize("seed", range(4))
def test_mutations_load_or_are_refused_in_one_line(seed, tmp_path, request):
    configs = [file.read_text() for file in sorted((request.config.rootpath / "configs").rglob("*.yaml"))]
    file, refused, failures = tmp_path / "mutation.yaml", 0, []
    for number, (text, words) in enumerate(make_mutations(configs, seed, 550)):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            refused += load_or_refuse(file, words) is not None
        except (Exception, Late) as error:
            failures.append(f"{number}: {type(error).__name__}: {str(error)[:200]}: {text[:2000]!r} {words}")
    assert failures == []
    assert 400 < refused < 550


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("{kind: [x]}", "setting.kind: unknown ['x']"),
        ("{kind: {a: b}}", "setting.kind: unknown {'a': 'b'}"),
        ("{kind: gaussian, dim: 0x1F}", "setting.dim: expected a whole number"),
        ("{kind: gaussian, dim: 1:30}", "setting.dim: expected a whole number"),
        ("{kind: gaussian, dim: 1_0}", "setting.dim: expected a whole number"),
        (f"{{kind: gaussian, dim: {'9' * 400}}}", "is too large; whole numbers have at most 64 bits"),
        (f"{{kind: gaussian, dim: {'9' * 5000}}}", "line 1: a number of 5,000 digits is too large"),
        (f"{{kind: gaussian, source: {{kind: normal, mean: {'9' * 400}}}}}", "setting.source.mean: expected a number"),
        ("!!python/object/apply:os.system [false]", "the tag tag:yaml.org,2002:python/object/apply:os.system is not"),
        ("!include other.yaml", "the tag !include is not read"),
        ("!!binary aGk=", "the tag tag:yaml.org,2002:binary is not read"),
        ("[" * 1000 + "]" * 1000, "line 1: more than 50 lists and mappings in each other"),
        ("&a {kind: *a}", "line 1: the alias *a lies in what it stands for"),
        ("{kind: gaussian, kind: kde}", "line 1: 'kind' is there twice"),
        ("{? [kind] : gaussian}", "line 1: a key must be a single word"),
        ('{kind: gaussian, "a\\nb\\e[31m": 1}', "setting.a\\nb\\x1b[31m: unknown key of gaussian"),
        (f"{{kind: gaussian, {'k' * 900}: 1}}", "unknown key of gaussian"),
    ],
)
def test_a_hostile_setting_is_refused(setting, line, tmp_path):
    (tmp_path / "hostile.yaml").write_text(f"setting: {setting}\n{BASE}")
    assert line in load_or_refuse(tmp_path / "hostile.yaml")


@pytest.mark.parametrize("place", ["setting: {kind: gaussian, dim: *a9}", "sweep: {product: {dim: *a9}}", "seed: *a9"])
def test_aliases_that_multiply_are_refused_at_once(place, tmp_path):
    (tmp_path / "bomb.yaml").write_text(f"{make_bomb(10, 10)}\n{place}\n{BASE}")
    assert "more than 100,000 values, each alias counted" in load_or_refuse(tmp_path / "bomb.yaml")


def test_what_is_no_config_is_refused_by_its_size(tmp_path):
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(2**40)
    assert "more than 1 MiB" in load_or_refuse(tmp_path / "large.yaml")


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    (tmp_path / "numbers.yaml").write_text(f"setting: gaussian\nseed: 010\n{BASE}")
    assert config.load(tmp_path / "numbers.yaml").seed == 10
    assert parse_yaml("[+5, 1., .5, 1e3, -1.5E-2, 0o10, yes, 2026-01-01]") == [
        5, 1.0, 0.5, 1000.0, -0.015, "0o10", "yes", "2026-01-01",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["010", "1e5", "0o10", "yes", "1:30", "1_000", "=", "<<", "~", "2026-01-01", "[/]"])
def test_texts_are_written_as_texts(word):
    assert parse_yaml(write_yaml({"path": word})) == {"path": word}


def test_a_key_that_is_merged_stands_behind_one_that_is_written():
    text = "policies: [&a {kind: mix, share: 0.1}, {<<: *a, share: 0.2}]"
    assert parse_yaml(text)["policies"][1] == {"kind": "mix", "share": 0.2}
    with pytest.raises(yaml.YAMLError, match="has << itself"):
        parse_yaml("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}")
