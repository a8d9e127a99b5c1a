"""``python -m fastuda.predict``: the command ``fastuda predict``."""

import sys

from fastuda.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
