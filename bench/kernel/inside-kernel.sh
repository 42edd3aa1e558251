#!/bin/sh
# Runs inside the lab: boots the init disk with each list of kernel words in $WORDS ("name: words" lines), $RUNS times in turn.
# Leaves /out/boot.json and the consoles /out/console-*.txt to the host.
set -u
mkdir -p /out
export HOME=/root BUNKER_HOME=/tmp/bunker
krun=$(ls /kit/node_modules/libkrun-linux-x64/runtime/libkrun.so.*) krunfw=$(ls /kit/node_modules/libkrun-linux-x64/runtime/libkrunfw.so.*)
# The program makes its init disk when it boots for the first time.
bunker load /kit/bench/image.tar -t localhost/bench/hello:1 > /dev/null || exit 90
bunker run --engine krun localhost/bench/hello:1 /bin/hello || exit 91
disk=$(ls /tmp/bunker/cache/boot/init*.erofs)
printf '%s\n' "$WORDS" | bun /kit/bench/boot.js "$krun" "$krunfw" "$disk" "$RUNS" /out
