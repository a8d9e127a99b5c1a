"""fastuda: unsupervised domain adaptation of semantic segmentation, with compiled operators."""

# fastuda._C needs torch's libraries and does not say where they lie: an rpath to the folder beside this package would
# be right for a wheel, but not for an editable install. Python runs this file before any module of the package.
import torch as _torch  # noqa: F401

__version__ = "0.1.0"
