"""Keep the results of runs: labelled datasets, their stores on disk or in a bucket, and their summaries."""

from collapse_jax.core.errors import StoreError
from collapse_jax.results.io import (
    CONFIG,
    PAGES,
    PICTURE,
    TABLES,
    check_free,
    open,
    save,
    store_path,
    to_parquet,
)
from collapse_jax.results.store import require_place
from collapse_jax.results.summary import MetricSummary, curve_positions, select_position, summarize

__all__ = [
    "CONFIG",
    "PAGES",
    "PICTURE",
    "TABLES",
    "MetricSummary",
    "StoreError",
    "check_free",
    "curve_positions",
    "open",
    "require_place",
    "save",
    "select_position",
    "store_path",
    "summarize",
    "to_parquet",
]  # fmt: skip
