"""The config that `collapse-jax init` writes, and what completes a command line."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import yaml

from collapse_jax import config, results
from collapse_jax.cli import main
from collapse_jax.config import template
from collapse_jax.core import registry


@pytest.mark.fast
@pytest.mark.parametrize("kind", registry.factories("setting"))
def test_every_setting_has_a_config_that_loads_and_explains_each_key(kind, tmp_path):
    path = template.write(kind, tmp_path / "own.yaml")
    text, experiment = path.read_text(), config.load(path)
    setting, made = experiment.build()
    assert setting.name == kind
    assert [policy.name for policy in made] == ["replace", "accumulate"]
    assert experiment.setting == type(experiment.setting)()  # all at their defaults
    assert f"collapse-jax run {path}" in text
    lines = text.splitlines()
    keys = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(("#", "-", "kind:"))]
    assert all("  # " in lines[i] or lines[i - 1].lstrip().startswith("# ") for i in keys)
    spec = type(experiment.setting)
    assert {*template.read_argument_docs(spec)} >= {
        field.name for field in dataclasses.fields(spec)
    }  # none is left unexplained
    written = yaml.safe_load(text)
    assert {*written, "sweep", "trace"} == {*config.to_dict(experiment), "sweep", "trace"}
    assert {*written["setting"]} == {*config.to_dict(experiment.setting)}
    for metric in setting.metrics:
        assert f"#   {metric.name}: " in text


@pytest.mark.fast
def test_what_stands_in_comments_is_right_too(tmp_path):
    text = template.text("poisson")
    uncommented = text.replace("\n# sweep:\n#   product:\n#     num", "\nsweep:\n  product:\n    num")
    uncommented = uncommented.replace("\n  # - ", "\n  - ")
    path = tmp_path / "all.yaml"
    path.write_text(uncommented)
    experiment = config.load(path)
    assert [spec.kind for spec in experiment.policies] == list(registry.factories("policy"))
    assert experiment.sweep[0].paths == ("num_samples",)
    rows = [line.partition("  # ")[0][4:] for line in text.splitlines() if line.startswith("#   {kind: ")]
    chosen = [config.from_dict(yaml.safe_load(text) | {"curator": yaml.safe_load(row)}).curator for row in rows]
    assert [spec.kind for spec in chosen] == list(registry.factories("curator"))


@pytest.mark.fast
def test_arguments_are_read_off_docstrings():
    def documented():
        """Title: of it.

        Args:
          first: one
            line and ``more``: of it.
          second: two.

        Raises:
          third: not an argument.
        """

    assert template.read_argument_docs(documented) == {"first": "one line and `more`: of it.", "second": "two."}
    assert template.read_argument_docs(test_arguments_are_read_off_docstrings) == {}


def test_a_newcomer_runs_what_init_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))
    assert main.main(["init"]) == 0
    assert capsys.readouterr().out == "config: gaussian.yaml\n"
    assert main.main(["run", "gaussian.yaml", "--metrics", "[trace_ratio]"]) == 0
    ds = results.open("results/gaussian")
    assert ds.sizes == {"policy": 2, "chain": 100, "generation": 20}
    assert np.isfinite(ds.trace_ratio).all()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("init gausian", "gausian: no such setting; perhaps you meant 'gaussian'"),
        ("init --out there.yaml", "there.yaml: is there already; choose another file with --out"),
        ("init --out absent/own.yaml", "absent/own.yaml: cannot be written: no such file or directory"),
        ("completion powershell", "invalid choice: 'powershell'"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, words, fragment):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("mine")
    assert main.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert fragment in err
    assert err.count("\n") == 1
    assert out == ""
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_a_shell_completes_commands_flags_and_settings(capsys):
    pytest.importorskip("shtab")
    scripts = {}
    for shell in ("bash", "zsh", "fish"):
        assert main.main(["completion", shell]) == 0
        scripts[shell] = capsys.readouterr().out
        for word in ("report", "--watch", "gaussian_mixture"):
            assert word in scripts[shell], (shell, word)
    # What bash itself offers.
    ask = 'COMP_WORDS=(collapse-jax {}); COMP_CWORD={}; _shtab_collapse_jax; echo "${{COMPREPLY[@]}}"'
    for words, offered in (("rep", "report"), ("init pois", "poisson"), ("report --wat", "--watch")):
        line = ask.format(words, len(words.split()))
        done = subprocess.run(["bash", "-c", scripts["bash"] + "\n" + line], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [offered], words


def test_without_shtab_one_is_told_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main.main(["completion", "bash"]) == 2
    assert "pip install 'collapse-jax[completion]'" in capsys.readouterr().err
