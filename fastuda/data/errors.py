"""Errors of data on disk. Each message is one sentence that names the file."""

from __future__ import annotations


class DataError(ValueError):
    """The data on disk are not what the config says."""


class UnreadableFile(DataError):
    """An image or label file that is missing or does not decode."""


class SizeMismatch(DataError):
    """An image and its label differ in size."""


class UnknownId(DataError):
    """A label holds an id that the id table does not name."""


class LostWorker(RuntimeError):
    """A data loading process was killed."""
