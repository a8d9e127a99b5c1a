"""``python -m fastuda.export``: the command ``fastuda export``."""

import sys

from fastuda.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
