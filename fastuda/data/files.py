"""Decoding of image and label files."""

from fastuda.data.image_files import IMAGE_SUFFIXES, image_size, read_image, same_aspect
from fastuda.data.label_files import Read, label_size, read_label_ids

__all__ = ["IMAGE_SUFFIXES", "Read", "image_size", "label_size", "read_image", "read_label_ids", "same_aspect"]
