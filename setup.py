"""Builds the one extension ``fastuda._C``; all metadata is in pyproject.toml."""

import os
from glob import glob

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

# CUDA is built wherever nvcc and a CUDA torch are, whether or not a GPU is visible.
cuda = sorted(glob("csrc/cuda/*.cu")) if torch.version.cuda and CUDA_HOME else []
# The stable ABI of torch 2.10: one binary serves every later torch.
defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", f"-DFASTUDA_WITH_CUDA={int(bool(cuda))}"]
flags = {
    "cxx": ["-std=c++20", "-O3", "-Wall", "-Wno-psabi", "-fvisibility=hidden", "-g0", *defines],
    "nvcc": ["-std=c++20", "-O3", "-DUSE_CUDA", *defines],
}
# As many compilers as there are processors, unless the user says otherwise.
os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))

setup(
    ext_modules=[
        (CUDAExtension if cuda else CppExtension)(
            "fastuda._C",
            ["csrc/library.cpp", *sorted(glob("csrc/cpu/*.cpp")), *cuda],
            include_dirs=[os.path.abspath("csrc")],
            depends=sorted(glob("csrc/common/*.h")),
            extra_compile_args=flags,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
