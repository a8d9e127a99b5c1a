"""``python -m fastuda.evaluate``: the command ``fastuda evaluate``."""

import sys

from fastuda.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
