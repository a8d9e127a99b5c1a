"""The tests of interpreted/ need a process of their own, see test_interpreted.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETED else ["interpreted"]
collect_ignore_glob = ["test_*.py"] if INTERPRETED else []
