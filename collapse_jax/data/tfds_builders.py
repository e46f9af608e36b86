"""The embedded data as TensorFlow Datasets builders; importing this module imports tensorflow_datasets.

No TensorFlow is needed, as long as the builders are made with ``file_format="array_record"``.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from collapse_jax.data import bundled

FILE_FORMAT = "array_record"


class CollapseDigits(tfds.core.GeneratorBasedBuilder):
    """The 1,797 digit images of 8x8 pixels that scikit-learn bundles, in its order."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "As in scikit-learn's load_digits."}  # noqa: RUF012  # tfds declares it so

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, 8x8 pixels of 0..16 (UCI, CC BY 4.0).",
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            features=tfds.features.FeaturesDict(
                {
                    "index": tfds.features.Scalar(np.int64),
                    "image": tfds.features.Tensor(shape=(8, 8), dtype=np.uint8),  # Image needs TensorFlow
                    "label": tfds.features.Scalar(np.uint8),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing to download
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        digits = bundled.read_digits()
        for index, (image, label) in enumerate(zip(digits.image, digits.label, strict=True)):
            yield index, {"index": index, "image": image, "label": label}


def load_digits() -> bundled.Digits:
    """Load the digits from tfds, which prepares them in the user's cache at the first call."""
    root = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    if "://" not in root:  # buckets have no atomic rename of folders
        try:
            return _load_digits_in(Path(os.path.expanduser(root)))
        except Exception:  # not writable, or damaged: a private copy gives the same rows
            pass
    with tempfile.TemporaryDirectory(prefix="collapse-jax-") as private:
        return _load_digits_in(Path(private))


def _load_digits_in(root: Path) -> bundled.Digits:
    _prepare_builder(CollapseDigits, root)
    source = CollapseDigits(data_dir=str(root), file_format=FILE_FORMAT).as_data_source("train")
    examples = sorted(source.__getitems__(range(len(source))), key=lambda example: int(example["index"]))
    return bundled.Digits(
        image=np.stack([example["image"] for example in examples]),
        label=np.array([example["label"] for example in examples], dtype=np.uint8),
    )


def _prepare_builder(builder: type[tfds.core.GeneratorBasedBuilder], root: Path) -> None:
    """Prepare a builder under `root`, unless it is there: in a folder of its own, then by one atomic rename.

    Processes that do so at the same time cannot see each other's files; the first rename wins, and the rows are the
    same.
    """
    where = Path(builder.name) / str(builder.VERSION)
    if (root / where).is_dir():
        return
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".collapse-jax-", dir=root) as private:
        with _silence_tfds():
            builder(data_dir=private, file_format=FILE_FORMAT).download_and_prepare()
        try:
            os.rename(Path(private) / where, root / where)
        except OSError:
            if not (root / where).is_dir():  # else another process was faster
                raise


@contextlib.contextmanager
def _silence_tfds() -> Iterator[None]:
    """Suppress tfds's messages and progress bars."""
    was_active = getattr(tqdm_utils, "_active", True)
    tqdm_utils.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(was_active)
