"""``python -m fastuda.report``: the command ``fastuda report``."""

import sys

from fastuda.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
