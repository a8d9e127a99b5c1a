"""fastuda: unsupervised domain adaptation of semantic segmentation, with compiled operators."""

# torch's libraries must be in the process before fastuda._C is, which names them without saying where they lie: an rpath
# would be right for a wheel beside torch alone, and Python runs this file before any module of the package.
import torch as _torch  # noqa: F401

__version__ = "0.1.0"
