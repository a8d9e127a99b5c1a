"""Builds the one extension ``fastuda._C``; all metadata is in pyproject.toml."""

import os
import sys
from glob import glob

import torch
from setuptools import setup

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # pip does not search the folder of setup.py
from cuda_toolkit import find_toolkit, runtime_library  # noqa: E402

# CUDA is built wherever nvcc and a CUDA torch are, whether or not a GPU is visible; FASTUDA_CUDA=0 leaves it out.
toolkit = find_toolkit() if torch.version.cuda and os.environ.get("FASTUDA_CUDA") != "0" else None
cuda = sorted(glob("csrc/cuda/*.cu")) if toolkit else []
if cuda:
    os.environ["CUDA_HOME"] = str(toolkit)  # read when torch.utils.cpp_extension is imported
    release = int(torch.version.cuda.split(".")[0])
    # Without this list torch would look at the visible GPUs, and fail where there is none. CUDA 13 begins at Turing.
    cards = "7.5;8.0;8.6;9.0;10.0;12.0+PTX" if release >= 13 else "6.1;7.0;7.5;8.0;8.6;9.0+PTX"
    os.environ["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST") or cards
elif torch.version.cuda:
    print("fastuda is built without its CUDA C++ kernels: no nvcc was found, or FASTUDA_CUDA=0", file=sys.stderr)

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

# The stable ABI of torch 2.10: one binary serves every later torch.
defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", f"-DFASTUDA_WITH_CUDA={int(bool(cuda))}"]
if cuda:  # where the kernels run: asked for when a run chooses its device
    defines.append(f"-DFASTUDA_CUDA_CARDS={os.environ['TORCH_CUDA_ARCH_LIST'].replace(';', '_').replace(' ', '_')}")
flags = {
    "cxx": ["-std=c++20", "-O3", "-Wall", "-Wno-psabi", "-fvisibility=hidden", "-g0", *defines],
    "nvcc": ["-std=c++20", "-O3", "-DUSE_CUDA", *defines],
}
# As many compilers as there are processors, unless the user says otherwise.
os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))

extension = (CUDAExtension if cuda else CppExtension)(
    "fastuda._C",
    ["csrc/library.cpp", *sorted(glob("csrc/cpu/*.cpp")), *cuda],
    include_dirs=[os.path.abspath("csrc")],
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    extra_compile_args=flags,
)
if cuda:
    folders, name = runtime_library(toolkit, release)
    extension.library_dirs[:0] = folders
    extension.libraries = [name if library == "cudart" else library for library in extension.libraries]


class Build(BuildExtension):
    """Keeps the objects: an editable install and a wheel would each compile all of them again."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = os.path.abspath("build/objects")


setup(ext_modules=[extension], cmdclass={"build_ext": Build})
