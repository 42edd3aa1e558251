#!/bin/sh
# From a fresh clone to a command in a microVM: installs what is missing, builds, makes an image of Debian packages, boots it.
# Says before what it installs; one line a step on stderr; the guest's own words on stdout. May be run again at any time.
# Needs Debian or a relative of it, Node and npm; works as root, and as a user who has sudo when a package is missing.
set -eu
root=$(cd "${0%/*}/.." && pwd -P)
. "$root/scripts/setup.sh"
image=localhost/debian-busybox
begun=$(date +%s)

case ${1:-} in
  "") ;;
  -h | --help) sed -n '2,4s/^# //p' "$0"; echo "usage: scripts/first-run.sh"; exit 0 ;;
  *) echo "first-run.sh: takes no arguments; see --help" >&2; exit 2 ;;
esac
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "Bunker runs on Linux on x86-64 only; this is $(uname -s) on $(uname -m)"
if ! have node || ! have npm; then die "Node 18 or newer and npm are needed first, e.g.: sudo apt-get install nodejs npm"; fi

# A busybox that needs no library: the guest has none.
static_busybox() {
  for busybox in "$(command -v busybox || true)" /bin/busybox /usr/bin/busybox; do
    if [ -x "$busybox" ] && ! grep -aq /ld-linux "$busybox"; then echo "$busybox"; return; fi
  done
}
kvm_can_be_opened() { [ -r /dev/kvm ] && [ -w /dev/kvm ]; }

packages=
[ -n "$(static_compiler)" ] || packages="$packages gcc libc6-dev musl-tools"
[ -n "$(static_busybox)" ] || packages="$packages busybox-static"
kvm_can_be_opened || have qemu-system-x86_64 || packages="$packages qemu-system-x86"
have flock || packages="$packages util-linux"
if [ -n "$packages" ]; then
  say "installing Debian packages with apt-get:$packages"
  # shellcheck disable=SC2086
  apt_install $packages
else
  say "no Debian package is missing"
fi

sh "$root/scripts/prepare.sh" </dev/null
[ -x "$root/dist/bunker" ] || die "dist/bunker is missing"

# /dev/kvm that can be opened may still boot nothing, so each engine boots a guest here.
say "looking for an engine: booting a guest with KVM, and without"
findings=$("$root/bunker" doctor --json </dev/null) || true
works() { echo "$findings" | tr -d '\n ' | grep -q "\"what\":\"engine$1\",\"state\":\"ok\""; }
if ! works krun && ! works qemu && ! have qemu-system-x86_64; then
  say "KVM boots no guest here; installing QEMU for software emulation with apt-get: qemu-system-x86"
  apt_install qemu-system-x86
fi

say "making an OCI image of Debian's busybox"
layout=$(mktemp -d "${TMPDIR:-/tmp}/bunker-first-run.XXXXXX")
trap 'rm -rf "$layout"' EXIT
sh "$root/scripts/debian-image.sh" "$layout/image" "$(static_busybox)"
say "loading it as $image"
"$root/bunker" load --quiet -t "$image" "$layout/image" </dev/null >/dev/null

say "booting it"
"$root/bunker" run --engine auto "$image" -- sh -c 'uname -a; echo "Hello from inside the VM: process $$ of $(hostname), on $(grep PRETTY /etc/os-release | cut -d \" -f 2)"' </dev/null

say "done in $(($(date +%s) - begun)) s; the image stays loaded as $image. Try next:"
cat >&2 <<END

  ./bunker run $image -- sh -c 'exit 7'; echo \$?
  echo hi | ./bunker run -i $image cat
  ./bunker run -it $image sh
  ./bunker create --name box $image -- sleep 1000 && ./bunker start box && ./bunker exec box uptime; ./bunker rm -f box
  ./bunker --help
END
