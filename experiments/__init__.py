"""Published figures, each from a config to a dataset to a picture and its verdicts: ``python -m experiments``.

The files of this folder that ``NAMES`` lists hold one figure or table each, in the order of ``docs/gallery.md``; the
others are scripts of their own.
"""

NAMES = (
    "gaussian", "kde", "regression", "discrete", "cardinality",  # arXiv 2410.16713
    "accumulate_regression", "language_model",  # 2404.01413
    "definitions",  # 2503.03150
    "universality",  # 2410.22812
    "golden_ratio",  # 2502.18049
    "rates",  # 2412.17646
    "three_loops",  # 2307.01850
    "curation",  # 2407.09499
    "verification",  # 2406.07515
)  # fmt: skip
