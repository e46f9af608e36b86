"""The public names of the package: functions, types, errors and the modules of parts."""

from . import curators as curators
from . import data as data
from . import policies as policies
from . import settings as settings
from . import theory as theory
from . import types as types
from .analysis.comparisons import compare as compare
from .analysis.predictions import predict as predict
from .analysis.verdicts import score as score
from .checking.check import check as check
from .config.rerun import arguments_of as arguments_of
from .core.chain import make_chain as make_chain
from .core.chain import simulate as simulate
from .core.errors import UsageError as UsageError
from .core.random import chain_keys as chain_keys
from .core.registry import load_plugin as load_plugin
from .core.registry import register_curator as register_curator
from .core.registry import register_objective as register_objective
from .core.registry import register_policy as register_policy
from .core.registry import register_setting as register_setting
from .core.registry import register_source as register_source
from .core.registry import register_symbols as register_symbols
from .core.registry import register_text as register_text
from .execution.compiled_programs import clear_cache as clear_cache
from .execution.sweep import run as run
from .execution.sweep import sweep as sweep
from .results.io import open as open
from .results.variables import texts_of as texts_of
from .tuning import tune as tune
from .types import Batch as Batch
from .types import Chain as Chain
from .types import Curator as Curator
from .types import Metric as Metric
from .types import Policy as Policy
from .types import Setting as Setting
from .types import Source as Source
from .types import World as World

__version__: str
