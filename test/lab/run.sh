#!/usr/bin/env bash
# Runs the VM suites under libkrun in the KVM lab (lab.sh) and answers with their exit code.
# Installs nothing: it says what is missing. Downloads one Debian kernel with apt-get, once.
#
# usage: test/lab/run.sh [SUITE.test.ts...]     default: the suites named below, in as many labs at a time as BUNKER_LAB_JOBS says
#
#   BUNKER_LAB_JOBS    labs at a time, each with a processor, 4 GiB and a home of its own; default 2 where the machine has
#                      two processors and 10 GiB to spare, else 1; 1 for suites that are named
#   BUNKER_LAB_CACHE   kernel and packed files, default ${XDG_CACHE_HOME:-$HOME/.cache}/bunker-lab
#   LAB_KERNEL         an unpacked Debian kernel instead of the downloaded one
#   BUNKER_LAB_TIMEOUT seconds for each lab, default 1500
#   BUNKER_LAB_ALL     set: also the cases that no engine can change, which are left to the host else (3 minutes more)
#   BUNKER_TEST_STREAM_MB  megabytes of the large streams in ioBehaviour, passed on
#
# In the lab a suite finds: BUNKER_TEST_ENGINE=krun, BUNKER_TEST_AGENT (the guest agent), BUNKER_TEST_RUNNER (a runner),
# BUNKER_TEST_BUNKER (the compiled program, when dist/bunker exists), mke2fs and busybox in PATH, a home on a tmpfs.
# JavaScript is interpreted: each write of compiled code makes the emulator translate its page anew, which made a process
# start four times slower.
# Exit codes: the worst of the labs' (of `bun test`; 124 time ran out; 125 a lab could not be set up).
set -eu
here=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${BUNKER_LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/bunker-lab}
PATH=$PATH:/usr/sbin:/sbin
say() { echo "lab: $*" >&2; }

absent=
need() { command -v "$1" > /dev/null || absent="$absent $2"; }
need qemu-system-x86_64 qemu-system-x86; need busybox busybox-static; need cpio cpio; need mke2fs e2fsprogs
need lz4 lz4; need xz xz-utils; need zstd zstd; need dpkg dpkg
if [ -n "$absent" ]; then say "missing; install with: sudo apt-get install --no-install-recommends$absent"; exit 125; fi
bun=$(readlink -f "$root/node_modules/.bin/bun" || true)
libraries=$root/node_modules/libkrun-linux-x64/runtime
if ! [ -x "$bun" ] || ! [ -d "$libraries" ]; then say "missing: bun or libkrun-linux-x64 in node_modules; run 'npm install'"; exit 125; fi
[ -x "$root/native/guest/build/agent" ] || "$root/native/guest/build.sh" >&2 || { say "the guest agent cannot be built"; exit 125; }

kernel=${LAB_KERNEL:-$cache/kernel}
mkdir -p "$cache"
if ! ls "$kernel"/boot/vmlinuz-* > /dev/null 2>&1; then say "downloading a Debian kernel into $kernel"; "$here/lab.sh" --fetch-kernel "$kernel"; fi

# --- what goes in: large files that seldom change in one share, the suites in another ---------------------------------
kit=$cache/kit; mkdir -p "$kit/bin" "$kit/node_modules/libkrun-linux-x64/runtime"
take() { cmp -s "$1" "$2" || cp -L "$1" "$2"; }
take "$bun" "$kit/bin/bun"
for f in "$libraries"/libkrun.so.* "$libraries"/libkrunfw.so.*; do take "$f" "$kit/node_modules/libkrun-linux-x64/runtime/${f##*/}"; done
take "$libraries/mke2fs" "$kit/bin/mke2fs"   # needs nothing but glibc, unlike the system's

work=$(mktemp -d "${TMPDIR:-/tmp}/bunker-suite.XXXXXX"); mkdir "$work/all"; trap 'rm -rf "$work"' EXIT
# One suite a file, with everything it imports: the lab has no node_modules of ours.
jobs=${BUNKER_LAB_JOBS:-}
if [ $# -gt 0 ]; then
  jobs=${jobs:-1}
else
  # Longest first: each goes to the lab that has least to do so far.
  for name in behaviour takeover robustness lifecycle ioBehaviour models mute pause mounts ends engine probe; do
    set -- "$@" "$(ls "$root/test/vm/$name.test.ts" "$root/test/vm"/*/"$name.test.ts" 2>/dev/null | head -n 1)"
  done
fi
spare=$(awk '$1 == "MemAvailable:" { print int($2 / 1048576) }' /proc/meminfo)
if [ -z "$jobs" ]; then if [ "$(nproc)" -ge 2 ] && [ "$spare" -ge 10 ]; then jobs=2; else jobs=1; fi; fi
[ "$jobs" -le $# ] || jobs=$#
for suite in "$@"; do
  [ -f "$suite" ] || { say "no suite $suite"; exit 125; }
  "$bun" build --target bun --outfile "$work/all/$(basename "$suite" .ts).js" "$suite" > /dev/null || { say "$suite can not be bundled"; exit 125; }
done
"$bun" build --target bun --outfile "$work/runner.js" "$root/test/support/runnerEntry.ts" > /dev/null
sh "$root/native/launcher/build.sh"; take "$root/native/launcher/build/launcher" "$work/launcher"
"$root/native/mount-helper/build.sh" >&2 || { say "the mount helper cannot be built"; exit 125; }
take "$root/native/guest/build/agent" "$work/agent"; take "$root/native/mount-helper/build/mount-helper" "$work/mount-helper"
environment=()
if [ -x "$root/dist/bunker" ]; then
  take "$root/dist/bunker" "$kit/bin/bunker"; take "$root/dist/bunker-main" "$kit/bin/bunker-main"
  environment=(--env BUNKER_TEST_BUNKER=/kit/bin/bunker)
else
  say "no dist/bunker: suites that need the compiled program have to skip ('bun run build' makes it)"
fi

# --- the labs ---------------------------------------------------------------------------------------------------------
# Seconds that a suite takes on a machine that does nothing else; what is not known counts as long.
weight() {
  case $1 in
    probe) echo 15 ;; engine|ends) echo 20 ;; mounts) echo 30 ;; pause) echo 40 ;; mute|models) echo 50 ;; lifecycle|ioBehaviour) echo 65 ;;
    robustness) echo 85 ;; takeover) echo 110 ;; *) echo 120 ;;
  esac
}
busy=() shares=()
for ((job = 0; job < jobs; job++)); do busy+=(0); shares+=(""); done
for suite in "$@"; do
  name=$(basename "$suite" .test.ts) least=0
  for ((job = 1; job < jobs; job++)); do [ "${busy[job]}" -ge "${busy[least]}" ] || least=$job; done
  busy[least]=$((busy[least] + $(weight "$name"))); shares[least]="${shares[least]} /suite/all/$name.test.js"
done

lab() { # SUITES...
  "$here/lab.sh" --kernel "$kernel" --cache "$cache" --share "$kit:/kit" --share "$work:/suite" --mem 4096 --time \
    --timeout "${BUNKER_LAB_TIMEOUT:-1500}" --cwd /suite ${environment[@]+"${environment[@]}"} \
    --env PATH=/kit/bin:/bin:/sbin:/usr/bin --env HOME=/root --env TMPDIR=/tmp --env BUN_JSC_useBaselineJIT=0 --env BUN_JSC_thresholdForJITAfterWarmUp=100000 \
    ${BUNKER_TEST_STREAM_MB:+--env "BUNKER_TEST_STREAM_MB=$BUNKER_TEST_STREAM_MB"} --env BUNKER_LAB=1 \
    ${BUNKER_LAB_ALL:+--env BUNKER_LAB_ALL=1} \
    --env BUNKER_TEST_ENGINE=krun --env BUNKER_TEST_AGENT=/suite/agent --env BUNKER_TEST_MOUNT_HELPER=/suite/mount-helper \
    --env BUNKER_TEST_LAUNCHER=/suite/launcher --env BUNKER_TEST_RUNNER=/suite/runner.js \
    -- /kit/bin/bun test --timeout 240000 "$@"
}
# Whole lines only, for labs that speak at the same time.
pids=()
for ((job = 0; job < jobs; job++)); do
  # shellcheck disable=SC2086
  { set -o pipefail; lab ${shares[job]} 2>&1 | sed -u '' | tee "$work/said.$job" >&2; } & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do ended=0; wait "$pid" || ended=$?; [ "$ended" -le "$status" ] || status=$ended; done
# Names of the suites with a failed test, a line each, for who tries them again.
if [ -n "${BUNKER_LAB_FAILED:-}" ]; then
  cat "$work"/said.* | awk '/^all\/.*\.test\.js:/ { suite = $1 } /^\(fail\)/ { print suite }' | sed 's/^all\///; s/\.js:.*$//' | sort -u > "$BUNKER_LAB_FAILED"
fi
say "suites ended with exit code $status"
exit "$status"
