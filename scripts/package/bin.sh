#!/bin/sh
# Runs the program of the npm package `bunker-sandbox` with the Bun that is there.
self=$0
if [ -L "$self" ]; then self=$(readlink -f -- "$self"); fi
root=$(cd -- "${self%/*}/.." && pwd -P)
# Bun as the package manager that started this, on PATH, as an npm package, where its installer puts it.
case ${npm_execpath:-} in */bun | */bun.exe) started=$npm_execpath ;; *) started= ;; esac
for bun in "$started" "$(command -v bun || true)" "$root/../bun/bin/bun.exe" "$root/../.bin/bun" "${BUN_INSTALL:-${HOME:-}/.bun}/bin/bun"; do
  if [ -n "$bun" ] && [ -x "$bun" ]; then
    # Settings of the directory that this is started in are not its own.
    exec "$bun" --no-env-file --config=/dev/null "$root/dist/program.js" "$@"
  fi
done
echo "bunker: Bun is needed and was not found; install it: npm install -g bun, or see https://bun.sh" >&2
exit 125
