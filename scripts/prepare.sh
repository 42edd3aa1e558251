#!/bin/sh
# Makes a checkout ready to run: npm packages, then dist/bunker; one line a step on stderr. Installs nothing outside the
# checkout (first-run.sh does). Any number of these at once: one works, the others wait.
set -eu
root=$(cd "${0%/*}/.." && pwd -P)
. "$root/scripts/setup.sh"

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "Bunker runs on Linux on x86-64 only; this is $(uname -s) on $(uname -m)"
if ! mkdir -p "$root/dist" 2>/dev/null || ! [ -w "$root/dist" ]; then
  if [ -x "$root/dist/bunker" ]; then
    say "dist/bunker is older than its sources, and you may not write to $root: running it as it is"
    exit 0
  fi
  die "dist/bunker has not been built, and you may not write to $root; let its owner run ./bunker once"
fi
have flock || die "flock is missing; install it: sudo apt-get install util-linux"
exec 9>"$root/dist/.lock"
if ! flock -n 9; then
  say "another process is preparing this checkout; waiting for it"
  flock 9
fi

if ! packages_installed || ! find_bun; then
  have npm || die "npm is missing; install Node 18 or newer with npm, e.g. sudo apt-get install nodejs npm"
  [ -w "$root" ] || die "you may not write to $root; let its owner run ./bunker once"
  if ! packages_installed; then
    say "installing npm packages into $root/node_modules"
    # Not `npm ci`: it refuses a lock file without the optional packages of other platforms. This takes the locked versions, too,
    # and writes neither package.json nor package-lock.json.
    (cd "$root" && quietly dist/npm.log npm install --no-save --no-audit --no-fund 9>&-) || die "npm could not install the packages of package-lock.json"
    touch "$root/node_modules/.package-lock.json"
  fi
  if ! "$root/node_modules/.bin/bun" --version >/dev/null 2>&1; then
    say "putting Bun in place, since npm ran no install scripts"
    (cd "$root" && quietly dist/npm.log node node_modules/bun/install.js 9>&-) || true
  fi
  find_bun || die "npm brought no Bun that runs here; try 'npm rebuild bun' in $root"
fi

if ! [ -f "$root/native/guest/build/agent" ] && [ -z "$(static_compiler)" ]; then
  die "a C compiler is needed for the guest agent; install one: sudo apt-get install gcc libc6-dev musl-tools"
fi
if ! (cd "$root" && "$bun" scripts/build.ts --is-fresh </dev/null 9>&-); then
  say "building dist/bunker"
  (cd "$root" && quietly dist/build.log "$bun" scripts/build.ts 9>&-) || die "the build failed"
fi
