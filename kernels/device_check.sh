#!/usr/bin/env bash
# Proves and measures the CUDA backend on a machine with a GPU: builds, runs every kernel case,
# checks the small ones with compute-sanitizer, measures, and prints a short table last.
#
#   kernels/device_check.sh [FOLDER]       results: default build/device-check
#
# Needs nvcc, CMake, a C++20 compiler and a driver; no Node, no network. With PyTorch in python3 the
# same shapes are measured there too; compute-sanitizer and ninja are used where they are. Ends
# within ten minutes on 16 cores: each stage has a budget in seconds, and what did not fit says so.
#
#   DEVICE_CHECK_SECONDS=590   all of it
#   DEVICE_CHECK_STAGES="build tests sanitizer bench torch"   which of them
#   DEVICE_CHECK_EMULATED=1    over the emulator, benches tiny: tries this script without a GPU
#
# Exit code 0: built, every case passed, every benchmark ran. FOLDER/summary.txt is what was printed.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/build/device-check}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
emulated=${DEVICE_CHECK_EMULATED:-0}
stages=${DEVICE_CHECK_STAGES:-build tests sanitizer bench torch}
total=${DEVICE_CHECK_SECONDS:-590}
jobs=${DEVICE_CHECK_JOBS:-$(nproc)}
if [[ -z ${DEVICE_CHECK_LOGGED:-} ]]; then
  DEVICE_CHECK_LOGGED=1 "$0" "$out" 2>&1 | tee "$out/summary.txt"
  exit "${PIPESTATUS[0]}"
fi
SECONDS=0
failures=0

say() { printf '%s\n' "$*"; }
stage() { say "== $1 (at ${SECONDS} s)"; }
fail() { say "FAILED: $*"; failures=$((failures + 1)); }
wanted() { [[ " $stages " == *" $1 "* ]]; }
has() { command -v "$1" >/dev/null 2>&1; }
# left WANTED: seconds a stage may take, the time that is left at most.
left() {
  local rest=$((total - SECONDS))
  if ((rest < $1)); then echo "$rest"; else echo "$1"; fi
}
# A stage that has no time says so.
in_time() {
  (($(left 1) >= 1)) && return 0
  say "skipped: $1: no time left"
  return 1
}

if ((emulated)); then
  build=${DEVICE_CHECK_BUILD:-$root/build/device-check-emulated}
  suffix=
  targets=(simt_tests kernels_bench)
  options=(-DLONGHAUL_TESTS=ON -DLONGHAUL_CUDA=OFF -DLONGHAUL_SIMT=ON)
else
  build=${DEVICE_CHECK_BUILD:-$root/build/device-check-gpu}
  suffix=_gpu
  targets=(longhaul_cuda gpu_tests kernels_bench_gpu)
  options=(-DLONGHAUL_TESTS=ON -DLONGHAUL_CUDA=ON -DLONGHAUL_SIMT=OFF)
fi

python=
for candidate in python3 python; do
  has "$candidate" && python=$candidate && break
done
have_torch=0
[[ -n $python ]] && "$python" -c 'import torch' 2>/dev/null && have_torch=1

stage machine
if ((!emulated)); then
  has nvidia-smi || fail "nvidia-smi is not there: no driver?"
  nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap,clocks.max.sm --format=csv,noheader
  # Machine code for this device alone: half of the time of compiling.
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
  case $capability in
    9.0) architecture=sm_90a ;;
    8.*) architecture=sm_80 ;;
    *) architecture=compute_90 ;;
  esac
  options+=("-DLONGHAUL_CUDA_ARCHITECTURES=${DEVICE_CHECK_ARCHITECTURES:-$architecture}")
  # cuBLASLt comes with the toolkit or, as in many images, with PyTorch alone.
  if [[ -z ${LONGHAUL_CUBLASLT:-} && -n $python ]] && ! ldconfig -p | grep -q 'libcublasLt\.so\.1[23]'; then
    found=$("$python" - <<'PYTHON'
import glob, os, sys
for folder in sys.path:
    pattern = os.path.join(folder, "nvidia", "*", "lib", "libcublasLt.so.1[23]")
    for path in sorted(glob.glob(pattern), reverse=True):
        print(path)
        raise SystemExit
PYTHON
    )
    [[ -n $found ]] && export LONGHAUL_CUBLASLT=$found
  fi
  say "cuBLASLt: ${LONGHAUL_CUBLASLT:-as the linker finds it}"
fi
say "$(uname -m), $(nproc) cores; $(cmake --version | head -n 1)"
((have_torch)) || say "no PyTorch in python3"

if wanted build; then
  stage build
  generator=()
  [[ ! -f $build/CMakeCache.txt ]] && has ninja && generator=(-G Ninja)
  if ! cmake -S "$root" -B "$build" "${generator[@]}" "${options[@]}" >"$out/configure.log" 2>&1; then
    tail -n 20 "$out/configure.log"
    fail configure
    exit 1
  fi
  timeout "$(left "${DEVICE_CHECK_BUILD_SECONDS:-330}")" \
    cmake --build "$build" --parallel "$jobs" --target "${targets[@]}" >"$out/build.log" 2>&1
  code=$?
  if ((code != 0)); then
    grep -nE 'error|FAILED' "$out/build.log" | head -n 20
    tail -n 5 "$out/build.log"
    fail "build (exit $code$( ((code == 124)) && echo ': out of time'))"
    exit 1
  fi
  say "built in ${SECONDS} s"
fi

# Names without "_test" of the programs there are.
tests=()
for source in "$root"/test/kernels/*_test.cc; do
  [[ -e $source ]] && tests+=("$(basename "$source" .cc)")
done

# The last line of a test program, or why there is none.
verdict() {
  local line
  line=$(tail -n 1 "$1")
  [[ $line == *passed* ]] && echo "$line" || echo "no verdict"
}

if wanted tests; then
  stage "kernel cases"
  : >"$out/times.txt"
  for name in "${tests[@]}"; do
    in_time "$name" || continue
    begin=${EPOCHREALTIME//[.,]/}
    timeout "$(left "${DEVICE_CHECK_TEST_SECONDS:-60}")" "$build/$name$suffix" >"$out/$name.log" 2>&1
    code=$?
    echo "$((${EPOCHREALTIME//[.,]/} - begin)) $name" >>"$out/times.txt"
    if ((code == 0)); then
      say "ok      $name: $(verdict "$out/$name.log")"
    else
      tail -n 15 "$out/$name.log"
      fail "$name: exit $code, $(verdict "$out/$name.log")"
    fi
  done
fi

if wanted sanitizer && ((!emulated)); then
  stage compute-sanitizer
  if ! has compute-sanitizer; then
    say "skipped: compute-sanitizer is not on the PATH"
  else
    # A few at a time: the device is shared, the sanitizer's own work is not.
    budget=$(left "${DEVICE_CHECK_SANITIZER_SECONDS:-80}")
    export out build suffix
    each=$((budget / 2))
    ((each < 20)) && each=20
    check() {
      local tool=$1 name=$2 log=$out/$2.$1.log code
      timeout "$3" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
        "$build/$name$suffix" >"$log" 2>&1
      code=$?
      if ((code == 0)); then
        echo "ok      $name: $tool"
      elif ((code == 124)); then
        echo "skipped: $name: $tool: not done in $3 s"
      elif ((code == 9)); then
        grep -m 8 '=========' "$log"
        echo "FAILED: $name: $tool"
      else
        tail -n 5 "$log"
        echo "FAILED: $name: $tool: exit $code"
      fi
    }
    export -f check
    # Quickest first: what is left when time is up are those with the most cases.
    order=("${tests[@]}")
    [[ -s $out/times.txt ]] && mapfile -t order < <(sort -n "$out/times.txt" | cut -d ' ' -f 2)
    for tool in memcheck racecheck; do
      for name in "${order[@]}"; do echo "$tool $name $each"; done
    done | timeout "$budget" xargs -P 8 -L 1 bash -c 'check "$@"' _ >"$out/sanitizer.txt" 2>&1
    (($? == 124)) && say "skipped: what is not listed: no time left"
    cat "$out/sanitizer.txt"
    count=$(grep -c '^FAILED' "$out/sanitizer.txt")
    failures=$((failures + count))
  fi
fi

if wanted bench && in_time bench; then
  stage benchmarks
  arguments=(--seconds "$(left "${DEVICE_CHECK_BENCH_SECONDS:-120}")")
  ((emulated)) && arguments=(--tiny)
  timeout "$(left 200)" "$build/kernels_bench$suffix" "${arguments[@]}" --json "$out/kernels.jsonl" \
    >"$out/kernels_bench.log" 2>&1
  code=$?
  if ((code != 0)); then
    tail -n 5 "$out/kernels_bench.log"
    fail "kernels_bench: exit $code"
  else
    tail -n 1 "$out/kernels_bench.log"
  fi
fi

torch_rows=()
if wanted torch && in_time torch; then
  stage PyTorch
  if ((!have_torch)); then
    say "skipped: no PyTorch in python3"
  elif [[ ! -s $out/kernels.jsonl ]]; then
    say "skipped: no rows to compare with"
  else
    arguments=(--rows "$out/kernels.jsonl" --out "$out/torch.jsonl" --seconds "$(left 90)")
    ((emulated)) && arguments+=(--cpu)
    if timeout "$(left 150)" "$python" "$root/bench/cuda/kernels_torch.py" "${arguments[@]}" \
      >"$out/torch.log" 2>&1; then
      torch_rows=("$out/torch.jsonl")
    else
      tail -n 5 "$out/torch.log"
      fail kernels_torch.py
    fi
  fi
fi

if [[ -s $out/kernels.jsonl && -n $python ]]; then
  stage results
  report=("$python" "$root/bench/cuda/kernels_report.py" "$out/kernels.jsonl" "${torch_rows[@]}")
  "${report[@]}" || fail report
  "${report[@]}" --markdown >"$out/results.md"
fi
say "$failures failures; ${SECONDS} s; results in $out"
((failures == 0))
