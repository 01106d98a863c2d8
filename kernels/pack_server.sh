#!/usr/bin/env bash
# Packs what kernels/server_check.sh needs where there is no network: this machine's Node, the modules
# the server runs with and the compiled TypeScript; with a model, that as parts.
#
#   kernels/pack_server.sh FOLDER [MODEL.gguf]
#
# FOLDER/server.tar.xz is about 25 MB. A model is cut into FOLDER/model.gguf.part-NN of 55 MB, so that
# where a transfer is limited to 64 MB each file fits one: bring them to one folder over there, in
# as many transfers as it takes. Sources travel as the repository does.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[[ $# -ge 1 && $# -le 2 ]] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
model=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$root"
[[ -d dist/src ]] || { echo "dist is not there: npm run build:ts" >&2; exit 1; }
mkdir -p "$work/server/bin"
cp "$(node -p process.execPath)" "$work/server/bin/node"
strip "$work/server/bin/node" 2>/dev/null || true
# Without what only tests, types and source maps need.
npm ls --omit=dev --all --parseable | tail -n +2 | sed "s|^$root/||" | sort -u >"$work/modules"
tar --exclude='*.map' --exclude='*.d.ts' --exclude='*.d.mts' --exclude='*.d.cts' --exclude='*.md' \
  -cf - -T "$work/modules" | tar -xf - -C "$work/server"
mkdir -p "$work/server/dist"
tar --exclude='*.map' -cf - dist/src dist/bench | tar -xf - -C "$work/server"
XZ_OPT='-6 -T0' tar -cJf "$out/server.tar.xz" -C "$work/server" .
rm -f "$out"/model.gguf.part-*
[[ -z $model ]] || split -b 55000000 -d "$model" "$out/model.gguf.part-"
ls -l "$out"
