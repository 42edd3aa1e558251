#!/bin/sh
# Compiles native/launcher/build/launcher with the system's C compiler: dynamic, for it loads libkrun. Where that does not work it leaves an
# empty file, and VMs start through Bun (src/vm/runner/runner.ts). Needs no network and no root.
set -eu
cd "$(dirname "$0")"
out=${1:-build/launcher}
flags="-std=gnu11 -O2 -s -fno-ident -Wall -Wextra -Werror -Wl,--build-id=none -Wl,-z,now -D_FILE_OFFSET_BITS=64"
# With glibc the file runs on 2.28, too: there dlopen is in libdl, which newer ones keep for such programs. launcher.c has the entry point.
portable="-nostartfiles -Wl,--no-as-needed -l:libdl.so.2"
if [ -f "$out" ] && [ -z "$(find launcher.c harden.c harden.h build.sh ../common/json.c ../common/json.h -newer "$out")" ]; then exit 0; fi
mkdir -p "$(dirname "$out")"
partial="$out.$$"
trap 'rm -f "$partial"' EXIT
# shellcheck disable=SC2086
if ! LC_ALL=C "${CC:-cc}" $flags -o "$partial" launcher.c harden.c ../common/json.c $portable; then
  echo "native/launcher/build.sh: no launcher without a C compiler for glibc; VMs start through Bun, a little slower" >&2
  : > "$partial"
fi
mv "$partial" "$out"
