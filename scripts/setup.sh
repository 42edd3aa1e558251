# Functions for the scripts that set a machine or a checkout up; sourced, with $root set to the checkout. Installs nothing by itself.
# shellcheck shell=sh

say() { echo "bunker: $*" >&2; }
die() { say "$*"; exit 125; }
have() { command -v "$1" >/dev/null 2>&1; }

# One line before, and only when it fails the end of what the command said.
# quietly LOG COMMAND [ARGUMENT...]
quietly() {
  transcript=$1; shift
  if "$@" </dev/null >"$transcript" 2>&1; then return 0; fi
  echo "--- the end of $transcript:" >&2
  tail -n 15 "$transcript" >&2
  return 1
}

# What makes a static C program, empty when nothing does.
static_compiler() {
  for cc in musl-gcc "${CC:-cc}"; do
    if have "$cc" && echo 'int main(void) { return 0; }' | "$cc" -static -x c -o /dev/null - >/dev/null 2>&1; then
      echo "$cc"
      return
    fi
  done
}

# Prefix for commands that need root: nothing for root itself, sudo where it may be used, an error where not.
# A password is only asked for on a terminal.
become_root() {
  if [ "$(id -u)" = 0 ]; then echo "env"
  elif ! have sudo; then return 1
  elif sudo -n true 2>/dev/null; then echo "sudo -n"
  elif [ -t 2 ] && [ -r /dev/tty ]; then echo "sudo"
  else return 1
  fi
}

# Words before apt-get's own, in $get.
prepare_apt() {
  have apt-get || die "no apt-get here: install these with your package manager and start again: $*"
  prefix=$(become_root) || die "not root, and sudo can not be used: have somebody run 'apt-get install --no-install-recommends $*'"
  # The terminal is for sudo's question only.
  if [ "$prefix" = sudo ]; then sudo -v </dev/tty || die "sudo was refused"; fi
  get="$prefix env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y -o DPkg::Lock::Timeout=120"
}

# Fetches the package lists.
apt_update() {
  prepare_apt
  say "fetching Debian's package lists"
  lists=$(mktemp "${TMPDIR:-/tmp}/bunker-apt.XXXXXX")
  # shellcheck disable=SC2086
  quietly "$lists" $get update || die "'apt-get update' failed; is this machine online?"
  rm -f "$lists"
}

# Installs Debian packages; the caller has said which and why. Package lists are fetched only when apt can not do without.
# apt_install PACKAGE...
apt_install() {
  prepare_apt "$@"
  log=$(mktemp "${TMPDIR:-/tmp}/bunker-apt.XXXXXX")
  # shellcheck disable=SC2086
  if ! $get install --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
    apt_update
    quietly "$log" $get install --no-install-recommends "$@" || die "apt-get could not install: $*"
  fi
  rm -f "$log"
}

# The bun that npm brought, in $bun; false when there is none that runs. npm may have been told to run no install scripts,
# then bun.exe is only a placeholder and the program is still in its own package.
find_bun() {
  for bun in bun/bin/bun.exe @oven/bun-linux-x64/bin/bun @oven/bun-linux-x64-baseline/bin/bun; do
    bun=$root/node_modules/$bun
    if [ -x "$bun" ] && "$bun" --version >/dev/null 2>&1; then return 0; fi
  done
  bun=
  return 1
}

# The packages of package-lock.json are installed.
packages_installed() {
  [ -f "$root/node_modules/.package-lock.json" ] && ! [ "$root/package-lock.json" -nt "$root/node_modules/.package-lock.json" ]
}
