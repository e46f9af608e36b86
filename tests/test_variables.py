"""Metrics whose values are arrays: kept by runs and stores, passed over by tables, and read again from stores alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from collapse_jax import policies, results, settings, sweep, texts_of
from collapse_jax.analysis.verdicts import score
from collapse_jax.cli import main
from collapse_jax.core import batch
from collapse_jax.data import texts
from collapse_jax.execution import resumable
from collapse_jax.execution.estimate import estimate_sweep
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.reporting import plot_curves, sample_pages, tables
from collapse_jax.results import summary
from collapse_jax.results.variables import array_variables, select_scalars
from collapse_jax.types import Metric, Setting, World

pytestmark = pytest.mark.xdist_group("variables")  # one worker, for the run is made once
POLICIES = [policies.replace(), policies.accumulate()]
OPTIONS = {"num_chains": 5, "chains_per_block": 2}
SIZES = {"num_samples": 6, "num_generations": 4}
LETTERS = ["a", "\xc3", "\xa9", "\n"]  # two of them are the two bytes of one character


def drawing(size: int = 3, shift: float = 0.0) -> Setting:
    """A mean of numbers, with a picture of two samples and a word about each."""

    def observe(key, world, fitted, summary, generated):
        grid = generated[:2, None, None] * jnp.ones((2, size, 2))
        above = generated[:2] > fitted
        return {"mean": fitted, "picture": grid, "words": above[:, None] * jnp.asarray([1.0, 2.0])}

    def fit(key, train, start):
        x, weight = batch.weighted_rows(train)
        return (weight * x).sum() / weight.sum() + shift

    return Setting(
        name="drawing",
        world=lambda: World((), (), None),
        sample_real=lambda key, world, num: jax.random.normal(key, (num,)),
        fit=fit,
        sample=lambda key, fitted, num: fitted + jax.random.normal(key, (num,)),
        observe=observe,
        metrics=(
            Metric("mean", "of the fit", "1", "definition", role="risk", baseline=1.0),
            Metric("picture", "samples", "1", "definition", dims=(("sample", 2), ("y", size), ("x", 2))),
            Metric("words", "letters", "1", "definition", dims=(("sample", 2), ("symbol", 2)),
                   attrs={"symbols": ["b" if size == 2 else "a", *LETTERS[1 : size + 1]]}),
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Many units in a small sweep."""
    monkeypatch.setattr("collapse_jax.planning.units._UNIT_OPERATIONS", 1.0)
    monkeypatch.setattr("collapse_jax.planning.units.max_concurrent_blocks", lambda devices: 1)


@pytest.fixture(scope="module")
def grid():
    return make_grid(drawing, POLICIES, **SIZES, axes={"size": [3, 2], "shift": [0.0, 0.5]})


@pytest.fixture(scope="module")
def swept():
    return sweep(drawing, POLICIES, axes={"size": [3, 2], "shift": [0.0, 0.5]}, **SIZES, **OPTIONS)


def test_arrays_have_their_dimensions(swept):
    dims = ("policy", "size", "shift", "chain", "generation")
    assert swept["mean"].dims == dims
    assert swept.picture.dims == (*dims, "sample", "y", "x")
    assert swept.picture.shape == (2, 2, 2, 5, 4, 2, 3, 2)
    assert array_variables(swept) == ["picture", "words"]
    assert list(select_scalars(swept).data_vars) == ["mean"]
    assert np.isfinite(swept.picture.sel(size=3)).all()
    small = swept.picture.sel(size=2)  # smaller than the largest: what is not there is NaN
    assert np.isfinite(small[..., :2, :]).all()
    assert np.isnan(small[..., 2, :]).all()
    assert len(np.unique(small[..., 0, 0, 0])) > 20
    first = swept.picture.isel(generation=0)  # common random numbers
    np.testing.assert_allclose(first[0], first[1], atol=1e-6)


def test_texts_are_read_by_their_attributes_alone(swept):
    assert swept.words.attrs["symbols_dims"] == ["size"]
    read = texts_of(swept.words)
    assert read.dims == swept.words.dims[:-1]
    above = np.asarray(swept.picture[..., 0, 0] > swept["mean"].expand_dims(sample=2, axis=-1))
    other = np.array(["aa", "bb"])[:, None, None, None, None]  # sizes 3 and 2 have other letters
    np.testing.assert_array_equal(read, np.where(above, "\u00e9", other))
    part = texts_of(swept.words.transpose("symbol", ..., "size").isel(chain=1, generation=[0, 2]))
    xr.testing.assert_equal(part.transpose(*read.isel(chain=1).dims), read.isel(chain=1, generation=[0, 2]))
    for other in (swept, swept["mean"], swept.words.isel(symbol=0), swept.words.drop_attrs()):
        with pytest.raises(ValueError, match="give a variable of sample texts"):
            texts_of(other)


def test_parts_in_any_order_are_read_by_their_labels(swept):
    read, words = texts_of(swept.words), swept.words
    assert words.attrs["symbols_labels"] == [[3, 2]]
    xr.testing.assert_equal(texts_of(words.isel(size=[1, 0])), read.isel(size=[1, 0]))
    xr.testing.assert_equal(texts_of(words.sortby("size")), read.sortby("size"))
    xr.testing.assert_equal(texts_of(words.sel(size=2)), read.sel(size=2))
    xr.testing.assert_equal(texts_of(words.isel(size=[1, 1, 0])), read.isel(size=[1, 1, 0]))
    pairs = {"size": xr.DataArray([1, 0], dims="pair"), "chain": xr.DataArray([0, 2], dims="pair")}
    xr.testing.assert_equal(texts_of(words.isel(pairs)), read.isel(pairs))
    one = {"policy": 0, "size": 1, "shift": 0, "chain": 0, "generation": 0, "sample": 0}
    assert texts_of(words.isel(one)).item() == read.isel(one).item()
    without = words.copy()
    del without.attrs["symbols_labels"]
    for part in (words.isel(one, drop=True), words.drop_vars("size"), words.assign_coords(size=[3, 4]), without):
        with pytest.raises(ValueError, match=r"symbols differ along .size.") as error:
            texts_of(part)
        assert "\n" not in str(error.value)


def test_a_store_holds_the_same_and_goes_on(swept, grid, tmp_path, monkeypatch):
    runs, count = resumable.Runner.run_unit, [0]

    def stop(self, unit, saver=None):
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        return runs(self, unit, saver)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(resumable.Runner, "run_unit", stop)
        with pytest.raises(KeyboardInterrupt):
            resumable.fill_store(grid, Options(**OPTIONS), out)
    half = results.open(out)
    unfinished = np.isnan(half["mean"])
    assert 0 < unfinished.mean() < 1
    np.testing.assert_array_equal(np.isnan(half.words).all(("sample", "symbol")), unfinished)
    np.testing.assert_array_equal((texts_of(half.words) == "").all("sample"), unfinished)
    chunks = sorted(p for p in (out / "results.zarr/picture/c").rglob("*") if p.is_file())
    chunks[0].unlink()
    outcome = resumable.fill_store(grid, Options(**OPTIONS), out, repair=True)
    assert outcome.complete
    assert len(outcome.repaired) == 1
    whole = results.open(out)
    xr.testing.assert_equal(whole, swept)
    assert all(whole[name].attrs == swept[name].attrs for name in whole.data_vars)
    xr.testing.assert_equal(texts_of(whole.words), texts_of(swept.words))


def test_a_long_chain_goes_on_within_a_unit(tmp_path, monkeypatch):
    make_saver, count = resumable.checkpoint.make_saver, [0]

    def killing(path):
        made = make_saver(path)

        def save(*arguments):
            made.save(*arguments)
            count[0] += 1
            if count[0] == 2:
                raise KeyboardInterrupt

        return made._replace(save=save)

    options = Options(**{**OPTIONS, "num_chains": 2}, checkpoint_every=1)
    one = make_grid(drawing(), POLICIES[0], **SIZES)
    with monkeypatch.context() as patch:
        patch.setattr(resumable.checkpoint, "make_saver", killing)
        with pytest.raises(KeyboardInterrupt):
            resumable.fill_store(one, options, tmp_path / "out")
    resumable.fill_store(one, options, tmp_path / "out")
    resumable.fill_store(one, options, tmp_path / "whole")
    xr.testing.assert_equal(results.open(tmp_path / "out"), results.open(tmp_path / "whole"))


def test_tables_curves_and_verdicts_are_of_numbers(swept, tmp_path, capsys):
    pd = pytest.importorskip("pandas")
    folder = results.save(swept.isel(size=0), tmp_path / "out")
    assert main.main(["show", str(folder)]) == 0
    assert "picture" not in capsys.readouterr().out.split("Generation 4")[1]
    assert {row.metric for row in summary.summarize(swept)} == {"mean"}
    assert len(summary.curve_positions(swept)) == 8
    wide = swept.isel(size=[0] * 5).assign_coords(size=range(5))
    assert tables.render_summary(wide).row_count == 20  # a table of a grid
    assert score(swept).verdict.dims == ("policy", "size", "shift", "definition")
    assert len([ax for ax in plot_curves.draw_curves(swept).axes if ax.lines]) == 1
    assert main.main(["export", str(folder)]) == 0
    assert "left out, since their values are arrays: picture, words" in capsys.readouterr().out
    frame = pd.read_parquet(folder / "results.parquet")
    assert len(frame) == 2 * 2 * 5 * 4
    assert not {"picture", "words", "y"} & set(frame.columns)


def test_a_run_of_arrays_alone_has_no_curves(swept):
    alone = swept[["words"]]
    assert len(summary.curve_positions(alone)) == 8
    assert tables.render_summary(alone).row_count == 0
    assert (score(alone).verdict == "cannot be told").all()
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_curves.draw_curves(alone)


def test_samples_stand_on_a_page(swept, tmp_path):
    (place,) = sample_pages.write_samples(swept, tmp_path)
    lines = (tmp_path / "samples.txt").read_text().splitlines()
    assert place == str(tmp_path / "samples.txt")
    at = lines.index("accumulate size=2 shift=0.5, generation 4")
    rows = texts_of(swept.words).sel(policy="accumulate", size=2, shift=0.5, generation=4, chain=0)
    assert lines[at + 1 : at + 3] == [f"  {row}" for row in rows.to_numpy()]
    assert sum("generation" in line for line in lines) == 8 * 4
    assert sample_pages.write_samples(swept[["mean", "picture"]], tmp_path) == []


def test_arrays_count_where_bytes_do():
    plan = make_plan(make_grid(drawing, POLICIES, **SIZES, axes={"size": [3]}), Options(10**6))
    megabytes = 2 * 4 * 10**6 * (1 + 12 + 4) * 4 / 2**20
    assert f"{megabytes:,.1f} MB of results" in estimate_sweep(plan.grid, plan.options)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": (("sample", 2), ("y", 3))}, r"metric 'picture' has the shape \(2, 3, 2\), and its dims say \(2, 3\)"),
        ({"dims": (("sample", 2), ("symbol", 3), ("x", 2))}, "one dimension two lengths"),
        ({"dims": (("sample", 2), ("y", 3), ("generation", 2))}, "'generation' has the name of"),
    ],
)
def test_shapes_that_are_not_as_declared_are_one_line(change, message):
    made = drawing()
    wrong = made._replace(metrics=tuple(m._replace(**change) if m.name == "picture" else m for m in made.metrics))
    with pytest.raises(ValueError, match=message) as error:
        make_plan(make_grid(wrong, POLICIES, **SIZES), Options(**OPTIONS))
    assert "\n" not in str(error.value)


def test_arrays_of_other_dimensions_in_one_sweep_are_one_line():
    def make(channels: int) -> Setting:
        made = drawing()

        def observe(*given):
            seen = made.observe(*given)
            return seen | {"picture": seen["picture"][..., None]}

        metrics = [m._replace(dims=(*m.dims, ("channel", 1))) if m.name == "picture" else m for m in made.metrics]
        return made._replace(observe=observe, metrics=tuple(metrics)) if channels else made

    grid = make_grid(make, POLICIES[0], **SIZES, axes={"channels": [0, 1]})
    with pytest.raises(ValueError, match=r"metric 'picture' has the dimensions .*'channel'.*: give each") as error:
        assert make_plan(grid, Options(**OPTIONS)).metrics
    assert "\n" not in str(error.value)
    assert list(make_plan(grid, Options(**OPTIONS, metrics=["words"])).metrics) == ["words"]


WORDS = "gr\u00f6\u00dfer kleiner \u20ac gr\u00f6\u00dfer\nals " * 60


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_texts_of_any_alphabet_are_read_from_what_a_setting_declares(tokenizer):
    if tokenizer == "bpe":
        pytest.importorskip("tokenizers")
    text = texts.text_from_string("mine", WORDS, tokenizer, 270 if tokenizer == "bpe" else None)
    setting = settings.language_model(text, width=8, heads=2, depth=1, length=12, batch_size=8, num_test=4, num_shown=3)
    metric = setting.metrics[-1]
    assert (metric.name, metric.shape) == ("sample_text", (3, 12))
    rows = np.asarray(text.draw(jax.random.key(0), jnp.asarray(text.arrays), 8, 12))
    values = xr.DataArray(rows.astype(np.float32), dims=[dim for dim, _ in metric.dims], attrs=dict(metric.attrs))
    read = texts_of(values).to_numpy().tolist()
    assert read == [text.decode(row) for row in rows]
    assert all(row.strip("\ufffd") in WORDS for row in read)
    assert len(set(read)) > 3


def test_pieces_are_those_of_their_library():
    tokenizers = pytest.importorskip("tokenizers")
    text = texts.text_from_string("mine", WORDS, "bpe", 270)
    decoder = tokenizers.decoders.ByteLevel()
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert {bytes([i]) for i in range(256)} <= set(text.pieces)
    assert text.decode(text.real_rows(1)[0]) == WORDS
    single = [piece for piece in text.pieces if len(piece) == 1 and piece[0] < 128]
    assert {decoder.decode([letter]) for letter in letters} >= {piece.decode() for piece in single}
