#!/bin/sh
# Passes all tests: installs what is missing (Debian packages, npm packages), runs the checks, the suites of this host, and the
# VM suites under libkrun in the KVM lab. The last line is `N passed, N failed[, N skipped]`, where a failed check counts as one.
# usage: scripts/all-tests.sh [--no-lab]
set -eu
root=$(cd "${0%/*}/.." && pwd -P)
. "$root/scripts/setup.sh"
lab=--lab
case ${1:-} in
  "") ;;
  --no-lab) lab= ;;
  -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
  *) echo "all-tests.sh: unknown argument $1; see --help" >&2; exit 2 ;;
esac
if ! have node || ! have npm; then die "Node 18 or newer and npm are needed first, e.g.: sudo apt-get install nodejs npm"; fi
PATH=$PATH:/usr/sbin:/sbin

packages=
need() { have "$1" || packages="$packages $2"; }
[ -n "$(static_compiler)" ] && have gcc || packages="gcc libc6-dev musl-tools"
need qemu-system-x86_64 qemu-system-x86; need busybox busybox-static; need mke2fs e2fsprogs; need flock util-linux
# The other tools that write and read what the tests write and read.
need fsck.erofs erofs-utils; need skopeo skopeo; need umoci umoci; need docker-registry docker-registry
need htpasswd apache2-utils; need openssl openssl; need buildah buildah; need tmux tmux; need zsh zsh; need fish fish
# What package managers in sandboxes are made of: Debian's own.
need /usr/bin/pip3 python3-pip; need git git; need curl curl
# Sanitizers and the fuzzer for what is in C; the order of system calls.
need strace strace
# The network stack: its guest is a namespace of this machine.
need ip iproute2; need curl curl; need dig dnsutils; need ping iputils-ping
# Debian's clang only recommends the sanitizers' runtime, and recommended packages are not installed: what counts is a link that works.
sanitizers_link() { have clang && echo 'int main(void) { return 0; }' | clang -fsanitize=address,undefined,fuzzer-no-link -x c -o /dev/null - >/dev/null 2>&1; }
sanitizers_link || packages="$packages clang libclang-rt-14-dev"
# The lab.
need cpio cpio; need lz4 lz4; need xz xz-utils; need zstd zstd
if [ -n "$packages" ]; then
  say "installing Debian packages with apt-get:$packages"
  # shellcheck disable=SC2086
  apt_install $packages
else
  say "no Debian package is missing"
fi
# The lab downloads a Debian kernel, which is not installed.
if [ -n "$lab" ] && have apt-cache && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then apt_update; fi

sh "$root/scripts/prepare.sh" </dev/null
find_bun || die "npm brought no Bun that runs here"
cd "$root"
export PATH BUNKER_LAB_TIMEOUT="${BUNKER_LAB_TIMEOUT:-1500}"

# shellcheck disable=SC2086
exec "$bun" scripts/test.ts --check $lab </dev/null
