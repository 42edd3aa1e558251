#!/bin/sh
# Runs the agent's unit tests natively; with clang under the address and undefined-behaviour sanitizers.
# usage: run.sh [fuzz SECONDS]   fuzz: also runs the fuzz target for so long (clang only)
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
pure="../common/frame.c ../common/json.c ../common/text.c src/users.c src/tree.c src/limits.c src/ring.c"
warn="-std=c11 -g -O1 -Wall -Wextra -Werror -D_GNU_SOURCE -I../common"
if command -v clang >/dev/null 2>&1; then
  sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all"
  # shellcheck disable=SC2086
  clang $warn $sanitize -o build/unit.$$ test/*.c $pure
  echo "sanitizers: address, undefined"
else
  # shellcheck disable=SC2086
  "${CC:-cc}" $warn -o build/unit.$$ test/*.c $pure
  echo "sanitizers: none (no clang)"
fi
trap 'rm -f build/unit.$$ build/fuzz.$$' EXIT
./build/unit.$$
[ "${1:-}" = fuzz ] || exit 0
# shellcheck disable=SC2086
clang $warn -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o build/fuzz.$$ fuzz/decoders.c ../common/frame.c ../common/json.c src/tree.c src/limits.c src/ring.c
mkdir -p build/corpus
./build/fuzz.$$ -max_total_time="${2:-30}" -max_len=4096 -print_final_stats=1 -artifact_prefix=build/ build/corpus fuzz/corpus
