"""One page about a run: what it learnt, how it got there, and what it costs; in a single HTML file without scripts."""

from fastuda.report.compare import comparison_page
from fastuda.report.page import run_page, write_page
from fastuda.report.run import RunFiles, read_run

__all__ = ["RunFiles", "comparison_page", "read_run", "run_page", "write_page"]
