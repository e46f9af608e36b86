"""What ``collapse-jax bench`` counts, keeps and compares; never how fast anything is."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from collapse_jax import policies
from collapse_jax.bench import command, measure, plots, profile_regions, report, run, suites
from collapse_jax.bench.machine import Rates, copy_size_for, find_bottleneck, floor_seconds, lowest_seconds
from collapse_jax.bench.suites import BenchCase
from collapse_jax.cli import main
from collapse_jax.planning.roofline import Work, count_work
from collapse_jax.settings.gaussian import gaussian

TINY = BenchCase("gaussian", gaussian, policies.replace(), 1, 4, 3, ("trace_ratio",), "rows")


def work_of(function, *shapes):
    return count_work(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A report of one tiny case, with its profile and its scaling."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "SUITES", {"core": lambda: (TINY,)})
        patch.setattr(run, "_QUICK_SECONDS", 1e-3)
        return run.measure_suite("core", quick=True, trace=tmp_path_factory.mktemp("profile"))


@pytest.mark.fast
def test_loops_count_as_often_as_they_turn():
    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ c, jnp.exp(c).sum()), x, length=5)

    work = work_of(loop, (8, 8))
    assert work.products == 5 * 2 * 8**3
    assert work.exponentials == 5 * 8**2
    assert work.flops == work.products + 5 * (8**2 + 8**2)  # the exponentials and their sum
    # A turn reads the carry and writes the product and the sum.
    assert work.bytes == 5 * 4 * (8**2 + 8**2 + 1)
    turns = lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x)  # noqa: E731
    assert work_of(turns, (8, 8)).products == 2 * 8**3


@pytest.mark.fast
def test_calls_branches_and_random_numbers_are_counted():
    inner = jax.jit(lambda x: jnp.tanh(x) @ x)
    assert work_of(lambda x: inner(inner(x)), (4, 4)).products == 2 * 2 * 4**3
    either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y, lambda y: y + 1, x)  # noqa: E731
    assert work_of(either, (4, 4)).products == 2 * 4**3
    drawn = count_work(jax.make_jaxpr(lambda key: jax.random.normal(key, (70,)))(jax.random.key(0)).jaxpr)
    assert (drawn.random_words, drawn.normals) == (70, 70)
    part = work_of(lambda pool: jax.lax.dynamic_update_slice_in_dim(pool, jnp.ones((1, 3)), 0, 0), (1000, 3))
    assert part.bytes == 2 * 4 * 3  # not the pool


@pytest.mark.fast
def test_floors_add_what_shares_the_units():
    rates = Rates(1e3, 1e2, 50.0, 10.0, {copy_size_for(1): 1e3})
    parts = floor_seconds(Work(products=2e3, exponentials=1e2, random_words=30, normals=20, bytes=500), rates, 1)
    assert parts == {"products": 2.0, "exponentials": 1.0, "random numbers": pytest.approx(2.2), "memory": 0.5}
    assert lowest_seconds(parts) == pytest.approx(5.2)
    assert lowest_seconds(parts | {"memory": 9.0}) == 9.0
    assert [find_bottleneck(parts | {"memory": seconds}) for seconds in (0.5, 3.0, 9.0)] == [
        "random numbers", "random numbers", "memory",
    ]  # fmt: skip


def test_a_case_is_measured(tiny):
    (row,) = tiny.timings
    assert row.name == TINY.name == "gaussian d=1 replace n=4 rows"
    assert row.backend == "rows"
    assert len(row.seconds) == tiny.origin["rounds"] == 3
    assert min(row.seconds) > 0
    assert row.num_chains % row.chains_per_block == 0
    assert row.work.normals == 4  # of its rows
    assert row.work.random_words > row.work.normals  # keys
    assert row.floor["random numbers"] > 0
    assert row.peak_bytes > 0
    assert min(tiny.rates[:4]) > 0
    assert row.compile_seconds > 0


def test_a_profile_knows_the_regions(tiny):
    (shares,) = tiny.regions.values()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["sample"] > 0
    assert set(shares) <= {*profile_regions.REGIONS, profile_regions.OTHER}


@pytest.mark.fast
def test_time_is_that_of_the_innermost_region_and_of_an_operation_itself():
    program = """
      %while.1 = (f32[]) while(%t), metadata={op_name="jit(advance)/while/body/vmap(fit)/while" id=1}
      %a = f32[] fusion(%x), metadata={op_name="jit(advance)/while/body/vmap(sample)/vmap(curate)/mul"}
      ROOT %b.2 = f32[] add(%x), metadata={op_name="reduce_sum"}
      %benefit = f32[] add(%x), metadata={op_name="jit(advance)/benefit/outfit"}
    """

    def made(name, start, length, module="jit_advance"):
        of = {"hlo_op": name, "hlo_module": module}
        return {"ph": "X", "pid": 1, "tid": 1, "name": name, "ts": start, "dur": length, "args": of}

    others = made("a", 20, 5), made("benefit", 30, 5), made("a", 40, 9, "jit_other")
    events = [made("while.1", 0, 10), made("b.2", 2, 4), *others]
    shares = profile_regions.compute_region_shares(events, program, "jit_advance")
    assert shares == {"fit": 0.5, "curate": 0.25, "other": 0.25}


def test_json_goes_round_and_a_slowdown_is_seen(tiny, tmp_path):
    path = tmp_path / "a.json"
    report.write_json(tiny, path)
    back = report.read_json(path)
    assert back == tiny
    (same,) = report.compare_reports(tiny, back)
    assert (same.ratio, same.machine, same.verdict) == (1.0, pytest.approx(1.0), "")
    (row,) = back.timings
    steady = back._replace(timings=(row._replace(seconds=(1.0, 1.0, 1.0)),))
    slow = back._replace(timings=(row._replace(seconds=(1.2, 1.2, 1.2)),))
    verdicts = [report.compare_reports(a, b)[0].verdict for a, b in ((slow, steady), (steady, slow))]
    assert verdicts == ["slower", "faster"]
    noisy = back._replace(timings=(row._replace(seconds=(1.1, 1.2, 1.4)),))
    assert report.compare_reports(noisy, steady)[0].verdict == ""
    # A machine of half the speed explains times twice as long.
    half = Rates(*(rate / 2 for rate in tiny.rates[:4]), {size: rate / 2 for size, rate in tiny.rates.copies.items()})
    twice = slow._replace(timings=(row._replace(seconds=(2.0, 2.0, 2.0)),), rates=half)
    assert report.compare_reports(twice, steady)[0].verdict == ""
    # Blocks that outgrow a cache are no excuse.
    (size,), (kept,) = tiny.rates.copies, steady.timings
    crawling = tiny.rates._replace(copies={size: tiny.rates.copies[size], 1 << 30: 1.0})
    grown = kept._replace(seconds=(2.0, 2.0, 2.0), peak_bytes=1 << 30)
    assert report.compare_reports(slow._replace(timings=(grown,), rates=crawling), steady)[0].verdict == "slower"
    with pytest.raises(ValueError, match="no case in common"):
        report.compare_reports(tiny, tiny._replace(timings=()))


def test_the_command_prints_writes_draws_and_compares(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measure_suite", lambda *arguments: tiny)
    monkeypatch.setattr(suites, "SUITES", {"core": lambda: (TINY,)})
    monkeypatch.setattr(jax.config, "update", lambda *arguments: None)
    assert main.main(["bench", "--json", "a.json", "--plot", "a.png"]) == 0
    printed = capsys.readouterr().out
    for words in (TINY.name, "GFLOP/s", "sample", "a.png"):
        assert words in printed
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert main.main(["bench", "--compare", "a.json"]) == 0
    values = json.loads((tmp_path / "a.json").read_text())
    timing = values["timings"][0]
    timing["seconds"] = [s / 100 for s in timing["seconds"]]
    (tmp_path / "b.json").write_text(json.dumps(values))
    assert main.main(["bench", "--compare", "b.json"]) == 1
    assert "are slower than before" in capsys.readouterr().err


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--suite", "best"], "suite must be one of core, nets, engine"),
        (["--only", "zzz"], "has 'zzz' in its name"),
        (["--compare", "absent.json"], "absent.json: cannot be read"),
        (["--compare", "bad.json"], "bad.json: is not a file"),
        (["--plot", "absent/a.png"], "absent/a.png: its folder does not exist"),
        (["--json", "absent/a.json"], "absent/a.json: its folder does not exist"),
        (["--plot", "a.xyz"], "a.xyz: the suffix of a picture must be one of"),
        (["--trace", "bad.json"], "bad.json: cannot be written"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(words, fragment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "measure_cases", None)
    (tmp_path / "bad.json").write_text('{"rows": []}')
    assert main.main(["bench", *words]) == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.fast
def test_a_device_that_is_not_there_is_told(monkeypatch, capsys):
    monkeypatch.setattr(run, "measure_cases", None)
    monkeypatch.setattr(jax.config, "update", lambda *arguments: None)
    here, other = jax.default_backend(), {"cpu": "tpu"}.get(jax.default_backend(), "cpu")
    assert main.main(["bench", "--device", other]) == 2
    assert f"device: JAX has already begun on {here}" in capsys.readouterr().err
    monkeypatch.setattr(jax, "default_backend", lambda: (_ for _ in ()).throw(RuntimeError("Unknown backend tpu")))
    assert main.main(["bench", "--device", "tpu"]) == 2
    assert "device: JAX finds no 'tpu' on this machine (Unknown backend tpu)" in capsys.readouterr().err


@pytest.mark.fast
def test_exponents_are_slopes():
    runs = [lambda v=v: 3e-4 * v**1.5 for v in (10, 20, 40)]
    fitted = measure._fit_scaling("a", "n", (10, 20, 40), runs, 3)
    assert fitted.exponent == pytest.approx(1.5)
    assert fitted.error == pytest.approx(0, abs=1e-6)
    assert np.allclose(fitted.seconds, [3e-4 * v**1.5 for v in (10, 20, 40)])


@pytest.mark.fast
def test_numbers_of_cases_that_lie_together_can_be_read():
    ax = Figure().add_subplot()
    points = np.array([[1.0, 1.0], [1.0, 1.0], [1.001, 1.001], [9.0, 9.0]])
    ax.plot(*points.T, "o")
    plots._number_points(ax, points)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3", "4"]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(suites.SUITES))
def test_cases_of_a_suite_have_names_of_their_own(name):
    names = [case.name for case in suites.select_cases(name)]
    assert len(set(names)) == len(names)
    assert [case.name for case in suites.select_cases(name, quick=True)] == names[:2]
