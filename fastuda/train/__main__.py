"""``python -m fastuda.train``: the command ``fastuda train``."""

import sys

from fastuda.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
