#!/usr/bin/env bash
# The two commands for a machine with a GPU, each usable alone, without a network:
#
#     benchmarks/gpu.sh correct      400 s: is it right, is its memory clean, does it train
#     benchmarks/gpu.sh measure      300 s: figures of both backends, memory of a step beside its forecast, profiles
#
# benchmarks/gpu_pack.sh makes what they need beforehand; without its folder the extension is built first, which takes
# minutes more (TOTAL=580). Each part has a time box, prints its exit status, and does not stop the others. The same
# command with the same $OUT goes on: parts that passed are left out (--again repeats them), and within a part the test
# files and rows that finished. Every row is on the disk when it is finished (rows_*.jsonl).
#
#     OUT      where everything goes (runs/gpu): logs, rows, tests/, times.tsv, failures.txt, <device>.json
#     RESULTS  where <device>.json goes as well (benchmarks/results); its rows are marked with what the gate said
#     PACK     the folder of gpu_pack.sh (build/gpu/pack)           PYTHON   the interpreter (python3)
#     TOTAL    seconds for everything                               JOBS     test files at once (12)
#
# Without a GPU:   benchmarks/gpu.sh correct --dry-run              the same parts on a CPU with tiny shapes
# On a stand-in:   FAKE_CARD_LIBRARY=libfake_card.so benchmarks/gpu.sh correct --dry-run
#     A stand-in runs no kernel: its rows are marked, never become results, and only the times of the parts mean
#     something. FAKE_CARD_TRAIN is the script, with its arguments, that trains there in place of fastuda.train
#     (tests/fake_card/train.py --methods sdca).
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: benchmarks/gpu.sh correct|measure [--again] [--dry-run]" >&2; exit 2; }
command=${1:-} again="" dry=""
case $command in correct) box=400 box_facts=30 ;; measure) box=300 box_facts=15 ;; *) usage ;; esac
shift
for option in "$@"; do
  case $option in --again) again=1 ;; --dry-run) dry=cpu ;; *) usage ;; esac
done
[ -z "${FAKE_CARD_LIBRARY:-}" ] || dry=card

export PYTHON=${PYTHON:-python3} PACK=${PACK:-build/gpu/pack} OUT=${OUT:-runs/gpu} JOBS=${JOBS:-12}
export RESULTS=${RESULTS:-benchmarks/results}
[ ! -d /usr/local/cuda/bin ] || PATH=$PATH:/usr/local/cuda/bin
TOTAL=${TOTAL:-$box}
# The shapes and backends of the parts; a dry run on a CPU takes those that run there.
device=cuda scale=full backends="cuda triton" STEPS=20
case $dry in
  cpu) device=cpu scale=smoke backends=cpu STEPS=2 ;;
  card) scale=smoke STEPS=2 ;;
esac
# Seconds of each part; they fit into the total where nothing has to be built.
export BOX_BUILD=${BOX_BUILD:-240} BOX_ONCE=${BOX_ONCE:-40} BOX_TESTS=${BOX_TESTS:-120}
export BOX_SANITIZER=${BOX_SANITIZER:-60} BOX_TRAINING=${BOX_TRAINING:-60}
export BOX_ROWS=${BOX_ROWS:-80} BOX_MEMORY=${BOX_MEMORY:-45} BOX_PROFILE=${BOX_PROFILE:-30}
export ROW_LIMIT=${ROW_LIMIT:-45} # of a row that hangs; the first one of a process imports and compiles much
SHARDS=${SHARDS:-6} SHARDED_FILES=${SHARDED_FILES:-8} SANITIZER=${SANITIZER:-compute-sanitizer}
# Triton looks for libcuda.so.1 in a folder; on a stand-in that is a link to it.
if [ "$dry" = card ]; then
  FAKE_CARD_STUB=$(dirname "$FAKE_CARD_LIBRARY")
  [ -e "$FAKE_CARD_STUB/libcuda.so.1" ] || FAKE_CARD_STUB=$FAKE_CARD_STUB/stub
  export FASTUDA_GPU_TESTS=launches # tests/gpu.py: results are whatever the memory holds, so they are not compared
  export FAKE_CARD_STUB FAKE_CARD_TRAIN=${FAKE_CARD_TRAIN:-tests/fake_card/train.py --methods sdca}
fi
mkdir -p "$OUT/state" "$OUT/tests"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
site=$PWD/build/gpu/site # outside of $OUT: the libraries are no results
mkdir -p "$site"
export command device scale backends dry again site scratch STEPS SHARDS SANITIZER
export PYTHONUNBUFFERED=1 SHARDED_FILES PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH}
# A copy of the tree has no repository: the pack says what it is a copy of, if that still holds.
if ! git rev-parse --short HEAD >/dev/null 2>&1 && [ -f "$PACK/COMMIT" ] && [ -z "${FASTUDA_COMMIT:-}" ]; then
  FASTUDA_COMMIT=$(cat "$PACK/COMMIT")
  sha256sum --check --quiet "$PACK/TREE" || FASTUDA_COMMIT=${FASTUDA_COMMIT%-dirty}-dirty
  export FASTUDA_COMMIT
fi
SECONDS=0
TIMEFORMAT='%U %S'
log=$OUT/$command.log # of this script; each part has one of its own, which a killed part leaves behind too
summary=() failed=0
[ -f "$OUT/times.tsv" ] || printf 'command\tpart\tbox_s\twall_s\tcpu_s\tstatus\n' >"$OUT/times.tsv"

# part NAME BOX [always]: run the function NAME within BOX seconds and what is left of TOTAL; its output goes to the
# log of its own and its end is shown. A part that passed in an earlier run with this $OUT is left out unless it says "always".
part() {
  local name=$1 box=$2 start=$SECONDS left=$((TOTAL - SECONDS)) status=124 state="FAILED: no time left" cpu=0
  local done=$OUT/state/$command-$name own=$OUT/$command-$name.log
  if [ "${3:-}" != always ] && [ -z "$again" ] && [ -f "$done" ]; then
    summary+=("$(printf '%-12s %4ss  %s' "$name" 0 "passed before")")
    return
  fi
  [ "$box" -le "$left" ] || box=$left
  printf '\n== %s (at %ss, at most %ss)\n' "$name" "$start" "$box" | tee -a "$log"
  if [ "$box" -gt 0 ]; then
    # timeout runs programs, not functions: a shell that inherits them. INT first, so that pytest writes its report.
    { time timeout -s INT -k 12 "$box" bash -uo pipefail -c "$name" >"$own" 2>&1; } 2>"$scratch/time"
    status=$?
    tail -n 40 "$own"
    cpu=$(tail -n 1 "$scratch/time" | awk '{print int($1 + $2 + 0.5)}')
    case $status in
      0) state=ok && touch "$done" ;;
      77) state="left out: $(tail -n 1 "$own")" status=0 ;;
      124 | 130 | 137) state="FAILED: out of time" ;;
      *) state="FAILED: exit status $status" ;;
    esac
  fi
  printf '%s: exit status %s\n' "$name" "$status" | tee -a "$log"
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$command" "$name" "$2" $((SECONDS - start)) "$cpu" "$state" >>"$OUT/times.tsv"
  [ "$status" -eq 0 ] || failed=1
  summary+=("$(printf '%-12s %4ss  %s' "$name" $((SECONDS - start)) "$state")")
}

. benchmarks/gpu/parts.sh

case $dry in
  cpu) echo "dry run on a CPU: tiny shapes, no figure means anything" | tee -a "$log" ;;
  card) echo "dry run on the stand-in card $FAKE_CARD_LIBRARY: no kernel runs, no figure means anything" | tee -a "$log" ;;
esac
part wheels 15 always
part facts "$box_facts" always # the first import of torch reads gigabytes
part extension "$BOX_BUILD" always
if [ "$command" = correct ]; then
  for backend in $backends; do
    export backend
    part "once_$backend" "$BOX_ONCE"
  done
  part tests "$BOX_TESTS"
  part sanitizer "$BOX_SANITIZER"
  part training "$BOX_TRAINING"
else
  for backend in $backends; do
    export backend
    part "rows_$backend" "$BOX_ROWS"
  done
  part memory "$BOX_MEMORY"
  part profile "$BOX_PROFILE"
  # what they are compared with, in the time that is left
  export BOX_OTHERS=$((TOTAL - SECONDS - 15))
  [ "$BOX_OTHERS" -le 20 ] || part rows_others "$BOX_OTHERS"
  part results 15 always
fi
part failures 10 always

{
  printf '\n== summary (%ss)\n' "$SECONDS"
  printf '%s\n' "${summary[@]}"
} | tee -a "$log"
exit "$failed"
