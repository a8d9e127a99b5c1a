"""``python -m fastuda.analyse``: the command ``fastuda analyse``."""

import sys

from fastuda.cli.analyse import main

if __name__ == "__main__":
    sys.exit(main())
