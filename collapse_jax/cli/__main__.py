"""Run the command line as ``python -m collapse_jax.cli``."""

import sys

from collapse_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
