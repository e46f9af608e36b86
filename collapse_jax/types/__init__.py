"""The parts an experiment is made of: NamedTuples of arrays and of pure functions, and nothing else.

- ``pool_0  = {real}``
- ``theta_g = fit(view(pool_{g-1}))``, g = 1 .. T (fit 1 sees real data only)
- ``x_g     = curate(sample(theta_g))``
- ``pool_g  = fade * pool_{g-1} + join(x_g, real)``
"""

from collapse_jax.types.data import ROLES, Array, Batch, Key, Metric, OffAt, Pretext, Tree, World
from collapse_jax.types.functions import (
    ChainWorldFn,
    CompressFn,
    CountFn,
    CurateFn,
    FitFn,
    InitFn,
    JoinFn,
    ObserveFn,
    PrepareInputsFn,
    RelabelFn,
    RelabelStatisticsFn,
    RewriteFn,
    RowScoreFn,
    SampleChildrenFn,
    SampleFn,
    SampleRealFn,
    SampleRealStatisticsFn,
    SampleStatisticsFn,
    SummarizeFn,
    WorldFn,
)
from collapse_jax.types.parts import (
    Chain,
    Curator,
    Extras,
    Info,
    Join,
    JoinCounts,
    LabelOnly,
    LabelStatistics,
    PartlyReal,
    Policy,
    Resample,
    Setting,
    SufficientStatistics,
    Synthetic,
)
from collapse_jax.types.sources import (
    DrawOwnFn,
    DrawRowsFn,
    DrawTextFn,
    HeldOutRowsFn,
    HeldOutTextFn,
    LogDensityFn,
    LogProbabilityFn,
    OwnData,
    RealTextFn,
    Source,
    Symbols,
    Text,
)

__all__ = [
    "ROLES", "Array", "Batch", "Chain", "ChainWorldFn", "CompressFn", "CountFn", "CurateFn", "Curator", "DrawOwnFn",
    "DrawRowsFn", "DrawTextFn", "Extras", "FitFn", "HeldOutRowsFn", "HeldOutTextFn", "Info", "InitFn", "Join",
    "JoinCounts", "JoinFn", "Key", "LabelOnly", "LabelStatistics", "LogDensityFn", "LogProbabilityFn", "Metric",
    "ObserveFn", "OffAt", "OwnData", "PartlyReal", "Policy", "PrepareInputsFn", "Pretext", "RealTextFn", "RelabelFn",
    "RelabelStatisticsFn", "Resample", "RewriteFn", "RowScoreFn", "SampleChildrenFn", "SampleFn", "SampleRealFn",
    "SampleRealStatisticsFn", "SampleStatisticsFn", "Setting", "Source", "SufficientStatistics", "SummarizeFn",
    "Symbols", "Synthetic", "Text", "Tree", "World", "WorldFn",
]  # fmt: skip
