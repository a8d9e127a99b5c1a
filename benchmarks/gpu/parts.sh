# The parts of gpu.sh, one function each: exit status 0 passed, 77 left out (the last line says why), else failed.
# They run in a shell of their own under `timeout`, so they and what they read are exported.
# shellcheck shell=bash

# python ARGUMENTS: the interpreter, on the stand-in card where a dry run asks for it.
python() {
  if [ "$dry" = card ]; then
    LD_PRELOAD=$FAKE_CARD_LIBRARY LD_LIBRARY_PATH=$FAKE_CARD_STUB${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
      TRITON_LIBCUDA_PATH=$FAKE_CARD_STUB FAKE_CARD=${FAKE_CARD:-h200} "$PYTHON" "$@"
  else
    "$PYTHON" "$@"
  fi
}

# goes_on JOURNAL COMMAND...: run it again as long as a row ends its process; each time it goes on from there,
# and leaves out a row that did so twice.
goes_on() {
  local journal=$1 attempt status before
  shift
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    before=$(wc -c 2>/dev/null <"$journal")
    "$@" --journal "$journal"
    status=$?
    [ -f "$journal" ] && tail -n 1 "$journal" | grep -q '"kind": "end"' && return "$status"
    [ "$(wc -c 2>/dev/null <"$journal")" != "$before" ] || break # it did not even begin
    echo "the process ended with status $status in try $attempt: the next goes on from there"
  done
  return "$status"
}

wheels() {
  compgen -G "$PACK/wheels/*.whl" >/dev/null || { echo "no wheels in $PACK/wheels"; return 77; }
  [ -z "$(find "$PACK/wheels" -newer "$site/installed" 2>&1)" ] && { echo "installed before"; return 0; }
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
    "$PACK"/wheels/*.whl && touch "$site/installed"
}

facts() {
  nvidia-smi -L 2>/dev/null
  nvcc --version 2>/dev/null | tail -n 2
  python - "$device" <<'PY'
import importlib.util, os, sys, torch
print("python", sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda, "cores", os.cpu_count())
if importlib.util.find_spec("triton"):
    import triton
    print("triton", triton.__version__)
if sys.argv[1] == "cuda":
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    major, minor = torch.cuda.get_device_capability()
    print("card", torch.cuda.get_device_name(), f"sm_{major}{minor}")
PY
}

extension() { # the packed one where it loads and its sources are these; else it is built, for this card only
  [ -d fastuda/kernels ] || ln -sfn ../kernels fastuda/kernels # as the installed package has them: Triton's backend
  if [ "$device" = cpu ]; then
    "$PYTHON" setup.py --version || return 1
    echo "setup.py can be read; nothing is built for a CPU"
    return 77
  fi
  if compgen -G "$PACK/_C.*.so" >/dev/null; then
    if sha256sum --check --quiet "$PACK/SOURCES"; then
      cp "$PACK"/_C.*.so fastuda/
    else
      echo "the packed extension is of other sources: it is not used"
    fi
  fi
  loads && return
  local arch
  arch=$(python -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return 1
  TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$arch} MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    "$PYTHON" setup.py -q build_ext --inplace && loads && return
  rm -f fastuda/_C.*.so # one that does not load is an error wherever fastuda is imported; Triton does without it
  return 1
}

loads() {
  python - <<'PY'
import sys, torch
from fastuda.ops import backend_report, build_facts
facts = build_facts()
print(facts)
if not facts or not facts.get("cuda"):
    sys.exit("no extension with CUDA")
for name, row in backend_report().items():
    print(f"{name:32} {row}")
PY
}

# in_shards COMMAND...: so many processes at once, each with every n-th operator; a fault in one ends none of the others.
in_shards() {
  seq 0 $((SHARDS - 1)) | xargs -P "$SHARDS" -I{} bash -uo pipefail -c "$1 {} || exit 1"
  [ "$?" -eq 0 ]
}

once_shard() {
  local options=()
  [ "$dry" != card ] || options+=(--fake-card)
  goes_on "$OUT/once_${backend}_$1.jsonl" python benchmarks/profile_ops.py --once --device "$device" --scale smoke \
    --providers "$backend" --shard "$1/$SHARDS" --time-limit $((BOX_ONCE - 5)) "${options[@]}"
}

# every kernel once on odd shapes: what fails here fails everywhere
once_cuda() { in_shards once_shard; }
once_triton() { in_shards once_shard; }
once_cpu() { in_shards once_shard; }

# One test file, or every n-th of its tests (SHARD i/n), in a process of its own, so that a kernel's fault ends no other's
# context. Its report takes its name when the process has come to its end; until then the log says what passed.
test_file() {
  local file=$1 selected=$2 shard=$3 name status
  name=${file#tests/} name=${name%.py}_$selected name=${name//[\/ ]/_}
  [ "$shard" = 0/1 ] || name=${name}_${shard%/*}
  local report=$OUT/tests/$name.xml log=$OUT/tests/$name.log
  [ ! -f "$report" ] || [ -n "$again" ] || { echo "$name: finished before"; return 0; }
  FASTUDA_TEST_SHARD=$shard python -m pytest -m gpu "$file" -k "$selected" -v --tb=short -p no:cacheprovider \
    -o junit_logging=no --junitxml="$report.partial" >"$log" 2>&1
  status=$?
  [ "$status" -ne 5 ] || status=0 # none of the file is for this backend
  case $status in 0 | 1) mv "$report.partial" "$report" ;; esac
  echo "$name: exit status $status, $(tail -n 1 "$log")"
  return "$status"
}

tests() { # the largest files first; Triton apart, because its kernels are compiled meanwhile
  local files file shard number=0
  # outside of the operators' room the files that name the mark; the room of the kernels simulates them on a CPU
  mapfile -t files < <(
    ls -S tests/ops/test_*.py $(grep -rl 'mark\.gpu' tests --include='test_*.py' | grep -vE '^tests/(ops|kernels|benchmarks)/')
  )
  [ "$device" = cuda ] || files=(tests/ops/test_confusion_matrix.py)
  {
    # One process would compile the Triton kernels of a large file for minutes: it is cut into four.
    for file in "${files[@]}"; do
      if [ "$((number += 1))" -gt "$SHARDED_FILES" ]; then printf '%s\0triton\x000/1\0' "$file"
      else for shard in 0 1 2 3; do printf '%s\0triton\0%s/4\0' "$file" "$shard"; done; fi
    done
    printf '%s\0not triton\x000/1\0' "${files[@]}"
  } | xargs -0 -n 3 -P "$JOBS" bash -uo pipefail -c 'test_file "$@" || exit 1' _
  [ "$?" -eq 0 ] || return 1
}

sanitizer() {
  [ -z "$dry" ] || { echo "a dry run has no kernel to look into"; return 77; }
  command -v "$SANITIZER" >/dev/null || { echo "$SANITIZER is not installed"; return 77; }
  in_shards sanitizer_shard
}

# Without the caching allocator, so that a buffer's end is an allocation's end. torch tries calls that may fail, so
# those are no errors; a faulty kernel ends itself and no other.
sanitizer_shard() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$SANITIZER" --tool memcheck --report-api-errors no --destroy-on-device-error kernel \
    --error-exitcode 9 --print-limit 20 --log-file "$OUT/memcheck_$1.log" \
    "$PYTHON" benchmarks/profile_ops.py --once --device cuda --scale smoke --providers cuda --shard "$1/$SHARDS" \
    --time-limit $((BOX_SANITIZER - 12))
  local status=$?
  tail -n 1 "$OUT/memcheck_$1.log"
  echo "memcheck of shard $1: exit status $status"
  return "$status"
}

has_trainer() {
  "$PYTHON" -c 'import kornia_rs, tyro' && return
  echo "the trainer's libraries are not installed: carry the wheels of gpu_pack.sh"
  return 1
}

training() { # the trainer on the GPU, from the first step to the score; streets needs no data set
  local status
  has_trainer || return 77
  if [ "$dry" = card ]; then # a stand-in has no convolutions either
    [ -f "${FAKE_CARD_TRAIN%% *}" ] || { echo "there is no ${FAKE_CARD_TRAIN%% *}"; return 77; }
    # shellcheck disable=SC2086 # a script and its arguments
    python $FAKE_CARD_TRAIN
    return
  fi
  rm -rf "$scratch/run"
  python -m fastuda.train --method sdca --amp --device "$device" --work-dir "$scratch/run" \
    --warm-up.schedule.iterations "$STEPS" --sdca.schedule.iterations "$STEPS" \
    --sdca.self-training.schedule.iterations "$STEPS"
  status=$?
  cp "$scratch/run/result.json" "$OUT/training.json" 2>/dev/null
  return "$status"
}

rows() { # rows PROVIDERS SECONDS: benchmark them, no row beginning after SECONDS
  local options=(--device "$device" --scale "$scale" --row-limit "$ROW_LIMIT")
  [ "$dry" != card ] || options+=(--fake-card)
  # status 1 is a test that failed: the row is in the list of failures, and so is the part
  goes_on "$OUT/rows_$backend.jsonl" python -m pytest benchmarks/ops --benchmark-only "${options[@]}" \
    --time-limit "$2" -k "not compile" -q --tb=line -p no:cacheprovider --benchmark-columns=median,rounds --providers $1
}
rows_cuda() { rows cuda $((BOX_ROWS - 20)); }
rows_triton() { rows triton $((BOX_ROWS - 20)); }
rows_cpu() { rows cpu $((BOX_ROWS - 20)); }
rows_others() {
  local others="reference usual"
  [ "$dry" != card ] || others=reference # the usual code reads how much it found, which is nothing where no kernel runs
  backend=others
  rows "$others" $((BOX_OTHERS - 10))
}

memory() { # one step of SDCA under the cap of an 11 GiB card, beside its forecast
  has_trainer || return 77
  local step=(--method sdca --amp --card 11g)
  "$PYTHON" -m fastuda.memory "${step[@]}" --no-remedies --json "$OUT/memory_forecast.json" || return 1
  if [ -n "$dry" ]; then
    echo "a dry run measures no memory"
    return 0
  fi
  python -m fastuda.memory "${step[@]}" --measure --snapshot "$scratch/memory.pickle" \
    --json "$OUT/memory_measured.json"
  local status=$?
  [ ! -f "$scratch/memory.pickle" ] || gzip -c "$scratch/memory.pickle" >"$OUT/memory_snapshot.pickle.gz"
  [ "$status" -eq 0 ] || return "$status"
  "$PYTHON" benchmarks/gpu/memory.py "$OUT/memory_forecast.json" "$OUT/memory_measured.json" --json "$OUT/memory.json"
}

profile() {
  local options=()
  [ "$dry" != card ] || options+=(--fake-card)
  goes_on "$OUT/profile.jsonl" python benchmarks/profile_ops.py --device "$device" \
    --scale "$([ "$scale" = full ] && echo quick || echo smoke)" --providers $backends --time-limit $((BOX_PROFILE - 8)) \
    --output "$OUT/profile.txt" "${options[@]}"
}

results() { # rows of all backends at once, so that they replace older rows of their cases together
  local journals
  mapfile -t journals < <(ls "$OUT"/rows_*.jsonl)
  if [ -n "$dry" ]; then
    "$PYTHON" benchmarks/rows.py "${journals[@]}"
    echo "rows of a dry run are no results"
    return 0
  fi
  mkdir -p "$RESULTS"
  "$PYTHON" benchmarks/rows.py "${journals[@]}" --results "$RESULTS" --ungated
  "$PYTHON" benchmarks/rows.py "${journals[@]}" --results "$OUT" --ungated >/dev/null
  compgen -G "$OUT/*.json" || { echo "no row was finished"; return 1; }
}

failures() { # everything that failed, in one file
  {
    awk -F '\t' 'NR > 1 { state[$1 " " $2] = $6 }
      END { for (name in state) if (state[name] ~ /^FAILED/) print name ": " state[name] }' "$OUT/times.tsv" | sort
    "$PYTHON" benchmarks/rows.py --failures "$OUT"/*.jsonl
    [ "$dry" = card ] || grep -hE '^(FAILED|ERROR) ' "$OUT"/tests/*.log
  } >"$OUT/failures.txt"
  [ -s "$OUT/failures.txt" ] || { echo "nothing failed"; return 0; }
  cat "$OUT/failures.txt"
}

export -f python goes_on wheels facts extension loads in_shards once_shard once_cuda once_triton once_cpu test_file
export -f tests sanitizer sanitizer_shard has_trainer training rows rows_cuda rows_triton rows_cpu rows_others memory
export -f profile results failures
