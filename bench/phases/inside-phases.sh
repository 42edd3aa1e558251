#!/bin/sh
# Runs inside the lab: one run with all its steps named, after one to warm up; then the guest kernel's own messages.
set -u
mkdir -p /out
export HOME=/root BUNKER_HOME=/tmp/bunker BUNKER_ENGINE=krun
image=localhost/bench/hello:1
bunker load /kit/bench/image.tar -t "$image" > /dev/null || exit 90
bunker run "$image" /bin/hello || exit 91
export BUNKER_AGENT=/kit/bench/agent
bun /kit/bench/run.js /kit/bin/bunker "$image" /bin/hello > /dev/null || exit 92
bun /kit/bench/run.js /kit/bin/bunker "$image" /bin/hello > /out/phases.txt || exit 93
unset BUNKER_AGENT
bunker run "$image" /bin/busybox dmesg > /out/dmesg.txt
exit 0
