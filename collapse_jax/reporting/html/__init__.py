"""Write the report of a run: one HTML page that holds everything it shows and loads nothing from anywhere.

It needs the extra ``report`` (plotly, whose JavaScript the page carries, and jinja2).
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
from collapse_jax.analysis.verdicts import score
from collapse_jax.core.errors import MissingExtraError, explain_write_errors
from collapse_jax.reporting.html import charts, samples, tables, text

PAGE = "report.html"


def write_report(ds: xr.Dataset, path: Path | str, reload_seconds: float | None = None) -> Path:
    """Write the report of a run and return its path; an existing page is replaced in one step.

    Args:
      ds: a dataset that ``sweep``, ``run`` or ``open`` returned; unfinished cells may be NaN.
      path: the page to write.
      reload_seconds: seconds after which the page reloads itself while the run is not finished; None: never.

    Raises:
      MissingExtraError: the extra ``report`` is missing.
      StoreError: the page cannot be written.
      UsageError: `ds` is not the dataset of a run.
    """
    page, path = render_report(ds, reload_seconds, folder=Path(path).parent), Path(path)
    partial = None
    try:
        with explain_write_errors(path):
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=".report.", delete=False, encoding="utf-8"
            ) as file:
                partial = Path(file.name)
                file.write(page)
            partial.chmod(0o644)
            os.replace(partial, path)
    except BaseException:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise
    return path


def watch_run(place: Any, path: Path | str, seconds: float) -> Iterator[str]:
    """Write the report of a run whenever more of it is done, until all is, and yield how far the run is.

    Args:
      place: the run, as ``results.open`` takes it.
      path: the page to write.
      seconds: the time between two looks at the run.
    """
    before = None
    while True:
        ds = results.open(place)
        if (share := ds.attrs.get("done", 1.0)) != before:
            write_report(ds, path, reload_seconds=seconds)
            yield text.format_progress(ds)
        if text.is_done(ds):
            return
        before = share
        time.sleep(seconds)


def render_report(ds: xr.Dataset, reload_seconds: float | None = None, folder: Path | None = None) -> str:
    """Return the page as text.

    Args:
      ds: the dataset of a run.
      reload_seconds: see ``write_report``.
      folder: the folder of the page: the page links to results files that are there.
    """
    collapse_times.check_run("report", ds)
    template, plotly = _load_template(), _load_plotly()
    verdicts, chart_data = score(ds), charts.make_charts(ds)
    records = tables.list_records(ds, chart_data)
    config = str(ds.attrs.get("config", ""))
    reload_seconds = None if text.is_done(ds) else reload_seconds
    images, texts = samples.collect_images(ds), samples.collect_texts(ds)
    names = ("results.parquet", *results.PAGES)
    data = {"charts": chart_data, "images": images, "texts": texts, "again": reload_seconds}
    return template.render(
        title=f"{text.setting_name(ds)}: {', '.join(text.policy_labels(ds))}",
        facts=text.list_facts(ds),
        question=text.write_question(ds),
        answer=text.write_answer(ds, verdicts),
        is_done=text.is_done(ds),
        done=text.format_progress(ds),
        again=reload_seconds,
        charts=chart_data,
        images=images,
        texts=texts,
        policies=text.policy_labels(ds) or ["all"],
        differences=tables.tabulate_differences(ds),
        evidence=tables.tabulate_evidence(ds, verdicts),
        numbers=tables.tabulate_numbers(ds),
        csv=tables.encode_csv(records),
        parquet=tables.encode_parquet(records),
        config=config,
        config_file=tables.encode_yaml(config),
        files=[name for name in names if folder is not None and (folder / name).exists()],
        version=ds.attrs.get("version_collapse_jax", ""),
        data=_dump_json(data),
        plotly=plotly,
        style=_read_file("page.css"),
        script=_read_file("page.js"),
    )


def _dump_json(value: Any) -> str:
    """Return JSON for a script element: nothing in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _read_file(name: str) -> str:
    return (resources.files("collapse_jax.reporting.html") / name).read_text(encoding="utf-8")


@functools.cache
def _load_plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing_extra() from error
    return str(get_plotlyjs())


def _load_template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise _missing_extra() from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read_file("page.html"))


def _missing_extra() -> MissingExtraError:
    return MissingExtraError("a report needs optional packages: pip install 'collapse-jax[report]'")
