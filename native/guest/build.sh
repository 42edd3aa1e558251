#!/bin/sh
# Compiles the guest agent into native/guest/build/agent with whatever C compiler is there, and prints one line about it.
# Needs no network and no root; the same compiler makes the same bytes.
set -eu
cd "$(dirname "$0")"
out=${1:-build/agent}
flags="-std=c11 -Os -static -no-pie -s -fno-asynchronous-unwind-tables -fno-ident -ffunction-sections -fdata-sections
  -Wl,--gc-sections -Wl,-z,noseparate-code -Wl,--build-id=none -Wall -Wextra -Werror -D_GNU_SOURCE"
say() { echo "guest agent: $out, $(wc -c <"$out" | tr -d ' ') bytes, $1"; }
if [ -f "$out" ] && [ -z "$(find src ../common build.sh -newer "$out")" ]; then
  say "up to date"
  exit 0
fi
if command -v musl-gcc >/dev/null 2>&1; then cc=musl-gcc
elif command -v "${CC:-cc}" >/dev/null 2>&1; then cc=${CC:-cc}
else
  echo "native/guest/build.sh: no C compiler found (musl-gcc, cc); install one, e.g. 'apt-get install musl-tools' or 'apt-get install gcc libc6-dev'" >&2
  exit 1
fi
mkdir -p "$(dirname "$out")"
# Built beside its place and renamed: two builds at once never leave half a file.
partial="$out.$$"
trap 'rm -f "$partial"' EXIT
# shellcheck disable=SC2086
LC_ALL=C SOURCE_DATE_EPOCH=0 "$cc" $flags -I../common -o "$partial" src/*.c ../common/*.c
mv "$partial" "$out"
say "$cc"
