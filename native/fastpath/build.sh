#!/bin/sh
# Compiles native/fastpath/build/fastpath, the program that people start as `bunker`, with whatever C compiler is there.
# Needs no network and no root; the same compiler makes the same bytes.
set -eu
cd "$(dirname "$0")"
out=${1:-build/fastpath}
version=$(sed -n 's/^  "version": "\([0-9A-Za-z.+-]*\)",$/\1/p' ../../package.json)
flags="-std=c11 -Os -static -no-pie -s -fno-asynchronous-unwind-tables -fno-ident -ffunction-sections -fdata-sections
  -Wl,--gc-sections -Wl,-z,noseparate-code -Wl,--build-id=none -Wall -Wextra -Werror -D_GNU_SOURCE"
shared="../common/frame.c ../common/json.c ../common/text.c"
if [ -f "$out" ] && [ -z "$(find . ../../package.json ../common -name build -prune -o -type f -newer "$out" -print)" ]; then exit 0; fi
cc=${CC:-cc}
if command -v musl-gcc >/dev/null 2>&1; then cc=musl-gcc; fi
command -v "$cc" >/dev/null 2>&1 || {
  echo "native/fastpath/build.sh: no C compiler found (musl-gcc, cc); install one, e.g. 'apt-get install gcc libc6-dev'" >&2
  exit 1
}
mkdir -p "$(dirname "$out")"
partial="$out.$$"
trap 'rm -f "$partial"' EXIT
# shellcheck disable=SC2086
LC_ALL=C SOURCE_DATE_EPOCH=0 "$cc" $flags -DVERSION="\"$version\"" -o "$partial" main.c call.c talk.c $shared
mv "$partial" "$out"
