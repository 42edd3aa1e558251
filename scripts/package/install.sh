#!/bin/sh
# Installs Bunker into ~/.local: fetches the archive from beside this script's own address, checks its sum, unpacks it, and says
# what it did and how to undo it. Needs no root. The sum is written into this script when both are made.
# usage: install.sh [--from URL-OR-DIRECTORY] [--prefix DIRECTORY]
set -eu
name=@NAME@
sum=@SHA256@
from=${BUNKER_INSTALL_FROM:-}
prefix=${HOME:?}/.local

say() { echo "install.sh: $*" >&2; }
die() { say "$*"; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --from) from=${2:?}; shift 2 ;;
    --prefix) prefix=${2:?}; shift 2 ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done
# A script that was read from a pipe has no address of its own.
[ -n "$from" ] || case $0 in */*) from=$(cd "${0%/*}" && pwd -P) ;; *) die "where is the archive? give --from URL or --from DIRECTORY" ;; esac
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "Bunker runs on Linux on x86-64 only; this is $(uname -s) on $(uname -m)"
for tool in tar zstd sha256sum; do command -v "$tool" >/dev/null 2>&1 || die "$tool is missing; install it: sudo apt-get install tar zstd coreutils"; done

partial=$(mktemp -d "${TMPDIR:-/tmp}/bunker-install.XXXXXX")
trap 'rm -rf "$partial"' EXIT
archive=$partial/$name.tar.zst
case $from in
  http://* | https://*)
    if command -v curl >/dev/null 2>&1; then curl -fsSL -o "$archive" "$from/$name.tar.zst" || die "$from/$name.tar.zst could not be fetched"
    elif command -v wget >/dev/null 2>&1; then wget -q -O "$archive" "$from/$name.tar.zst" || die "$from/$name.tar.zst could not be fetched"
    else die "curl or wget is needed"; fi ;;
  *) cp "${from#file://}/$name.tar.zst" "$archive" || die "no archive in $from" ;;
esac
got=$(sha256sum "$archive")
[ "${got%% *}" = "$sum" ] || die "the archive has the sum ${got%% *} and should have $sum: it is damaged or of another version; nothing was installed"

zstd -dcq "$archive" | tar xf - -C "$partial"
mkdir -p "$prefix/lib" "$prefix/bin"
# The directory is replaced as a whole; a program that runs keeps its files.
rm -rf "$prefix/lib/bunker.old"
if [ -e "$prefix/lib/bunker" ]; then mv "$prefix/lib/bunker" "$prefix/lib/bunker.old"; fi
cp -a "$partial/$name/lib/bunker" "$prefix/lib/bunker"
rm -rf "$prefix/lib/bunker.old"
ln -sfn ../lib/bunker/bunker "$prefix/bin/bunker"
(cd "$partial/$name" && find share -type f) | while read -r file; do
  mkdir -p "$prefix/${file%/*}"
  cp "$partial/$name/$file" "$prefix/$file"
done
say "installed $("$prefix/bin/bunker" --version) as $prefix/bin/bunker, with $prefix/lib/bunker and, below $prefix/share, completions, the manual page and licences"
case ":${PATH:-}:" in *":$prefix/bin:"*) ;; *) say "$prefix/bin is not in your PATH: add it to use the name bunker" ;; esac
say "to undo it: rm -r $prefix/bin/bunker $prefix/lib/bunker $prefix/share/doc/bunker $prefix/share/man/man1/bunker.1" \
  "$prefix/share/bash-completion/completions/bunker $prefix/share/zsh/site-functions/_bunker $prefix/share/fish/vendor_completions.d/bunker.fish"
say "what it keeps is in ~/.bunker, which neither installing nor undoing touches"
