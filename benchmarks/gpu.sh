#!/usr/bin/env bash
# Everything worth doing on a machine with a GPU, in one go under nine minutes and without a network:
#
#     benchmarks/gpu.sh                 build, gpu tests, compute-sanitizer, benchmarks, profile
#     benchmarks/gpu.sh --dry-run       the same parts on a CPU with tiny shapes: proves the script, measures nothing
#
# Three files go to $OUT if it is set, else to benchmarks/results: <device>.json, profile_<kind>.txt and gpu.log.
# PYTHON names the interpreter (python3); wheels in .whl/ are installed beside it, never into it. A part that fails or
# outlasts its time does not stop the others; the summary at the end says which, and the exit status is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
[ ! -d /usr/local/cuda/bin ] || PATH=$PATH:/usr/local/cuda/bin
TOTAL=${TOTAL:-530} # seconds for everything
device=cuda scale=full
if [ "${1:-}" = --dry-run ]; then
  device=cpu scale=smoke
elif [ $# -gt 0 ]; then
  echo "usage: benchmarks/gpu.sh [--dry-run]" >&2
  exit 2
fi
out=${OUT:-benchmarks/results}
scratch=$(mktemp -d)
site=$scratch/site
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out" "$site"
: >"$out/gpu.log"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
SECONDS=0
summary=() failed=0

# part NAME BOX: run the function NAME within BOX seconds and what is left of TOTAL; log to gpu.log and, its end, here.
part() {
  local name=$1 box=$2 start=$SECONDS left=$((TOTAL - SECONDS)) status=124 state="FAILED: no time left"
  [ "$box" -le "$left" ] || box=$left
  printf '\n== %s (at %ss, at most %ss)\n' "$name" "$start" "$box" | tee -a "$out/gpu.log"
  if [ "$box" -gt 0 ]; then
    # timeout runs programs, not functions: a shell that inherits them
    timeout -k 5 "$box" bash -uo pipefail -c "$name" 2>&1 | tee "$scratch/log" | tee -a "$out/gpu.log" | tail -n 40
    status=${PIPESTATUS[0]}
    case $status in
      0) state=ok ;;
      77) state="left out: $(tail -n 1 "$scratch/log")" status=0 ;;
      124 | 137) state="FAILED: out of time" ;;
      *) state="FAILED: exit status $status" ;;
    esac
  fi
  [ "$status" -eq 0 ] || failed=1
  summary+=("$(printf '%-10s %4ss  %s' "$name" $((SECONDS - start)) "$state")")
}

wheels() {
  compgen -G '.whl/*.whl' >/dev/null || { echo "no wheels in .whl/"; return 77; }
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
}

facts() {
  nvidia-smi -L 2>/dev/null
  nvcc --version 2>/dev/null | tail -n 2
  "$PYTHON" - "$device" <<'PY'
import sys, torch
print("python", sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda)
if sys.argv[1] == "cuda":
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    major, minor = torch.cuda.get_device_capability()
    print("card", torch.cuda.get_device_name(), f"sm_{major}{minor}")
PY
}

build() { # in place, for this card only, so that it is quick
  if [ "$device" = cpu ]; then
    "$PYTHON" setup.py --version || return 1
    echo "setup.py can be read; nothing is built for a CPU"
    return 77
  fi
  local arch
  arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return 1
  export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$arch}
  # the editable install also maps kernels/ to fastuda.kernels; where pip refuses, the extension alone is built
  "$PYTHON" -m pip install -q --no-index --no-build-isolation --no-deps -e . ||
    "$PYTHON" setup.py build_ext --inplace || return 1
  "$PYTHON" - <<'PY'
import sys
from fastuda.ops import backend_report, build_facts
print(build_facts())
report = backend_report()
for name, row in report.items():
    print(f"{name:32} {row}")
if not build_facts().get("cuda"):
    sys.exit("the extension was built without CUDA")
PY
}

tests() { # rooms whose libraries are missing here are named and left out; the operators never are
  local rooms=tests
  "$PYTHON" -c 'import hypothesis, kornia_rs, tensorboardX, tyro' 2>/dev/null || {
    rooms=tests/ops
    echo "only tests/ops: the trainer's libraries are not installed (carry them as wheels in .whl/)"
  }
  "$PYTHON" -m pytest -m gpu "$rooms" -q --durations=5 -p no:cacheprovider
  local status=$?
  # on a CPU it is right that nothing carries the mark or all of it skips
  [ "$device" = cpu ] && [ "$status" -eq 5 ] && return 77
  return "$status"
}

sanitizer() {
  local tool=${SANITIZER:-compute-sanitizer} status=0 check
  if [ "$device" = cpu ]; then
    "$PYTHON" benchmarks/profile_ops.py --once --device cpu --scale smoke --providers cpu reference
    return
  fi
  command -v "$tool" >/dev/null || { echo "$tool is not installed"; return 77; }
  # without the caching allocator, so that a buffer's end is an allocation's end
  for check in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 5 50 "$tool" --tool "$check" --error-exitcode 9 --print-limit 20 \
      "$PYTHON" benchmarks/profile_ops.py --once --device cuda --scale smoke
    local one=$?
    echo "$check: exit status $one"
    [ "$one" -eq 0 ] || status=1
  done
  return "$status"
}

benchmarks() {
  local options=(--device "$device" --scale "$scale" --results "$out")
  [ "$device" = cuda ] || options+=(--ungated -k "not compile")
  "$PYTHON" -m pytest benchmarks/ops --benchmark-only "${options[@]}" --time-limit 170 -q -p no:cacheprovider \
    --benchmark-columns=median,rounds
}

profile() {
  local providers=(cuda triton)
  [ "$device" = cuda ] || providers=(cpu reference)
  "$PYTHON" benchmarks/profile_ops.py --device "$device" --scale "$scale" --providers "${providers[@]}" \
    --output "$out/profile_$device.txt"
}

export device scale out site PYTHON
export -f wheels facts build tests sanitizer benchmarks profile
part wheels "${BOX_WHEELS:-60}"
export PYTHONPATH=$PYTHONPATH:$site
part facts "${BOX_FACTS:-30}"
part build "${BOX_BUILD:-150}"
part tests "${BOX_TESTS:-100}"
part sanitizer "${BOX_SANITIZER:-100}"
part benchmarks "${BOX_BENCHMARKS:-220}"
part profile "${BOX_PROFILE:-60}"

{
  printf '\n== summary (%ss)\n' "$SECONDS"
  printf '%s\n' "${summary[@]}"
} | tee -a "$out/gpu.log"
exit "$failed"
