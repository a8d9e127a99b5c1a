"""Data sets, their augmentation, and streams of batches from them."""

from fastuda.data.batch import Batch
from fastuda.data.build import Domains, build_dataset, build_domains
from fastuda.data.cache import ImageCache
from fastuda.data.classes import ClassSet, class_set
from fastuda.data.config import Augment, DataConfig, DatasetConfig, find_task, from_dict, load_yaml
from fastuda.data.dataset import Dataset
from fastuda.data.errors import DataError
from fastuda.data.loader import auto_workers, loader
from fastuda.data.photometric import Photometric, standardise
from fastuda.data.stream import EvalStream, TrainStream, image_weights

__all__ = [
    "Augment",
    "Batch",
    "ClassSet",
    "DataConfig",
    "DataError",
    "Dataset",
    "DatasetConfig",
    "Domains",
    "EvalStream",
    "ImageCache",
    "Photometric",
    "TrainStream",
    "auto_workers",
    "build_dataset",
    "build_domains",
    "class_set",
    "find_task",
    "from_dict",
    "image_weights",
    "load_yaml",
    "loader",
    "standardise",
]
