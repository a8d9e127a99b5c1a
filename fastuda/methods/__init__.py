"""The adaptation methods, one file each."""

from fastuda.methods.config import Recipe, Schedule
from fastuda.methods.protocol import Losses, Method, Networks, Passes, Stage, View
from fastuda.methods.registry import METHODS, build_method, find_method
from fastuda.methods.source import Source, learning_rate

__all__ = [
    "METHODS",
    "Losses",
    "Method",
    "Networks",
    "Passes",
    "Recipe",
    "Schedule",
    "Source",
    "Stage",
    "View",
    "build_method",
    "find_method",
    "learning_rate",
]
