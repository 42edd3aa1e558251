#!/usr/bin/env bash
# Runs one command inside a throw-away Linux machine with a working /dev/kvm, on a host that has none or one that can not
# run unmodified guests. Changes nothing on the host, needs no privilege; measures nothing on its own.
#
# How: QEMU emulates a whole x86 PC in software (TCG), including AMD's virtualization extension (SVM with nested paging).
# A stock Debian kernel boots in it ("L1"), loads kvm and kvm-amd, and the command runs there, so it may start real KVM
# guests ("L2"). Everything is 10 to 50 times slower than hardware: compare its numbers only with each other.
# Needs Debian's qemu-system-x86 busybox-static cpio e2fsprogs lz4 xz-utils zstd.
#
# usage: lab.sh --kernel DIR [options] -- COMMAND [ARG...]
#        lab.sh --fetch-kernel DIR        download a Debian kernel with apt-get, unpack it in DIR, exit
#
#   --kernel DIR       a linux-image .deb unpacked with dpkg -x  ($LAB_KERNEL)
#   --share SRC:DST    host directory SRC appears at DST, read-only (repeatable; packed once and cached until a name,
#                      size, mode or mtime below SRC changes)
#   --share SRC:DST:rw the same, writable in L1; the writes are thrown away
#   --file SRC:DST     one small host file appears at DST, never cached            (repeatable)
#   --disk FILE        raw image as /dev/vda, vdb, ... before the shares, read-only (repeatable)
#   --env K=V          environment of COMMAND                                      (repeatable)
#   --stdin FILE       COMMAND's standard input (default: empty)
#   --cwd DIR          COMMAND's working directory (default /)
#   --out DIR          what COMMAND leaves below /out in L1 is copied into DIR
#   --module NAME      further kernel modules to load, in this order               (repeatable)
#   --append WORDS     further kernel parameters of L1
#   --mem MIB          memory of L1 (default 3072)         --cpus N    CPUs of L1 (default 1; 2 is no faster)
#   --timeout SEC      for the whole run (default 120)     --icount N  instruction-count clock, 2^N ns each
#   --cache DIR        default ${XDG_CACHE_HOME:-$HOME/.cache}/bunker-lab
#   --busybox FILE     a static busybox (default: the one in PATH)
#   --qemu FILE        default qemu-system-x86_64
#   --time             print seconds spent (prepare, boot, command, total) on stderr
#   --verbose          L1's kernel console on stderr; LAB_MONITOR=SOCKET adds a QEMU monitor
#
# COMMAND's stdout, stderr and exit status become lab.sh's. lab.sh itself exits with
#   124 when the time ran out,  125 when the lab could not be set up or L1 died.
# With --icount 0 time counts instructions (1 ns each; repeats within about 1 % once files are cached, so run the thing
# once before measuring) and the run takes 3 to 4 times longer.
# L1 has /dev/kvm, /proc, /sys, cgroup2, devpts, tmpfs on /tmp /run /dev/shm, loopback, busybox, and the host's glibc,
# libgcc_s and libstdc++; /dev/net/tun with --module tun.
set -eu

die() { echo "lab.sh: $*" >&2; exit 125; }
usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "$0"; exit "${1:-0}"; }

# The directory appears whole or not at all, so an interrupted download is not taken for a kernel later.
fetch_kernel() {
  local new=$1.$$ pkg
  command -v apt-get > /dev/null || die "no apt-get: unpack a Debian linux-image .deb yourself and name it with --kernel"
  pkg=$(apt-cache depends linux-image-cloud-amd64 2> /dev/null | sed -n 's/.*Depends: //p' | head -1)
  [ -n "$pkg" ] || die "apt knows no linux-image-cloud-amd64: run 'apt-get update' first"
  mkdir -p "$new"
  # apt drops to its own user where it can, and that user must be able to write here.
  chmod 777 "$new"
  (cd "$new" && apt-get -q download "$pkg" >&2 && dpkg -x "$pkg"_*.deb . && rm -f "$pkg"_*.deb) || { rm -rf "$new"; die "$pkg can not be downloaded"; }
  chmod 755 "$new"; rm -rf "$1"; mv "$new" "$1"
}

KERNEL=${LAB_KERNEL:-} CACHE=${LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/bunker-lab}
BUSYBOX=${LAB_BUSYBOX:-} QEMU=${LAB_QEMU:-qemu-system-x86_64}
MEM=3072 CPUS=1 TIMEOUT=120 ICOUNT= OUT= STDIN= CWD=/ APPEND= VERBOSE= TIME=
SHARES=() FILES=() DISKS=() ENVS=() MODULES=()
while [ $# -gt 0 ]; do
  case $1 in
    --fetch-kernel)
      [ $# -ge 2 ] || die "--fetch-kernel needs a directory"
      fetch_kernel "$2"; exit 0 ;;
    --kernel) KERNEL=$2; shift ;;   --share) SHARES+=("$2"); shift ;;  --file) FILES+=("$2"); shift ;;
    --disk) DISKS+=("$2"); shift ;; --env) ENVS+=("$2"); shift ;;      --stdin) STDIN=$2; shift ;;
    --cwd) CWD=$2; shift ;;         --out) OUT=$2; shift ;;            --module) MODULES+=("$2"); shift ;;
    --append) APPEND=$2; shift ;;   --mem) MEM=$2; shift ;;            --cpus) CPUS=$2; shift ;;
    --timeout) TIMEOUT=$2; shift ;; --icount) ICOUNT=$2; shift ;;      --cache) CACHE=$2; shift ;;
    --busybox) BUSYBOX=$2; shift ;; --qemu) QEMU=$2; shift ;;          --time) TIME=1 ;;
    --verbose) VERBOSE=1 ;;         -h|--help) usage 0 ;;              --) shift; break ;;
    *) die "unknown option $1 (see --help)" ;;
  esac
  shift
done
[ $# -gt 0 ] || die "no command (see --help)"
[ -n "$KERNEL" ] || die "--kernel DIR is missing (lab.sh --fetch-kernel DIR makes one)"
BUSYBOX=${BUSYBOX:-$(command -v busybox || true)}; [ -x "$BUSYBOX" ] || die "no busybox"
command -v "$QEMU" >/dev/null || die "no $QEMU"
for t in cpio mke2fs timeout od; do PATH=$PATH:/usr/sbin:/sbin command -v $t >/dev/null || die "no $t"; done
PATH=$PATH:/usr/sbin:/sbin
VMLINUZ=$(ls "$KERNEL"/boot/vmlinuz-* 2>/dev/null | head -1); [ -f "$VMLINUZ" ] || die "no boot/vmlinuz-* in $KERNEL"
mkdir -p "$CACHE"; find "$CACHE" -maxdepth 1 -name 'share-*' -mmin +2880 -delete   # images unused for two days
RUN=$(mktemp -d "${TMPDIR:-/tmp}/lab.XXXXXX"); T0=$(date +%s.%N)
QPID='' TICK=''; cleanup() { for p in $TICK $QPID; do kill "$p" 2>/dev/null || :; done; rm -rf "$RUN"; }
trap cleanup EXIT; trap 'exit 130' INT; trap 'exit 143' TERM

stamp() { sha256sum | cut -c1-24; }              # stdin -> short key
put() { mkdir -p "$(dirname "$2")"; cp -L "$1" "$2"; }
publish() { mv -f "$1.$$" "$1"; }                # atomic: parallel runs may build the same thing

# --- the kernel, decompressed here: saves a second of emulated decompression at every boot --------
vm=$CACHE/vmlinux-$(stat -Lc '%s %Y %n' "$VMLINUZ" | stamp)
if [ ! -s "$vm" ]; then
  n=$(od -An -tu1 -j497 -N1 "$VMLINUZ" | tr -d ' '); [ "$n" != 0 ] || n=4
  off=$(od -An -tu4 -j584 -N4 "$VMLINUZ" | tr -d ' '); len=$(od -An -tu4 -j588 -N4 "$VMLINUZ" | tr -d ' ')
  tail -c +$(((n + 1) * 512 + off + 1)) "$VMLINUZ" | head -c "$len" > "$RUN/payload" || :
  case $(od -An -tx1 -N4 "$RUN/payload" | tr -d ' ') in    # the payload ends in its size: exit codes lie
    02214c18) lz4 -dc ;; fd377a58) xz -dc ;; 28b52ffd) zstd -dc ;; 1f8b*) gzip -dc ;; *) die "unknown kernel compression" ;;
  esac < "$RUN/payload" > "$vm.$$" 2>/dev/null || :
  [ "$(od -An -tx1 -N4 "$vm.$$" | tr -d ' ')" = 7f454c46 ] || die "cannot decompress $VMLINUZ"
  publish "$vm"
fi

# --- the base initramfs: busybox, glibc, modules, init --------------------------------------------
# virtio first, then what gives /dev/kvm; "?" marks a module that need not exist (built in elsewhere)
MODS="virtio_pci? virtio_blk? virtio_console? irqbypass? ccp? kvm kvm-amd"
need=" ${MODULES[*]:-} "; case "${SHARES[*]:-}" in *:rw*) need="$need overlay " ;; esac
init='#!/bin/sh
export PATH=/bin:/sbin:/usr/bin HOME=/root
# The initramfs root cannot be pivoted away from, which sandboxes (bwrap, passt, ...) do: move to a tmpfs.
if [ ! -e /lab/moved ]; then
  mkdir /new; mount -t tmpfs -o mode=755 root /new; cp -a /[!n]* /new; touch /new/lab/moved; exec switch_root /new /init
fi
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp; chmod 1777 /tmp; mount -t tmpfs run /run; mount -t cgroup2 cg /sys/fs/cgroup 2>/dev/null
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
for m in $(cat /lab/modules); do insmod /mods/$m.ko || echo "LAB: module $m failed"; done
i=0; while [ ! -c /dev/vport0p5 ] && [ $i -lt 100 ]; do i=$((i + 1)); usleep 20000; done   # ports come up late
ip link set lo up; hostname l1; chmod 666 /dev/kvm 2>/dev/null
while read -r dev dst rw; do
  mkdir -p $dst; mount -t ext4 -o ro,noload $dev $dst || echo "LAB: mount $dst failed"
  [ "$rw" = rw ] && { mkdir -p /tmp/.rw/$dev; mount -t tmpfs rw /tmp/.rw/$dev; mkdir /tmp/.rw/$dev/u /tmp/.rw/$dev/w
    mount -t overlay -o lowerdir=$dst,upperdir=/tmp/.rw/$dev/u,workdir=/tmp/.rw/$dev/w rw $dst; }
done < /lab/shares
# Output goes through pipes: a virtio port can be open only once, and /dev/stdout is reopened by many.
mkfifo /run/o /run/e; cat /run/o > /dev/vport0p1 & o=$!; cat /run/e > /dev/vport0p2 & e=$!
while :; do cat /dev/vport0p5; sleep 1; done > /dev/null 2>&1 &    # the heartbeat, see the other side
mount --make-rshared / 2>/dev/null; read up _ < /proc/uptime
. /lab/run > /run/o 2> /run/e < /lab/stdin; rc=$?
read down _ < /proc/uptime
( sleep 3; kill $o $e ) 2>/dev/null & wait $o $e 2>/dev/null    # stragglers may hold the pipes
[ -d /out ] && tar -C /out -cf /dev/vport0p4 . 2>/dev/null
echo $rc $up $down > /dev/vport0p3; sync
reboot -f'
base_key=$( { stat -Lc '%s %Y %n' "$BUSYBOX" "$VMLINUZ" /lib64/ld-linux-x86-64.so.2; echo "$MODS|$need|$init"; } | stamp)
base=$CACHE/base-$base_key.cpio
if [ ! -s "$base" ]; then
  R=$RUN/root; mkdir -p "$R"/{bin,sbin,etc,dev,proc,sys,tmp,run,root,mods,lab,out,usr/bin,lib64,lib/x86_64-linux-gnu}
  put "$BUSYBOX" "$R/bin/busybox"
  for a in $("$BUSYBOX" --list); do [ "$a" = busybox ] || ln -sf busybox "$R/bin/$a"; done
  ln -s /bin/env "$R/usr/bin/env"
  put /lib64/ld-linux-x86-64.so.2 "$R/lib64/ld-linux-x86-64.so.2"
  for l in libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libresolv.so.2 libnss_files.so.2 \
           libnss_dns.so.2 libutil.so.1 libgcc_s.so.1 libstdc++.so.6 libcap-ng.so.0; do
    f=$(ldconfig -p | awk -v l="$l" '$1==l && /x86-64/ {print $NF; exit}'); [ -z "$f" ] || put "$f" "$R/lib/x86_64-linux-gnu/$l"
  done
  echo 'root:x:0:0:root:/root:/bin/sh
user:x:1000:1000:user:/tmp:/bin/sh' > "$R/etc/passwd"; echo 'root:x:0:
user:x:1000:' > "$R/etc/group"
  echo '127.0.0.1 localhost l1' > "$R/etc/hosts"; echo 'hosts: files dns' > "$R/etc/nsswitch.conf"
  : > "$R/lab/modules"
  module() { # NAME : packs it after everything its "depends=" names; "NAME?" may be absent
    local m=${1%\?} f d
    [ ! -e "$R/mods/$m.ko" ] || return 0
    f=$(find "$KERNEL"/lib/modules "$KERNEL"/usr/lib/modules \( -name "$m.ko*" -o -name "${m//_/-}.ko*" \) 2>/dev/null | head -1)
    if [ -z "$f" ]; then case $1 in *\?) return 0 ;; esac; die "no module $m in $KERNEL"; fi
    case $f in *.xz) xz -dc "$f" ;; *.zst) zstd -qdc "$f" ;; *) cat "$f" ;; esac > "$R/mods/$m.ko"
    for d in $(tr '\0' '\n' < "$R/mods/$m.ko" | sed -n 's/^depends=//p' | tr , ' '); do module "$d?"; done
    echo "$m" >> "$R/lab/modules"
  }
  for m in $MODS $need; do module "$m"; done
  printf '%s\n' "$init" > "$R/init"; chmod 755 "$R/init"
  (cd "$R" && find . | cpio -o -H newc -R 0:0 --quiet) > "$base.$$"; publish "$base"
fi

# --- this run: the command and its small files, one more cpio after the base ----------------------
J=$RUN/job; mkdir -p "$J/lab"; : > "$J/lab/shares"
q() { printf "'%s' " "${1//\'/\'\\\'\'}"; }
{ echo "cd $(q "$CWD")"; for kv in ${ENVS[@]+"${ENVS[@]}"}; do echo "export $(q "$kv")"; done
  echo "($(for a in "$@"; do q "$a"; done))"; } > "$J/lab/run"
if [ -n "$STDIN" ]; then cat "$STDIN" > "$J/lab/stdin"; else : > "$J/lab/stdin"; fi
for f in ${FILES[@]+"${FILES[@]}"}; do put "${f%%:*}" "$J/${f#*:}"; done

drives=() letters=(a b c d e f g h i j k l m n o p q r s t) n=0
drive() { # FILE : next /dev/vdX
  drives+=(-drive "if=none,id=d$n,file=$1,format=raw,readonly=on" -device "virtio-blk-pci,drive=d$n"); n=$((n + 1)); }
for d in ${DISKS[@]+"${DISKS[@]}"}; do drive "$d"; done
for s in ${SHARES[@]+"${SHARES[@]}"}; do
  IFS=: read -r src dst rw <<< "$s"; [ -d "$src" ] || die "$src is not a directory"
  img=$CACHE/share-$(cd "$src" && { pwd; find . -printf '%P %y %m %s %T@ %l\n' | sort; } | stamp).ext4
  if [ ! -s "$img" ]; then
    kib=$(du -sk --apparent-size "$src" | cut -f1) files=$(find "$src" | wc -l)
    truncate -s $((kib * 11 / 10 + files * 5 + 8192))K "$img.$$"
    mke2fs -q -F -t ext4 -O ^has_journal,^metadata_csum -m 0 -N $((files + 64)) -d "$src" "$img.$$" >&2 || die "packing $src"
    publish "$img"
  fi
  touch -c "$img"
  echo "/dev/vd${letters[$n]} $dst ${rw:-ro}" >> "$J/lab/shares"; drive "$img"
done
[ "$n" -le 20 ] || die "too many disks"
(cd "$J" && find . | cpio -o -H newc -R 0:0 --quiet) > "$RUN/job.cpio"
cat "$base" "$RUN/job.cpio" > "$RUN/initrd"

# --- run ------------------------------------------------------------------------------------------
mkfifo "$RUN/o" "$RUN/e"; : > "$RUN/rc"; : > "$RUN/tar"
cat "$RUN/o" & co=$!; cat "$RUN/e" >&2 & ce=$!
# Heartbeat: QEMU's SVM code can lose a pending interrupt (a data race between its threads), after which
# a spinning L2 guest never returns to L1: about one guest boot in 100 hung.  Any later device interrupt
# repairs it, so one is sent twice a second.
mkfifo "$RUN/tick.in" "$RUN/tick.out"; exec 8<> "$RUN/tick.in"
( while sleep 0.5; do printf . >&8; done ) < /dev/null > /dev/null 2>&1 & TICK=$!
port() { echo "-chardev file,id=$1,path=$RUN/$2 -device virtserialport,chardev=$1,name=lab.$1"; }
accel="tcg,thread=multi,tb-size=512"; ic=()
if [ -n "$ICOUNT" ]; then accel="tcg,thread=single,tb-size=512"; ic=(-icount "shift=$ICOUNT,sleep=off"); fi
con=file:$RUN/console; [ -z "$VERBOSE" ] || con=file:/dev/stderr
TB=$(date +%s.%N)
# shellcheck disable=SC2046
timeout -k 5 "$TIMEOUT" "$QEMU" -M q35,usb=off,sata=off,smbus=off,vmport=off -accel "$accel" ${ic[@]+"${ic[@]}"} \
  -cpu max,+svm,+npt,-la57 -smp "$CPUS" -m "$MEM" -nodefaults -no-user-config -display none -no-reboot \
  -kernel "$vm" -initrd "$RUN/initrd" \
  -append "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable ${VERBOSE:-quiet} $APPEND" \
  ${LAB_MONITOR:+-monitor unix:$LAB_MONITOR,server=on,wait=off} \
  -serial "$con" -device virtio-serial-pci $(port out o) $(port err e) $(port rc rc) $(port tar tar) \
  -chardev "pipe,id=tick,path=$RUN/tick" -device virtserialport,chardev=tick,name=lab.tick \
  ${drives[@]+"${drives[@]}"} > "$RUN/qemu.log" 2>&1 < /dev/null & QPID=$!
st=0; wait "$QPID" || st=$?; QPID=
if [ $st -ge 124 ] || ! [ -s "$RUN/rc" ]; then sleep 0.2; kill "$co" "$ce" 2>/dev/null || :; else wait "$co" "$ce" || :; fi
if [ $st = 124 ] || [ $st = 137 ]; then tail -n 15 "$RUN/console" >&2 2>/dev/null || :; echo "lab.sh: timed out after $TIMEOUT s" >&2; exit 124; fi
if ! read -r rc up down < "$RUN/rc"; then
  cat "$RUN/qemu.log" >&2; tail -n 25 "$RUN/console" >&2 2>/dev/null; die "L1 ended without a result (qemu exit $st)"
fi
if [ -n "$OUT" ]; then mkdir -p "$OUT"; [ ! -s "$RUN/tar" ] || tar -xf "$RUN/tar" -C "$OUT"; fi
[ -z "$TIME" ] || awk -v a="$T0" -v b="$TB" -v c="$(date +%s.%N)" -v u="$up" -v d="$down" 'BEGIN {
  printf "lab.sh: prepare %.2f  L1 boot %.2f  command %.2f (L1 clock)  total %.2f s\n", b - a, u, d - u, c - a }' >&2
exit "$rc"
