#!/bin/sh
# Runs a command of the README as on a fresh machine: builds a bare Debian with mmdebstrap that has Node, npm and nothing else of ours,
# clones the last commit of this checkout into it and runs the script there. Leaves nothing but what --keep asks for. Needs root.
# usage: scripts/fresh-machine.sh [--suite bookworm] [--keep DIRECTORY] [first-run.sh | all-tests.sh [ARGUMENT...]]
set -eu
root=$(cd "${0%/*}/.." && pwd -P)
. "$root/scripts/setup.sh"
suite=bookworm
keep=
while [ $# -gt 0 ]; do
  case $1 in
    --suite) suite=$2; shift 2 ;;
    --keep) keep=$2; shift 2 ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || set -- first-run.sh
[ "$(id -u)" = 0 ] || die "this mounts and changes its root directory, so it needs root: sudo $0"
for tool in mmdebstrap unshare git; do have "$tool" || die "$tool is missing; install it: sudo apt-get install mmdebstrap util-linux git"; done
[ -f "$root/scripts/$1" ] || die "there is no scripts/$1"

machine=${keep:-$(mktemp -d "${TMPDIR:-/var/tmp}/bunker-machine.XXXXXX")}
mkdir -p "$machine"
# Whatever was mounted below it was mounted in a namespace that is gone by now.
trap '[ -n "$keep" ] || rm -rf --one-file-system "$machine"' EXIT

if ! [ -x "$machine/usr/bin/npm" ]; then
  say "building a bare Debian ($suite) with Node and npm in $machine"
  log=$(mktemp)
  # The mirrors and their keys are this machine's.
  sources=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.list' -o -name '*.sources' \) 2>/dev/null | head -n 1)
  quietly "$log" mmdebstrap --variant=minbase --include=nodejs,npm,ca-certificates,git "$suite" "$machine" "${sources:--}" ||
    die "mmdebstrap could not build it"
  rm -f "$log"
fi
# How packages are reached from here: certificates, the registry of npm, apt's settings. No settings of the user.
cp -L /etc/resolv.conf "$machine/etc/resolv.conf" 2>/dev/null || true
cp -L /etc/hosts "$machine/etc/hosts" 2>/dev/null || true
cp -L /etc/ssl/certs/ca-certificates.crt "$machine/etc/ssl/certs/ca-certificates.crt" 2>/dev/null || true
rm -rf "$machine/etc/apt/apt.conf.d"; cp -a /etc/apt/apt.conf.d "$machine/etc/apt/apt.conf.d"
mkdir -p "$machine/etc/npm"
echo "registry=$(npm config get registry 2>/dev/null || echo https://registry.npmjs.org/)" >"$machine/etc/npmrc"
rm -rf "$machine/root/bunker"
git clone -q --no-hardlinks "$root" "$machine/root/bunker"

say "running scripts/$* in it"
script=$1; shift
# A process namespace of its own: what the script leaves running ends with it.
unshare --mount --pid --fork --kill-child sh -eu -c '
  machine=$1 script=$2; shift 2
  mount --make-rprivate /
  mount --rbind /dev "$machine/dev"
  mount -t proc proc "$machine/proc"
  mount -t sysfs -o ro sysfs "$machine/sys"
  exec chroot "$machine" /usr/bin/env -i HOME=/root USER=root TERM=dumb LC_ALL=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin NPM_CONFIG_GLOBALCONFIG=/etc/npmrc \
    NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
    sh -c "cd /root/bunker && exec ./scripts/\"\$0\" \"\$@\"" "$script" "$@"
' fresh-machine "$machine" "$script" "$@" </dev/null
