"""The picture of generated images."""

import numpy as np
import pytest
import xarray as xr

from collapse_jax import results
from collapse_jax.cli.main import main
from collapse_jax.reporting import plot_images, sample_pages


def images(shape, dims, policies=("replace", "accumulate")):
    values = np.random.default_rng(0).uniform(size=(len(policies), *shape))
    coords = {"policy": list(policies), "generation": np.arange(1, shape[dims.index("generation")] + 1)}
    return xr.Dataset({"sample_image": (("policy", *dims), values)}, coords, {"setting": "diffusion"})


DIMS = ("chain", "generation", "sample", "y", "x")


def test_every_image_is_in_its_place():
    ds = images((2, 3, 4, 5, 6), DIMS)
    figure = plot_images.draw_samples(ds)
    assert [ax.get_title() for ax in figure.axes] == ["replace", "accumulate"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["1", "2", "3"]
    for number, ax in enumerate(figure.axes):
        shown = ax.images[0].get_array().reshape(3, 6, 4, 7)
        for generation in range(3):
            for sample in range(4):
                expected = ds.sample_image[number, 0, generation, sample]
                np.testing.assert_array_equal(shown[generation, :5, sample, :6], expected)
        assert (shown[:, 5] == 1).all()
        assert (shown[..., 6] == 1).all()


def test_colours_grids_and_long_runs():
    ds = images((2, 2, 30, 20, 3, 4, 3), ("width", *DIMS, "channel"), [f"p{i}" for i in range(9)])
    figure = plot_images.draw_samples(ds)
    assert len(figure.axes) == 6
    assert figure.axes[0].images[0].get_array().shape == (8 * 4, 8 * 5, 3)
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (ticks[0], ticks[-1], len(ticks)) == ("1", "30", 8)


def test_values_out_of_range_and_missing_ones():
    ds = images((1, 1, 1, 2, 2), DIMS, ("replace",))
    ds.sample_image[:] = np.array([[-3.0, 0.2], [7.0, np.nan]])
    shown = plot_images.draw_samples(ds).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown[:2, :2], [[0.0, 0.2], [1.0, 0.5]])


def test_the_title_of_a_narrow_picture_is_not_cut_off():
    ds = images((1, 2, 8, 4, 4), DIMS, ("replace",)).assign_attrs(setting="self_supervised")
    figure = plot_images.draw_samples(ds)
    figure.draw_without_rendering()
    title = figure.get_suptitle()
    assert title.replace("\n", " ") == "self_supervised · images of chain 0, from the same noise under each policy"
    (text,) = figure.texts
    box = text.get_window_extent()
    assert box.x0 > 0
    assert box.x1 < figure.bbox.x1


def test_the_file_and_what_has_none(tmp_path):
    ds = images((1, 2, 2, 3, 3), DIMS)
    assert plot_images.has_images(ds)
    path = plot_images.plot_samples(ds, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_images.write_sample_images(ds, tmp_path) == str(tmp_path / "samples.png")
    assert sample_pages.write_samples(ds, tmp_path) == [str(tmp_path / "samples.png")]
    assert not plot_images.has_images(ds.drop_vars("sample_image"))
    with pytest.raises(ValueError, match="sample_image: the run kept no images") as caught:
        plot_images.draw_samples(ds.drop_vars("sample_image"))
    assert "\n" not in str(caught.value)


def test_the_command_draws_curves_and_images(tmp_path, capsys):
    ds = images((2, 3, 2, 3, 3), DIMS)
    ds.sample_image.attrs["value_dims"] = ["sample", "y", "x"]
    place = results.save(ds, tmp_path / "run")
    assert main(["plot", str(place)]) == 0
    assert capsys.readouterr().out == f"picture: {place / 'samples.png'}\n"
    ds["loss"] = ds.sample_image.mean(["sample", "y", "x"], keep_attrs=False)
    place = results.save(ds, tmp_path / "other")
    assert main(["plot", str(place)]) == 0
    assert [(place / name).exists() for name in ("metrics.png", "samples.png")] == [True, True]
