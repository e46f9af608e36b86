"""What the lines of a table are: a header or a row, missing values, words, classes; and what is told of its columns."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from table_rows import ROWS
from test_data_tables import one_line_error

import collapse_jax as cj
from collapse_jax import config, data
from collapse_jax.data import table_checks
from collapse_jax.data.readers import read_table
from collapse_jax.data.table_checks import TableWarning
from collapse_jax.settings import logistic_regression

RNG = np.random.default_rng(0)
WHOLE = RNG.integers(0, 9, (20, 3))


def read(tmp_path, text, **options):
    file = tmp_path / "x.csv"
    file.write_text(text, newline="")
    return read_table(file, **options)


def to_csv(tmp_path, frame, **options):
    frame.to_csv(tmp_path / "x.csv", **{"index": False, **options})
    return tmp_path / "x.csv"


# Headers


@pytest.mark.parametrize("columns", [1, 2, 3, 12])
def test_pandas_default_header_is_a_header(columns, tmp_path):
    rows = RNG.normal(size=(50, columns))
    file = to_csv(tmp_path, pd.DataFrame(rows))
    assert file.read_text().startswith("0")
    for header in ("auto", True):
        np.testing.assert_array_equal(read_table(file, header).values, rows)
    assert read_table(file).names == [str(at) for at in range(columns)]
    assert len(read_table(file, header=False).values) == 51
    source = data.table(file, test_fraction=0.5)
    everything = np.concatenate([source.arrays, source.held_out(25)])
    np.testing.assert_allclose(np.trace(np.cov(everything.T, ddof=0).reshape(columns, -1)), rows.var(0).sum())


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        ([0, 1, 2], WHOLE),  # what pandas writes above counts, or counts
        ([0], WHOLE[:, :1]),
        ([0, 1], np.eye(2)[WHOLE[:, 0] % 2]),
        ([1, 2, 3], ROWS),
        ([2000, 2010, 2020], ROWS),
        ([1990], ROWS[:, :1]),
        ([1990, 2000, 2010], 10_000 + RNG.integers(0, 10**6, (20, 3))),  # years above numbers of people
    ],
)
def test_a_line_that_may_be_either_is_refused(first, rows, tmp_path):
    names = [str(number) for number in first]
    file = to_csv(tmp_path, pd.DataFrame(rows, columns=names))
    message = one_line_error(lambda: read_table(file), "whether the first line", "header: true or header: false")
    assert ", ".join(names) in message
    told = read_table(file, header=True)
    np.testing.assert_array_equal(told.values, rows)
    assert told.names == names
    np.testing.assert_array_equal(read_table(file, header=False).values, np.vstack([first, rows]))


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [3, 4], [5, 6], [7, 8]],
        [[3, 1, 2], *WHOLE],
        [[1, 2, 3], [1, 3, 2], *WHOLE],
        [[5, 5], [0.5, 0.25], [1.5, 2.5]],
        [[0.0, 1.5], [2.5, 3.5]],
    ],
)
def test_rows_of_numbers_are_rows(rows, tmp_path):
    text = "\n".join(",".join(f"{cell:g}" for cell in row) for row in rows)
    np.testing.assert_array_equal(read(tmp_path, text).values, rows)


def test_headers_that_only_a_user_can_tell(tmp_path):
    text = "a,2020\n1.5,2\n3,4.5\n"
    one_line_error(lambda: read(tmp_path, text), "mixes numbers and text", "header: true")
    assert read(tmp_path, text, header=True).names == ["a", "2020"]
    one_line_error(lambda: read(tmp_path, "a,b\n1,2\n3,4\n", header=False), "row 1, column 1 holds 'a'")
    assert read(tmp_path, "# by hand\n\n5,6\n1,2\n3,4\n", header=True).values.tolist() == [[1, 2], [3, 4]]
    one_line_error(lambda: read(tmp_path, "1,2\n", header=True), "no rows of numbers below the header")
    one_line_error(lambda: read(tmp_path, ",0,1\n0,0.1,0.2\n1,0.3,0.4\n"), "an index that pandas wrote", "index=False")
    np.save(tmp_path / "x.npy", ROWS)
    one_line_error(lambda: data.table(tmp_path / "x.npy", header=True), "header is for .csv files")


def test_a_config_says_header(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to_csv(tmp_path, pd.DataFrame(ROWS, columns=["1", "2", "3"]))
    raw = {"policies": ["replace"], "num_samples": 9, "num_generations": 2, "num_chains": 2}

    def made(**given):
        source = {"kind": "table", "path": "x.csv", **given}
        return config.from_dict(
            {**raw, "setting": {"kind": "gaussian", "num_test": 5, "source": source}}
        ).setting.build()

    assert made(header=True).info.source.arrays.shape == (40, 3)
    assert made(header=False).info.source.arrays.shape == (41, 3)
    one_line_error(made, "whether the first line, 1, 2, 3, is a header or a row")
    one_line_error(lambda: made(header="yes"), "setting.source.header: expected one of 'auto' or true or false")


# Missing values


@pytest.mark.parametrize("text", ["x\n1\n\n2\n3\n4\n", "1\n2\n\n3\n", "\n1\n2\n3\n", '1\n""\n2\n3\n', "1\n  \n2\n",
                                  "x\n\n1\n2\n", "1\n2\n\n", "0\n0.5\n\n1.5\n"])  # fmt: skip
def test_an_empty_line_of_one_column_is_a_missing_value(text, tmp_path):
    place = [line.strip('" ') for line in text.removeprefix("x\n").removeprefix("0\n").split("\n")].index("") + 1
    one_line_error(lambda: read(tmp_path, text), f"row {place}, column 1", "holds nothing", "fill such cells")
    two = "\n".join(line and f"{line},{line}" for line in text.replace('""', "").replace("  ", "").split("\n"))
    assert len(read(tmp_path, two).values) >= 2  # of two columns it is no row


@pytest.mark.parametrize("mark", ["", "NA", "nan", "NaN", "None", "?"])
def test_missing_values_keep_their_place(mark, tmp_path):
    one_line_error(lambda: read(tmp_path, f"a,b\n1,2\n3,{mark}\n5,6\n"), "row 2, column 2 ('b') holds")


# Classes


@pytest.mark.parametrize(
    ("values", "names"),
    [([1, 2], ("1", "2")), ([-1, 1], ("-1", "1")), ([0, 2, 7], ("0", "2", "7")), ([0, 1], ("0", "1")),
     (["no", "yes"], ("no", "yes")), (["NA", "US", "a b"], ("NA", "US", "a b"))],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "bare.csv", "parquet", "category.parquet", "array"])
def test_labels_are_classes_under_their_own_names(values, names, kind, tmp_path):
    label = np.array(values, dtype=object)[np.arange(60) % len(values)]
    frame = pd.DataFrame({"a": RNG.normal(size=60), "b": RNG.normal(size=60), "label": label}).infer_objects()
    if kind == "array":
        source = data.array(frame, labels=True)
    elif "parquet" in kind:
        frame.astype({"label": "category"} if "category" in kind else {}).to_parquet(tmp_path / "x.parquet")
        source = data.table(tmp_path / "x.parquet", labels=True)
    else:
        source = data.table(to_csv(tmp_path, frame, header=kind == "csv"), labels=True)
    assert source.classes == len(values)
    assert source.class_names == names
    rows = np.concatenate([source.arrays, source.held_out(12)])
    number = {a: values.index(of) for a, of in zip(frame["a"], label, strict=True)}
    assert all(number[row[0]] == row[2] for row in rows)
    setting = logistic_regression(source=source, num_test=12)
    assert setting.metrics[0].baseline == pytest.approx(np.log(len(values)))
    assert set(np.unique(np.asarray(setting.world().real)[:, -1])) == set(range(len(values)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,x\n2,y\n3,4\n4,x\n", ["row 1, column 2 ('b') holds 'x'", "every cell of the column a word"]),
        ("a,b\n1,x\n2,\n3,y\n4,x\n", ["row 1, column 2 ('b') holds 'x'"]),
        ("a,b\n1,x\n2,x\n3,x\n4,x\n", ["all labels are x; two classes or more"]),
        ("a,b\n1,5\n2,6\n3,7\n4,8\n", ["each row has a label of its own"]),
        ("a,b,c\nu,1,x\nv,2,y\n", ["row 1, column 1 ('a') holds 'u'", "encode_words: true"]),
    ],
)
def test_labels_that_are_none(text, words, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    one_line_error(lambda: data.table(tmp_path / "x.csv", labels=True, test_fraction=0.5), *words)


# Words


@pytest.mark.parametrize("kind", ["csv", "parquet", "array"])
@pytest.mark.parametrize("labels", [False, True])
def test_words_become_columns(kind, labels, tmp_path):
    frame = pd.DataFrame({"x": RNG.normal(size=40), "town": np.array(["Rom", "Bern", "Oslo"])[np.arange(40) % 3],
                          "y": RNG.normal(size=40), "sex": np.array(["f", "m"])[np.arange(40) // 2 % 2]})  # fmt: skip
    if kind == "array":
        make = lambda **options: data.array(frame, **options)  # noqa: E731
    elif kind == "parquet":
        frame.to_parquet(tmp_path / "x.parquet")
        make = lambda **options: data.table(tmp_path / "x.parquet", **options)  # noqa: E731
    else:
        make = lambda **options: data.table(to_csv(tmp_path, frame), **options)  # noqa: E731
    one_line_error(lambda: make(labels=labels), "column 2", "holds 'Rom'", "encode_words: true")
    source = make(encode_words=True, labels=labels, test_fraction=0.25, columns=4)
    expected = pd.get_dummies(frame, drop_first=True, dtype=float)[["x", "town_Oslo", "town_Rom", "y", "sex_m"]]
    rows = np.concatenate([source.arrays, source.held_out(10)])
    np.testing.assert_allclose(rows[rows[:, 0].argsort()], expected.sort_values("x"), rtol=1e-12)
    assert source.classes == (2 if labels else None)


def test_words_without_numbers_beside_them(tmp_path):
    lines = "\n".join(["u,v", "w,v", "u,w"] * 5) + "\n"
    options = {"encode_words": True, "test_fraction": 0.5}
    (tmp_path / "x.csv").write_text(lines)
    one_line_error(lambda: data.table(tmp_path / "x.csv", **options), "whether the first line of words")
    assert len(data.table(tmp_path / "x.csv", header=False, **options).held_out(8)) == 8
    assert data.table(tmp_path / "x.csv", header=True, **options).num_held_out == 7


# What is told


def told(make):
    table_checks._said.clear()  # a warning is given once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    lines = [str(warning.message) for warning in caught if warning.category is TableWarning]
    assert all("\n" not in line for line in lines)
    return lines


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (lambda x: np.column_stack([x, np.full(50, 7.0)]), "column 4 is constant"),
        (lambda x: np.column_stack([x, x[:, 1]]), "column 4 repeats column 2"),
        (lambda x: np.column_stack([x, x[:, 0] - 2 * x[:, 1]]), "a column is a linear combination of others"),
        (lambda x: np.tile(x[:3], (10, 1)), "3 different rows to train on have 3 columns"),
        (lambda x: x.reshape(5, 30), "3 rows to train on have 30 columns"),
    ],
)
def test_rows_without_a_density_are_told(columns, words):
    x = RNG.normal(size=(50, 3))
    table = columns(x)
    (line,) = told(lambda: data.array(table, test_fraction=0.4))
    assert words in line
    assert "log_det_ratio is not finite" in line
    source = data.array(table, test_fraction=0.4)
    runs = cj.run(
        cj.settings.gaussian(source=source, num_test=2),
        "replace",
        num_samples=200,
        num_generations=1,
        num_chains=2,
        metrics=["log_det_ratio"],
    )  # what the warning says
    assert not np.isfinite(runs.log_det_ratio).any()
    assert not told(lambda: data.array(x))


def test_a_class_without_a_row_to_train_on_is_told():
    table = np.column_stack([RNG.normal(size=(20, 1)), np.arange(20) % 2])
    table[0, 1] = 5
    where = [told(lambda seed=seed: data.array(table, labels=True, seed=seed)) for seed in range(12)]
    assert any(where)
    assert all("no row to train on has the label 5" in line for lines in where for line in lines)
    assert jnp.isfinite(data.array(table, labels=True).arrays).all()


# Settings of few rows


@pytest.mark.parametrize("name", ["gaussian", "kde", "gaussian_mixture", "ideal_diffusion", "flow_matching", "vae",
                                  "diffusion", "logistic_regression"])  # fmt: skip
def test_defaults_take_all_rows_that_are_held_out(name):
    """A table holds out fewer rows than metrics take by default; what is asked for in numbers must exist."""
    table = np.column_stack([RNG.normal(size=(80, 2)), np.arange(80) % 2])
    source = data.array(table, labels=True) if name == "logistic_regression" else data.array(table[:, :2])
    make = getattr(cj.settings, name)
    setting = make(source=source)
    world = jax.eval_shape(setting.world) if name in ("vae", "diffusion") else setting.world()
    if name != "gaussian":  # which keeps moments of the test rows
        assert {len(leaf) for leaf in jax.tree.leaves(world.test)} == {16}
    one_line_error(make(source=source, num_test=17).world, "17 held-out rows asked for, 16 exist")
    assert make(source=None, num_test=20).world is not None


def test_diffusion_of_digits_works_with_its_defaults():
    source = data.digits(pca=None)
    setting = cj.settings.diffusion(source=source, steps=60, width=8, depth=1, rows_at_once=64, sampler_steps=2)
    runs = cj.run(setting, "replace", num_samples=32, num_generations=1, num_chains=1, metrics=["test_loss"])
    assert setting.world().test.shape == (359, 64)
    assert np.isfinite(runs.test_loss).all()
