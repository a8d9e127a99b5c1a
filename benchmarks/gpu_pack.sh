#!/usr/bin/env bash
# Packs what benchmarks/gpu.sh needs on a machine with a GPU but without a network, so that no minute of it goes to a compiler:
#
#     PYTHON=/path/to/venv/bin/python benchmarks/gpu_pack.sh
#
# PYTHON is an interpreter like the one over there (CPython 3.12 with torch 2.11.0, whose stable ABI serves later ones).
# It needs no GPU here, but nvcc. Written to $PACK (build/gpu/pack, which git ignores; about 25 MB):
#
#     _C.*.so       the extension, built by setup.py for the cards in TORCH_CUDA_ARCH_LIST (9.0) and stripped
#     wheels/       libraries of the trainer that the machine lacks, named in WHEELS
#     COMMIT        the commit of the tree that was built, with -dirty where it differed
#     SOURCES TREE  checksums of csrc and of all that rows depend on: gpu.sh sees whether they are still those of COMMIT
#
# Copy the folder along with the tree.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
PACK=${PACK:-build/gpu/pack}
WHEELS=${WHEELS-tyro kornia-rs tensorboardX docstring-parser typeguard}
LIMIT=$((64 * 1024)) # KiB that may be carried to such a machine in all
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
# torch guesses the toolkit from the place of nvcc, which may be a wrapper that lies elsewhere
[ -n "${CUDA_HOME:-}" ] || [ ! -x /usr/local/cuda/bin/nvcc ] || export CUDA_HOME=/usr/local/cuda

commit=$("$PYTHON" -c 'import sys; sys.path.insert(0, "benchmarks"); import _results; print(_results.commit())')
case $commit in *-dirty) echo "warning: the tree holds changes that are not committed; rows measured with it are not published" >&2 ;; esac

# A tree of its own: the objects of this interpreter must not replace those of the developer's, in build/objects.
tree=build/gpu/tree
mkdir -p "$tree" "$PACK/wheels"
rm -rf "$tree/csrc" "$tree/fastuda" # files that are gone must not be compiled again; ninja keeps the objects
git ls-files -z --cached --others --exclude-standard csrc fastuda kernels ':(glob)*' |
  tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$tree"
"$PYTHON" -c 'import sys, torch; print("for python", sys.version.split()[0], "torch", torch.__version__, "cards", *sys.argv[1:])' \
  "$TORCH_CUDA_ARCH_LIST"
(cd "$tree" && rm -f fastuda/_C.*.so && "$PYTHON" setup.py -q build_ext --inplace)

rm -f "$PACK"/_C.*.so
cp "$tree"/fastuda/_C.*.so "$PACK/"
strip --strip-unneeded "$PACK"/_C.*.so
# shellcheck disable=SC2086 # a list of names
[ -z "$WHEELS" ] || "$PYTHON" -m pip download -q --no-deps --only-binary :all: --dest "$PACK/wheels" $WHEELS
echo "$commit" >"$PACK/COMMIT"
git ls-files -z csrc setup.py | xargs -0 sha256sum >"$PACK/SOURCES"
git ls-files -z csrc setup.py kernels fastuda 'benchmarks/*.py' | xargs -0 sha256sum >"$PACK/TREE"

# An import that fails must fail here. Without a GPU the kernels are not run, but every symbol is resolved.
PYTHONPATH=$tree "$PYTHON" - <<'PY'
import sys
import torch
from fastuda.ops import build_facts
facts = build_facts()
print(facts)
if not facts.get("cuda"):
    sys.exit("the extension was built without CUDA: is nvcc there, and a torch with CUDA?")
PY
size=$(du -sk "$PACK" | cut -f1)
echo "$PACK: $((size / 1024)) MiB of commit $commit"
[ "$size" -le "$LIMIT" ] || { echo "$PACK is larger than the $((LIMIT / 1024)) MiB that can be carried" >&2; exit 1; }
