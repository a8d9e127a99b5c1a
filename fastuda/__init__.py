"""fastuda: unsupervised domain adaptation of semantic segmentation, with compiled operators."""

__version__ = "0.1.0"
