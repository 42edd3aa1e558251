#!/bin/sh
# Runs inside the lab: every contestant RUNS times in turn after a warm-up, then commands in running sandboxes. Computes nothing:
# leaves /out/times.jsonl (see timer.c), /out/memory.txt and /out/inside.log to the host.
#
# In: /kit/bin with bun, bunker, msb, timer, mke2fs; /kit/bench with bare.js, boxlite.js, rootfs/ and one image as image.tar (docker
# save) and layout/ (OCI); /boxlite/node_modules. $RUNS, $EXECS, $ONLY.
set -u
mkdir -p /out; [ -n "${LIVE:-}" ] || exec 2> /out/inside.log
set -x
times=/out/times.jsonl
krun=$(ls /kit/node_modules/libkrun-linux-x64/runtime/libkrun.so.*) krunfw=$(ls /kit/node_modules/libkrun-linux-x64/runtime/libkrunfw.so.*)
image=localhost/bench/hello:1
wants() { case " $ONLY " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# An ext4 of its own, as a user's home would be: microsandbox's images need extended attributes that a tmpfs has not.
# By its path: the shell would take its own mke2fs, which knows no ext4.
truncate -s 1500M /tmp/disk.ext4; /kit/bin/mke2fs -q -F -t ext4 /tmp/disk.ext4 || exit 92
mkdir -p /work; mount -t ext4 -o loop /tmp/disk.ext4 /work || exit 93
export HOME=/work/home TMPDIR=/work/tmp BUNKER_HOME=/work/bunker BOXLITE_HOME=/work/boxlite
mkdir -p "$HOME" "$TMPDIR"
cp -a /kit/bench/rootfs /work/rootfs

# One boot in some dozens gets stuck under emulation: it is killed, counted as failed and tried again.
export TIMER_MS=6000 TIMER_REAL_S=150
again() { "$@" || "$@" || "$@"; }
bare() { timer "$1" "$times" bun /kit/bench/bare.js "$krun" "$krunfw" /work/rootfs /bin/hello; }
ours() { timer "$1" "$times" bunker run --engine krun "$image" /bin/hello; }
peer() { timer "$1" "$times" msb run --cpus 1 --memory 512M "$image" -- /bin/hello; }
boxlite() { label=$1; shift; timer "$label" "$times" bun /kit/bench/boxlite.js /boxlite/node_modules/@boxlite-ai/boxlite "$@"; }
boxed() { boxlite "$1" run /kit/bench/layout /bin/hello; }
round() {
  ! wants bare || again bare "$1bare"; ! wants bunker || again ours "$1bunker"
  ! wants microsandbox || again peer "$1microsandbox"; ! wants boxlite || again boxed "$1boxlite"
}

# Proportional memory, in KiB, of every process that is not a kernel thread and not named in $quiet.
# By its first byte: files of /proc have no size. On one line, with blanks between: that is how $quiet is searched.
processes() { for p in /proc/[0-9]*; do [ -z "$(head -c 1 "$p/cmdline" 2> /dev/null)" ] || printf '%s ' "${p#/proc/}"; done; }
# Of that: the guest's memory (the one mapping of 512 MiB, and what lies next to it), what is else nobody's but this process's, and files, which all such
# processes share.
parts() { # PID : "GUEST OWN FILES"
  awk '/^[0-9a-f]+-[0-9a-f]+ / { file = $5 != 0 } /^Size:/ { guest = $2 >= 524288 && $2 < 600000 }
    /^Pss:/ { if (guest) g += $2; else if (file) f += $2; else o += $2 } END { printf "%d %d %d", g, o, f }' "/proc/$1/smaps"
}
memory() { # LABEL : of the processes that were not there before
  for p in $(processes); do
    case " $quiet " in *" $p "*) continue ;; esac
    [ -r "/proc/$p/smaps_rollup" ] || continue
    echo "$1 $p $(sed -n 's/^Pss: *\([0-9]*\).*/\1/p' "/proc/$p/smaps_rollup") $(sed -n 's/^Rss: *\([0-9]*\).*/\1/p' "/proc/$p/smaps_rollup") $(parts "$p") $(tr '\0' ' ' < "/proc/$p/cmdline" | cut -c1-80)"
  done >> /out/memory.txt
}

! wants bunker || bunker load /kit/bench/image.tar -t "$image" > /dev/null || exit 90
! wants microsandbox || msb load -i /kit/bench/image.tar -t "$image" > /dev/null || exit 91
TIMER_MS=20000 TIMER_REAL_S=300 round warm-
i=0; while [ "$i" -lt "$RUNS" ]; do i=$((i + 1)); round ''; done
# The same within one process: its own lines say the times, this one only that it ended.
within() { boxlite boxlite-inside-all inside "$times" "$RUNS" "${EXECS:-0}" /kit/bench/layout /bin/hello; }
! wants boxlite || TIMER_MS=60000 TIMER_REAL_S=400 again within
! wants boxlite || cat "$BOXLITE_HOME"/logs/* > /out/boxlite.log

[ "${EXECS:-0}" -gt 0 ] || exit 0
# A sandbox whose boot got stuck would take its contestant's commands along: it is made once more.
up_ours() { timer bunker-up "$times" bunker run --engine krun -d --name bench "$image" /bin/sleep 100000; }
up_peer() { timer microsandbox-up "$times" msb run -d --name bench --cpus 1 --memory 512M "$image" -- /bin/sleep 100000; }
up_boxed() { boxlite boxlite-up up /kit/bench/layout; }
if wants bare; then
  quiet=$(processes)
  bun /kit/bench/bare.js "$krun" "$krunfw" /work/rootfs /bin/busybox sleep 100000 > /dev/null &
  sleep 5; memory bare; kill -9 $!
fi
if wants bunker; then
  quiet=$(processes)
  up_ours || { bunker rm -f bench; up_ours; }
  bunker exec bench /bin/hello; sleep 3; memory bunker
  i=0; while [ "$i" -lt "$EXECS" ]; do i=$((i + 1)); timer bunker-exec "$times" bunker exec bench /bin/hello; done
  timer bunker-stop "$times" bunker stop bench; bunker rm -f bench
fi
if wants microsandbox; then
  quiet=$(processes)
  up_peer || { msb rm -f bench; up_peer; }
  msb exec bench -- /bin/hello; sleep 3; memory microsandbox
  i=0; while [ "$i" -lt "$EXECS" ]; do i=$((i + 1)); timer microsandbox-exec "$times" msb exec bench -- /bin/hello; done
  timer microsandbox-stop "$times" msb stop bench; msb rm -f bench
fi
if wants boxlite; then
  quiet=$(processes)
  up_boxed || { boxlite boxlite-rm rm; up_boxed; }
  boxlite warm-boxlite-exec exec /bin/hello; sleep 3; memory boxlite
  i=0; while [ "$i" -lt "$EXECS" ]; do i=$((i + 1)); boxlite boxlite-exec exec /bin/hello; done
  boxlite boxlite-stop stop; boxlite boxlite-rm rm
fi
exit 0
