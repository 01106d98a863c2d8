#!/usr/bin/env bash
# Runs the server itself on a machine with a GPU but without Node or network: builds the addon and the
# CUDA plug-in, asks a chat over HTTP on both backends, and puts a short load on the CUDA one.
#
#   kernels/server_check.sh PACK [RESULTS]      results: default build/server-check
#
# PACK: a folder that kernels/pack_server.sh filled (server.tar.xz, perhaps parts of a model), or one
# that holds bin/node, node_modules and dist. SERVER_CHECK_MODEL names another model file; without any,
# random weights of SERVER_CHECK_SHAPE (llama-1b) are served: speed is right, words are not.
# SERVER_CHECK_BACKEND=cuda-emulated tries this script without a GPU (slow: SERVER_CHECK_SHAPE=tiny).
# SERVER_CHECK_ARGUMENTS are further ones of dist/bench/server-check.js.
#
# Exit code 0: both backends answered alike and no request failed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[[ $# -ge 1 && $# -le 2 ]] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
pack=$(cd "$1" && pwd)
mkdir -p "${2:-$root/build/server-check}"
out=$(cd "${2:-$root/build/server-check}" && pwd)
backend=${SERVER_CHECK_BACKEND:-cuda}
SECONDS=0

if [[ -f $pack/server.tar.xz ]]; then
  unpacked=$out/unpacked
  rm -rf "$unpacked" && mkdir -p "$unpacked"
  tar -xJf "$pack/server.tar.xz" -C "$unpacked"
  pack_root=$unpacked
else
  pack_root=$pack
fi
export PATH="$pack_root/bin:$PATH"
node=$(command -v node) || { echo "no node in $pack_root/bin or on the PATH" >&2; exit 1; }
echo "Node $("$node" --version), unpacked (at $SECONDS s)"

# The build finds its tools in node_modules, the server its files beside dist: a place of its own with
# the sources of this tree, so that nothing here is changed.
place=$out/place
rm -rf "$place" && mkdir -p "$place"
for name in CMakeLists.txt package.json native kernels test; do cp -r "$root/$name" "$place/$name"; done
if [[ $pack_root == "$out/unpacked" ]]; then
  mv "$pack_root/node_modules" "$pack_root/dist" "$place"
else
  cp -r "$pack_root/node_modules" "$pack_root/dist" "$place"
fi

model=${SERVER_CHECK_MODEL:-}
if [[ -z $model ]] && compgen -G "$pack/model.gguf.part-*" >/dev/null; then
  model=$out/model.gguf
  cat "$pack"/model.gguf.part-* >"$model"
fi

cuda=on flags=()
[[ $backend == cuda-emulated ]] && cuda=off flags=(--emulated)
LONGHAUL_CUDA=$cuda CMAKE_BUILD_PARALLEL_LEVEL=${SERVER_CHECK_JOBS:-$(nproc)} \
  "$node" "$place/native/build.mjs" "${flags[@]}" \
  >"$out/build.log" 2>&1 || { tail -n 20 "$out/build.log"; exit 1; }
echo "built (at $SECONDS s)"
if [[ -z ${LONGHAUL_CUBLASLT:-} ]] && ! ldconfig -p | grep -q 'libcublasLt\.so\.1[23]'; then
  found=$(python3 -c '
import glob, os, sys
paths = [p for f in sys.path for p in glob.glob(os.path.join(f, "nvidia", "*", "lib", "libcublasLt.so.1[23]"))]
print(sorted(paths)[-1] if paths else "")' 2>/dev/null || true)
  [[ -n $found ]] && export LONGHAUL_CUBLASLT=$found
fi

if [[ -n $model ]]; then what=(--model "$model"); else what=(--synthetic "${SERVER_CHECK_SHAPE:-llama-1b}"); fi
read -ra more <<<"${SERVER_CHECK_ARGUMENTS:-}"
code=0
"$node" "$place/dist/bench/server-check.js" --backend "$backend" "${what[@]}" --save "$out" \
  "${more[@]}" 2>&1 | tee "$out/summary.txt" || code=$?
echo "exit $code (at $SECONDS s)"
exit "$code"
