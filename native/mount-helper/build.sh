#!/bin/sh
# Compiles native/mount-helper/build/mount-helper, the program that prepares shared directories, with whatever C compiler is there.
# Needs no network and no root; the same compiler makes the same bytes.
set -eu
cd "$(dirname "$0")"
out=${1:-build/mount-helper}
flags="-std=c11 -Os -static -no-pie -s -fno-asynchronous-unwind-tables -fno-ident -ffunction-sections -fdata-sections
  -Wl,--gc-sections -Wl,-z,noseparate-code -Wl,--build-id=none -Wall -Wextra -Werror"
if [ -f "$out" ] && [ -z "$(find mount_helper.c build.sh -newer "$out")" ]; then exit 0; fi
cc=${CC:-cc}
if command -v musl-gcc >/dev/null 2>&1; then cc=musl-gcc; fi
command -v "$cc" >/dev/null 2>&1 || {
  echo "native/mount-helper/build.sh: no C compiler found (musl-gcc, cc); install one, e.g. 'apt-get install gcc libc6-dev'" >&2
  exit 1
}
mkdir -p "$(dirname "$out")"
partial="$out.$$"
trap 'rm -f "$partial"' EXIT
# shellcheck disable=SC2086
LC_ALL=C SOURCE_DATE_EPOCH=0 "$cc" $flags -o "$partial" mount_helper.c
mv "$partial" "$out"
