"""Tables of the user's own, and what is said of bad ones."""

import inspect
import sys
import types
import typing

import jax
import numpy as np
import pandas as pd
import pytest
from table_rows import ROWS

import collapse_jax.data as data
from collapse_jax.core import registry
from collapse_jax.data.readers import read_table

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("kind", ["npy", "csv", "bare.csv", "quoted.csv", "commented.csv", "parquet", "CSV"])
def test_round_trips(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    if kind == "npy":
        np.save(path, ROWS)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "commented.csv":
        np.savetxt(path, ROWS, delimiter=",", fmt="%.17g", header="a,b,c\nby numpy")
    else:
        frame.to_csv(
            path, index=False, header=kind != "bare.csv", quoting=int(kind == "quoted.csv"), lineterminator="\r\n"
        )
    for expected, source in [(data.array(ROWS), data.table(str(path))), (data.array(ROWS), data.table(path))]:
        np.testing.assert_array_equal(source.arrays, expected.arrays)
        np.testing.assert_array_equal(source.held_out(10), expected.held_out(10))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n\n3,4\n   \n5,6\n", [[1, 2], [3, 4], [5, 6]]),
        ("\ufeff1,2\r\n3,4\r\n", [[1, 2], [3, 4]]),
        ('"a\nlong, name",b\n1,2\n3, "4"\n', [[1, 2], [3, 4]]),
        ("x\n1\n2e-3\n", [[1], [2e-3]]),
        ("# made by hand\n\n1,2\n3,4", [[1, 2], [3, 4]]),
    ],
)
def test_csv_dialects(text, expected, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_table(path).values, expected)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "float32", "bool", "int8", "object"])
def test_parquet_dtypes(dtype, tmp_path):
    frame = pd.DataFrame({"a": pd.array([1, 0, 1, 1], dtype=dtype), "b": [1.0, 2, 3, 4]})
    frame.to_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_table(tmp_path / "x.parquet").values, [[1, 1], [0, 2], [1, 3], [1, 4]])


def test_split():
    source = data.array(ROWS, test_fraction=0.25)
    both = np.concatenate([source.held_out(13), source.arrays])  # 12.5 rounds up
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(ROWS, axis=0))
    np.testing.assert_allclose(source.covariance, np.cov(source.arrays.T, ddof=0))
    assert not np.array_equal(source.arrays, data.array(ROWS, test_fraction=0.25, seed=1).arrays)


def test_standardise_by_the_train_split():
    rows = np.column_stack([ROWS, np.full(50, 0.1)])
    plain, ours = data.array(rows), data.array(rows, standardize=True, columns=4)
    np.testing.assert_allclose(ours.mean, 0, atol=1e-12)
    np.testing.assert_allclose(np.diag(ours.covariance), [1, 1, 1, 0], atol=1e-12)
    assert (ours.arrays[:, 3] == 0).all()
    assert (ours.held_out(10)[:, 3] == 0).all()
    expected = (plain.held_out(10) - plain.mean)[:, :3] / plain.arrays.std(0)[:3]
    np.testing.assert_allclose(ours.held_out(10)[:, :3], expected)


def test_real_rows_come_from_the_train_split():
    source = data.array(np.arange(20.0)[:, None])
    drawn = np.unique(source.draw(jax.random.key(0), source.arrays, 1000))
    np.testing.assert_array_equal(drawn, np.sort(source.arrays[:, 0]))


# Errors


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    elif content is not None:
        with path.open("wb") as file:
            np.save(file, content)


NAN = ROWS.copy()
NAN[6, 1] = np.nan
FEW = "1,2\n" * 5

BAD_FILES = [
    ("gone.csv", None, ["no such file"]),
    ("empty.csv", "", ["empty"]),
    ("empty.npy", b"", ["empty"]),
    ("x.txt", "1,2", ["'.txt'", ".npy, .csv, .parquet"]),
    ("x", "1,2", ["unknown extension"]),
    ("x.npy", b"PK not this", [".npy", "numpy.save"]),
    ("x.npy", b"\x93NUMPY\x01\x00garbage", [".npy", "numpy.save"]),
    ("cut.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9, 9), }", ["numpy.save"]),
    ("x.npy", np.array([["a", "b"]]), ["<U1", "not numeric"]),
    ("x.npy", np.array([[1, None]], dtype=object), ["not a readable .npy"]),
    ("x.npy", np.ones((4, 2), complex), ["complex128", "not numeric"]),
    ("x.npy", np.ones(9), ["1-D", "reshape(-1, 1)"]),
    ("x.npy", np.ones((2, 3, 4)), ["3-D", "[rows, columns]"]),
    ("x.npy", np.array(1.0), ["0-D"]),
    ("x.npy", np.ones((9, 0)), ["no columns"]),
    ("x.npy", np.ones((0, 2)), ["0 rows", "at least 2"]),
    ("x.npy", NAN, ["row 7, column 2 holds nan", "drop or fill"]),
    ("x.npy", np.full((5, 2), 1e30), ["row 1, column 1 holds 1e+30", "rescale"]),
    ("x.csv", b"PAR1\xff\xfe\x00\x01", ["not a readable .csv", "commas"]),
    ("x.csv", "a,b\n", ["no rows of numbers"]),
    ("x.csv", "\n\n", ["no rows of numbers"]),
    ("x.csv", "a,b\n1,2\n3,x y\n5,6\n", ["row 2, column 2 ('b') holds 'x y'", "must be a number"]),
    ("x.csv", "1,2\n3,\n5,6\n", ["row 2, column 2 holds nothing"]),
    ("x.csv", "1,2\n3,4\n1_0,6\n", ["row 3, column 1 holds '1_0'"]),
    ("x.csv", "a,b\n1,2\n3,4,5\n", ["row 2 has 3 cells", "have 2"]),
    ("x.csv", "a,b\n1,2,3\n3,4,5\n", ["header has 2 names", "3 cells"]),
    ("x.csv", "1,two\n3,4\n", ["column 2 holds 'two'", "header has names only"]),
    ("x.csv", ",a\n0,1\n1,2\n", ["column 1 has no name", "index=False"]),
    ("x.csv", "a;b\n1;2\n3;4\n", ["row 1, column 1", "separate cells by commas"]),
    ("x.csv", "1;2\n3;4\n", ["row 1, column 1", "separate cells by commas"]),
    ("x.csv", FEW + "1,nan\n", ["row 6, column 2 holds nan"]),
    ("x.csv", "a,b\n" + FEW + "-inf,1\n", ["row 6, column 1 ('a') holds -inf"]),
    ("x.csv", "1,2\n", ["1 rows", "test_fraction"]),
    ("x.csv", FEW, ["5 rows leave 4 to train on and 1 held out"]),
    ("x.parquet", b"not parquet at all", ["not a readable .parquet", "to_parquet"]),
    ("x.parquet", pd.DataFrame({"a": [1.0, 2.0], "t": ["u", "v"]}), ["row 1, column 2 ('t') holds 'u'"]),
    ("x.parquet", pd.DataFrame({"a": [1.0, None]}), ["row 2, column 1 ('a') holds nan"]),
    ("x.parquet", pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}), ["column 1 ('t') holds datetime64"]),
    ("x.parquet", pd.DataFrame(index=range(5)), ["no columns"]),
]


def one_line_error(make, *words, kind=ValueError):
    with pytest.raises(kind) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES)
def test_bad_files(name, content, words, tmp_path):
    write(tmp_path / name, content)
    kind = FileNotFoundError if content is None else ValueError
    one_line_error(lambda: data.table(str(tmp_path / name)), str(tmp_path / name), *words, kind=kind)


def test_object_npy_and_folders(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    one_line_error(lambda: data.table(str(tmp_path / "folder.csv")), "not a file")
    np.savez(tmp_path / "x.npz", a=ROWS)
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    one_line_error(lambda: data.table(str(tmp_path / "x.npy")), ".npz archive")
    one_line_error(lambda: data.table("~nobody-of-this-name/x.csv"), "no such file", kind=FileNotFoundError)
    one_line_error(lambda: data.table("x" * 5000 + ".csv"), "cannot be read")
    one_line_error(lambda: data.table("a\0b.csv"), "no such file", kind=FileNotFoundError)


@pytest.mark.parametrize("missing", ["pandas", "pyarrow.parquet"])
def test_parquet_without_its_extra(missing, tmp_path, monkeypatch):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, missing, None)
    for kind in (ImportError, ValueError):
        one_line_error(
            lambda: data.table(str(tmp_path / "x.parquet")), "pip install 'collapse-jax[parquet]'", kind=kind
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: data.array(ROWS, columns=4), ["array: 3 columns", "columns=4"]),
        (lambda: data.array(ROWS[:, 0]), ["reshape(-1, 1)"]),
        (lambda: data.array(1.6e9 + 100 * ROWS), ["array: column 1", "too narrow", "standardize: true"]),
        (lambda: data.array([[1, 2], [3]]), ["equal length"]),
        (lambda: data.array([[1, 2], [3, "a"]] * 5), ["not numeric"]),
        (lambda: data.array(np.array([[1, 2], [3, "a"]] * 5, dtype=object)), ["row 2, column 2 holds 'a'"]),
        (lambda: data.array(ROWS).held_out(11), ["array: 11", "10 exist"]),
        (lambda: data.digits().held_out(1000), ["digits: 1000", "359 exist"]),
        (lambda: data.array(ROWS).held_out(-1), ["array.held_out: num", "not -1"]),
        (lambda: data.normal().held_out(2.5), ["normal.held_out", "not 2.5"]),
        (lambda: data.digits(pca=20, test_fraction=0.995), ["9 train rows", "pca=20"]),
    ],
)
def test_other_errors(make, words):
    one_line_error(make, *words)


BAD_ARGUMENTS = [
    ("normal", "dim", [0, -1, 1.5, "2", True, None]),
    ("normal", "mean", [np.nan, np.inf, "0", None, 10**400]),
    ("normal", "scale", [0, -1.0, np.nan, "1"]),
    ("blobs", "num_centers", [0, 2.0]),
    ("blobs", "dim", [0]),
    ("blobs", "std", [0.0, -1, None]),
    ("blobs", "box", [0.0, np.inf]),
    ("blobs", "seed", [-1, 2**32, 0.5]),
    ("blobs", "shared_centers", [1, "no"]),
    ("blobs", "per_chain", [1, "no"]),
    ("blobs", "counts", ["even", None]),
    ("circles", "spacing", ["equal", 1]),
    ("circles", "noise", [-0.1, "a"]),
    ("circles", "factor", [-0.1, 1.0, 2]),
    ("moons", "noise", [-0.1, [1, 2]]),
    ("moons", "spacing", ["equal", 1]),
    ("circles", "per_chain", [1, "no"]),
    ("moons", "per_chain", [1, "no"]),
    ("swiss_roll", "per_chain", [1, "no"]),
    ("swiss_roll", "noise", [-1e-9]),
    ("digits", "pca", [0, 65, 8.0, "8"]),
    ("digits", "standardize", [1, None]),
    ("digits", "labels", [0, "no"]),
    ("digits", "test_fraction", [0, 1, -0.5, 1.5, np.nan]),
    ("digits", "seed", [-1]),
    ("digits", "minority", [0.0, 1.5, "few"]),
    ("digits", "minority_classes", [0, 1.0]),
    ("glyphs", "labels", ["letters", None, True]),
    ("glyphs", "letters", [0, 27, 2.0]),
    ("glyphs", "test_fraction", [0, 1]),
    ("glyphs", "seed", [-1]),
    ("glyphs", "minority", [0.0, 1.5]),
    ("glyphs", "minority_classes", [0]),
    ("image_files", "path", [3, None, b"x", ""]),
    ("image_files", "labels", ["yes"]),
    ("image_files", "test_fraction", [0, 1]),
    ("image_files", "seed", [-1]),
    ("image_files", "white", [0, "1"]),
    ("image_files", "channels", [2, "rgb"]),
    ("image_files", "minority", [0.0, 1.5]),
    ("image_files", "minority_classes", [0]),
    ("tfds_images", "name", [3, ""]),
    ("tfds_images", "labels", ["yes"]),
    ("tfds_images", "image", [0, ""]),
    ("tfds_images", "label", [None]),
    ("tfds_images", "test_fraction", [0, 1]),
    ("tfds_images", "seed", [-1]),
    ("tfds_images", "white", [0, "1"]),
    ("tfds_images", "minority", [0.0, 1.5]),
    ("tfds_images", "minority_classes", [0]),
    ("table", "path", [3, None, b"x.csv", ""]),
    ("table", "standardize", ["yes"]),
    ("table", "labels", [1, None]),
    ("table", "test_fraction", [0.0, 1.0, True]),
    ("table", "seed", [-1, "0"]),
    ("table", "columns", [0, 2.0]),
    ("table", "header", ["yes", 1, None]),
    ("table", "encode_words", ["yes", 1]),
]


@pytest.mark.parametrize(("name", "argument", "value"), [(n, a, v) for n, a, values in BAD_ARGUMENTS for v in values])
def test_bad_arguments(name, argument, value, csv):
    needed = {"table": {"path": csv}, "image_files": {"path": "x.npz"}, "tfds_images": {"name": "x"}}
    options = {**needed.get(name, {}), argument: value}
    one_line_error(lambda: registry.factories("source")[name](**options), f"{name}: {argument} must be")


# What config files and the command line are generated from


def test_signatures_are_simple():
    simple = {int, float, str, bool, type(None)}

    def is_simple(hint):
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            return all(map(is_simple, typing.get_args(hint)))
        return hint in simple or typing.get_origin(hint) is typing.Literal

    for name, factory in registry.factories("source").items():
        hints = typing.get_type_hints(factory)
        parameters = inspect.signature(factory).parameters
        assert all(is_simple(hints[argument]) for argument in parameters), name
        assert factory.__doc__.splitlines()[0].endswith("."), name
        assert factory.__name__ == name
        assert isinstance(factory, types.FunctionType)
        assert {(n, a) for n, a, _ in BAD_ARGUMENTS if n == name} == {(name, argument) for argument in parameters}
