"""What the user's table of the tests holds."""

import numpy as np

ROWS = np.random.default_rng(0).normal([5.0, -1.0, 0.0], [2.0, 0.1, 1.0], (50, 3))
