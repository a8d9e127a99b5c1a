"""Data sets, their augmentation, and streams of batches from them."""

from fastuda.data.batch import Batch
from fastuda.data.build import Domains, build_dataset, build_domains
from fastuda.data.cache import ImageCache
from fastuda.data.classes import ClassSet, class_set
from fastuda.data.config import Augment, DataConfig, DatasetConfig, find_task
from fastuda.data.dataset import Dataset, Entry
from fastuda.data.errors import DataError
from fastuda.data.layout import Layout
from fastuda.data.layouts import LAYOUTS, find_layout
from fastuda.data.listing import image_files
from fastuda.data.loader import auto_workers, loader
from fastuda.data.photometric import Photometric, standardise
from fastuda.data.stream import EvalStream, TrainStream, image_weights
from fastuda.data.strict import from_dict, load_yaml
from fastuda.data.tables import IdTable

__all__ = [
    "LAYOUTS",
    "Augment",
    "Batch",
    "ClassSet",
    "DataConfig",
    "DataError",
    "Dataset",
    "DatasetConfig",
    "Domains",
    "Entry",
    "EvalStream",
    "IdTable",
    "ImageCache",
    "Layout",
    "Photometric",
    "TrainStream",
    "auto_workers",
    "build_dataset",
    "build_domains",
    "class_set",
    "find_layout",
    "find_task",
    "from_dict",
    "image_files",
    "image_weights",
    "load_yaml",
    "loader",
    "standardise",
]
