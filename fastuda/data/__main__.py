"""``python -m fastuda.data``: the command ``fastuda data``."""

import sys

from fastuda.cli.data import main

if __name__ == "__main__":
    sys.exit(main())
