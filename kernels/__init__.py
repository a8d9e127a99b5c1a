"""Triton kernels, one operator a file."""

if __name__ != "fastuda.kernels":
    raise ImportError("this package is fastuda.kernels; it cannot be imported under another name")
