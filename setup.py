"""Builds the one extension ``fastuda._C``; all metadata is in pyproject.toml."""

import os
from glob import glob

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

# CUDA is built wherever nvcc and a CUDA torch are, whether or not a GPU is visible.
cuda = sorted(glob("csrc/cuda/*.cu")) if torch.version.cuda and CUDA_HOME else []
if cuda:  # without this list torch would look at the visible GPUs, and fail where there is none
    recent = int(torch.version.cuda.split(".")[0]) >= 13  # CUDA 13 begins at Turing
    cards = "7.5;8.0;8.6;9.0;10.0;12.0+PTX" if recent else "6.1;7.0;7.5;8.0;8.6;9.0+PTX"
    os.environ["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST") or cards
# The stable ABI of torch 2.10: one binary serves every later torch.
defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", f"-DFASTUDA_WITH_CUDA={int(bool(cuda))}"]
flags = {
    "cxx": ["-std=c++20", "-O2", "-Wall", "-Wno-psabi", "-fvisibility=hidden", "-g0", *defines],
    "nvcc": ["-std=c++20", "-O3", "-DUSE_CUDA", *defines],
}
# As many compilers as there are processors, unless the user says otherwise.
os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))


class Build(BuildExtension):
    """Keeps the objects: an editable install and a wheel would each compile all of them again."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = os.path.abspath("build/objects")


setup(
    ext_modules=[
        (CUDAExtension if cuda else CppExtension)(
            "fastuda._C",
            ["csrc/library.cpp", *sorted(glob("csrc/cpu/*.cpp")), *cuda],
            include_dirs=[os.path.abspath("csrc")],
            depends=sorted([*glob("csrc/common/*.h"), *glob("csrc/cuda/*.h")]),
            extra_compile_args=flags,
        )
    ],
    cmdclass={"build_ext": Build},
)
