"""``python -m fastuda.memory``: the command ``fastuda memory``."""

import sys

from fastuda.cli.memory import main

if __name__ == "__main__":
    sys.exit(main())
