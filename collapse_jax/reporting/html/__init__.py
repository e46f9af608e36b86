"""The report of a run: one HTML page that holds everything it shows, and loads nothing from anywhere.

Needs the extra ``report`` (plotly, whose JavaScript the page carries, and jinja2).
"""

import functools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import xarray as xr

from collapse_jax import results
from collapse_jax.analysis import collapse_times
from collapse_jax.analysis import verdicts as definitions
from collapse_jax.core.errors import StoreError
from collapse_jax.reporting.html import charts, samples, tables
from collapse_jax.reporting.html import text as words

PAGE = "report.html"


def write(ds: xr.Dataset, path: Path | str, again: float | None = None) -> Path:
    """Writes the report of `ds`; a page that is there is replaced in one step.

    Args:
      ds: what ``sweep`` or ``open`` gave; cells that are not finished may be NaN.
      path: of the page.
      again: seconds after which the page loads itself again, as long as the run is not finished; None: never.

    Returns:
      The path.

    Raises:
      StoreError: the extra ``report`` is missing, or `path` cannot be written.
      UsageError: `ds` is not the dataset of a run.
    """
    text, path = render(ds, again, beside=Path(path).parent), Path(path)
    partial = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".report.", delete=False, encoding="utf-8") as f:
            partial = Path(f.name)
            f.write(text)
        partial.chmod(0o644)
        os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    return path


def watch(place: Any, path: Path | str, seconds: float) -> Iterator[str]:
    """Writes the report of a run again and again, whenever more of it is done, until all is.

    Args:
      place: as of ``results.open``.
      path: of the page.
      seconds: between two looks.

    Yields:
      How far the run is, after each page.
    """
    before = None
    while True:
        ds = results.open(place)
        if (share := ds.attrs.get("done", 1.0)) != before:
            write(ds, path, again=seconds)
            yield words.done(ds)
        if words.is_done(ds):
            return
        before = share
        time.sleep(seconds)


def render(ds: xr.Dataset, again: float | None = None, beside: Path | None = None) -> str:
    """The page as text.

    Args:
      ds: as of `write`.
      again: as of `write`.
      beside: the folder where the page will be: what is there is linked to.
    """
    collapse_times.check_run("report", ds)
    template, plotly = _template(), _plotly()
    verdicts, drawn = definitions.score(ds), charts.charts(ds)
    records = tables.records(ds, drawn)
    config = str(ds.attrs.get("config", ""))
    again = None if words.is_done(ds) else again
    images, texts = samples.images(ds), samples.texts(ds)
    files = [name for name in ("results.parquet", *results.PAGES) if beside is not None and (beside / name).exists()]
    return template.render(
        title=f"{words.setting(ds)}: {', '.join(words.policies(ds))}",
        facts=words.facts(ds),
        question=words.question(ds),
        answer=words.answer(ds, verdicts),
        is_done=words.is_done(ds),
        done=words.done(ds),
        again=again,
        charts=drawn,
        images=images,
        texts=texts,
        policies=words.policies(ds) or ["all"],
        evidence=tables.evidence(ds, verdicts),
        numbers=tables.numbers(ds),
        csv=tables.as_csv(records),
        parquet=tables.as_parquet(records),
        config=config,
        config_file=tables.as_yaml(config),
        files=files,
        version=ds.attrs.get("version_collapse_jax", ""),
        data=_json({"charts": drawn, "images": images, "texts": texts, "again": again}),
        plotly=plotly,
        style=_file("page.css"),
        script=_file("page.js"),
    )


def _json(value: Any) -> str:
    """For a script element: nothing in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (resources.files("collapse_jax.reporting.html") / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing() from error
    return str(get_plotlyjs())


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise _missing() from error
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(_file("page.html"))


def _missing() -> StoreError:
    return StoreError("a report needs optional packages: pip install 'collapse-jax[report]'")
