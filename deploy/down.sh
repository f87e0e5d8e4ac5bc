#!/usr/bin/env bash
# What `make down` does: ends the vmhost and the development hosts that `make up`
# and devhosts.sh started, and removes their state. Nothing is left running.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/dev.sh"

if alive; then
    pid=$(cat "$pidfile")
    kill "$pid"
    for _ in $(seq 150); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    [ ! -d "/proc/$pid" ] || kill -KILL "$pid"
    echo "vmhost ended"
fi
"$devhosts" down
[ ! -x "$root/bin/vmhostctl" ] || "$root/bin/vmhostctl" context delete standalone 2>/dev/null || true
# The hosts' disks are gone with them, so a state that remembers machines on
# them would be of no use.
rm -rf --one-file-system "$state"
echo "down"
