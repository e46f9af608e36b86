"""The arguments of the runs of this process, so that a dataset made here can be made again whatever its parts are."""

import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_MAX_RUNS = 1000  # whose arguments are kept; older datasets say what was run by their config alone
_runs: OrderedDict[str, Mapping[str, Any]] = OrderedDict()


def remember_arguments(call: str, arguments: Mapping[str, Any], run_id: str | None = None) -> dict[str, str]:
    """Keep the arguments of ``cj.run`` or ``cj.sweep``; return the attributes by which the dataset finds them."""
    run_id = run_id or uuid.uuid4().hex
    _runs[run_id] = arguments
    while len(_runs) > _MAX_RUNS:
        _runs.popitem(last=False)
    return {"call": call, "run_id": run_id}


def recall_arguments(run_id: str | None) -> dict[str, Any] | None:
    """Return the arguments of a run of this process, or None."""
    return dict(_runs[run_id]) if run_id is not None and run_id in _runs else None
