"""Every kernel compiles for its cards without spills and within the recorded registers and shared memory; no GPU."""

from __future__ import annotations

import json
import re
import subprocess

import compilers
import emulated
import needed
import pytest
import torch

TABLE = json.loads(compilers.TABLE.read_text())


def compare(measured: compilers.Resources, recorded: dict, same_compiler: bool) -> list[str]:
    """What is worse than recorded; registers are compared for the compiler that they were recorded with only."""
    found = []
    for card, kernels in measured.items():
        before = recorded[f"sm_{card}"]
        found += [f"sm_{card} {name}: not in resources.json" for name in kernels.keys() - before.keys()]
        found += [f"sm_{card} {name}: gone" for name in before.keys() - kernels.keys()]
        for name, now in kernels.items():
            found += [f"sm_{card} {name}: {now[what]} bytes of {what}" for what in ("stack", "spills") if now[what]]
            then = before.get(name, now)
            found += [
                f"sm_{card} {name}: {now[what]} {what}, recorded {then[what]}"
                for what in ("registers", "shared")
                if same_compiler and now[what] > then[what]
            ]
    return found


@pytest.fixture(scope="module")
def nvcc():
    path = compilers.find_nvcc()
    needed.tool(path, "nvcc")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", compilers.SOURCES)
def test_nvcc(name, nvcc):
    needed.tool(int(compilers.nvcc_release(nvcc).split(".")[0]) >= 13, "nvcc 13, which has code for all cards,")
    measured = compilers.with_nvcc(name, nvcc, compilers.CI_CARDS)
    assert set(measured) == set(compilers.CI_CARDS)
    same = compilers.nvcc_release(nvcc) == TABLE["nvcc"]
    assert not compare(measured, TABLE[name], same), "python tests/cuda/compilers.py records what is meant"


@pytest.mark.slow
@pytest.mark.parametrize("name", compilers.SOURCES)
def test_the_whole_file_needs_the_stable_abi_only(name, nvcc):
    symbols, measured = compilers.whole_file(name, nvcc)
    assert symbols and all(s.startswith(("aoti_torch_", "torch_")) for s in symbols), symbols
    assert set(measured) == {compilers.WHOLE_FILE_CARD}
    same = compilers.nvcc_release(nvcc) == TABLE["nvcc"]
    assert not compare(measured, TABLE[name], same), "python tests/cuda/compilers.py records what is meant"


@pytest.mark.slow
def test_a_cooperative_kernel_compiles(tmp_path, nvcc):
    source = tmp_path / "k.cu"
    source.write_text("""#include "cuda/launch_cooperative.h"
using namespace fastuda::cuda;
__global__ void k(Pointer<int> x) { grid_sync(); x[0] = 1; }
void run(Pointer<int> x) { launch_cooperative(k, dim3(2), dim3(32), 0, Stream(), x); }
""")
    compilers.nvcc_call(nvcc, "-arch=sm_75", "-c", str(source), "-o", str(tmp_path / "k.o"))


@pytest.mark.slow
def test_a_refused_launch_says_what_was_asked_for(tmp_path, nvcc):
    """Refused for its block of 2048 threads on a GPU, and without a driver for that; a driver also has the name."""
    source = tmp_path / "k.cu"
    source.write_text("""#include <cstdio>
#include "cuda/launch.h"
using namespace fastuda::cuda;
template <int N> __global__ void refused(int* x) { if (x) x[0] = N; }
int main() {
  try {
    launch(refused<4>, dim3(3, 2), dim3(2048), 100, Stream(), static_cast<int*>(nullptr));
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
  }
}
""")
    compilers.nvcc_call(nvcc, "-arch=sm_75", str(source), "-o", str(tmp_path / "k"))
    said = subprocess.run([str(tmp_path / "k")], capture_output=True, text=True, check=True).stdout
    name, sizes = r"(refused<4>|a kernel)", r"grid \(3, 2, 1\), block \(2048, 1, 1\)"
    assert re.match(f"the launch of {name} with {sizes} and 100 bytes of dynamic shared memory failed: .", said), said


@pytest.mark.slow
@pytest.mark.parametrize("name", compilers.SOURCES)
def test_nvrtc_for_pascal(name):
    missing = compilers.missing_nvrtc_packages()
    needed.tool(not missing, ", ".join(missing))
    measured = compilers.with_nvrtc(name)
    assert set(measured) == {"61"}
    assert not compare(measured, TABLE[name], True), "python tests/cuda/compilers.py records what is meant"


def test_the_table_names_every_kernel_on_every_card():
    for name in compilers.SOURCES:
        kernels = [set(TABLE[name][f"sm_{card}"]) for card in ("61", *compilers.CARDS)]
        assert all(k == kernels[0] and k for k in kernels), name


def test_a_spill_and_a_register_more_are_seen():
    row = {"registers": 40, "shared": 0, "stack": 0, "spills": 0}
    recorded = {"sm_75": {"k<float>": row}}
    assert compare({"75": {"k<float>": row}}, recorded, True) == []
    more, spilled = row | {"registers": 41}, row | {"spills": 8}
    assert compare({"75": {"k<float>": more}}, recorded, True) == ["sm_75 k<float>: 41 registers, recorded 40"]
    assert compare({"75": {"k<float>": more}}, recorded, False) == []
    assert compare({"75": {"k<float>": spilled}}, recorded, False) == ["sm_75 k<float>: 8 bytes of spills"]
    assert len(compare({"75": {"other": row}}, recorded, True)) == 2


def test_ptxas_output_is_read():
    text = """ptxas info    : Compiling entry function '_ZN7fastuda4cuda1kILi4EEEvi' for 'sm_61'
ptxas info    : Function properties for _ZN7fastuda4cuda1kILi4EEEvi
    16 bytes stack frame, 24 bytes spill stores, 104 bytes spill loads
ptxas info    : Used 128 registers, 512 bytes smem, 512 bytes cmem[0]
"""
    row = {"registers": 128, "shared": 512, "stack": 16, "spills": 128}
    assert compilers.parse(text) == {"61": {"k<4>": row}}


def test_shared_memory_at_the_reference_sizes(moments_library, bound_library, full_moments_library, full_bound_library):
    """Dynamic shared memory, which ptxas does not see: 19 classes, on a Pascal below 48 KB."""
    features = torch.zeros(40, 2048, dtype=torch.float32)
    labels, mean = torch.zeros(40, dtype=torch.uint8), torch.zeros(19, 2048)
    emulated.class_moments(moments_library, features[:, :256].contiguous(), labels, 19)
    used = {"moments_walk": moments_library.largest_shared()}
    image, y = features.T[None, :, :, None], labels[None, :, None]
    loss, posterior = emulated.bound_forward(bound_library, image, y, mean, mean, 100.0, True)
    used["bound_forward"] = bound_library.largest_shared()
    emulated.bound_backward(bound_library, loss, image, y, mean, mean, posterior, 100.0, True)
    used["bound_backward"] = bound_library.largest_shared()
    # The full forms work on squares of channels: more channels are more squares.
    narrow, two, labels = features[:, :256].contiguous(), mean[:2, :256].contiguous(), labels.zero_()
    emulated.class_moments(full_moments_library, narrow, labels, 2, full=True)
    used["class_moments_full"] = full_moments_library.largest_shared()
    image, sigma = narrow.T[None, :, :, None], torch.zeros(2, 256, 256)
    emulated.bound_forward(full_bound_library, image, y, two, sigma, 100.0, True)
    used["contrastive_bound_full forward"] = full_bound_library.largest_shared()
    emulated.bound_backward(
        full_bound_library, loss, image, y, two, sigma, posterior[..., :2].contiguous(), 100.0, True
    )
    used["contrastive_bound_full backward"] = full_bound_library.largest_shared()
    assert max(used.values()) <= 48 * 1024
    assert used == TABLE["dynamic shared memory"]
