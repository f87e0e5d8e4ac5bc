#!/usr/bin/env bash
# What `make up` does after building: real libvirt hosts, a standalone vmhost
# (region, rack and gateway in one process), and a machine that boots from the
# network. Again and again without harm. For LXD servers beside the libvirt hosts:
# deploy/devhosts/devhosts.sh up lxd1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/dev.sh"

if [ "$(id -u)" != 0 ]; then
    echo "up: the development hosts are made of namespaces and need root" >&2
    exit 1
fi
PATH=$root/bin:$PATH
mkdir -p "$state"

say "1/4 libvirt hosts"
"$devhosts" up
eval "$("$devhosts" env)"

say "2/4 vmhost: region, rack and gateway in one process"
if alive; then
    echo "running already, pid $(cat "$pidfile")"
else
    # setsid and </dev/null: it goes on when this terminal is closed.
    setsid "$root/bin/vmhost" --data-dir "$state/data" \
        --local-sockets "h1=$DEVHOSTS_H1_SOCKET,h2=$DEVHOSTS_H2_SOCKET,h3=$DEVHOSTS_H3_SOCKET" \
        </dev/null >>"$log" 2>&1 &
    echo $! >"$pidfile"
fi
ready() { vmhostctl zone list -o name >/dev/null 2>&1; }
for _ in $(seq 300); do
    ready && break
    alive || { echo "up: vmhost ended; the end of $log:" >&2; tail -n 20 "$log" >&2; exit 1; }
    sleep 0.1
done
ready || { echo "up: vmhost does not answer after 30 s, see $log:" >&2; vmhostctl zone list >&2; exit 1; }
echo "API https://127.0.0.1:7480 and grpc 127.0.0.1:7443, log $log"

say "3/4 three VM hosts: by socket, by SSH and by TLS"
has() { vmhostctl vm-host get "$1" -o name >/dev/null 2>&1; }
has h1 || vmhostctl vm-host add h1 qemu+unix://h1/system
has h2 || vmhostctl vm-host add h2 "$DEVHOSTS_H2_SSH" --ssh-key "$DEVHOSTS_SSH_KEY" \
    --host-key "$(awk -v ip="$DEVHOSTS_H2_IP" '$1 == ip { print $2, $3; exit }' "$DEVHOSTS_KNOWN_HOSTS")"
has h3 || vmhostctl vm-host add h3 "$DEVHOSTS_H3_TLS" \
    --tls-cert "$DEVHOSTS_TLS_CERT" --tls-key "$DEVHOSTS_TLS_KEY" --tls-ca "$DEVHOSTS_TLS_CA"
vmhostctl vm-host list

say "4/4 a machine that boots from the network"
vmhostctl machine get demo -o name >/dev/null 2>&1 ||
    vmhostctl machine compose demo --cores 1 --memory 256MiB --disk 1GB --nic network=netboot --start -o name
# An address can be that of its firmware, which takes one to netboot; the guest
# says itself when it is up.
for _ in $(seq 120); do
    vmhostctl machine console-log demo 2>/dev/null | grep 'GUEST READY' >/dev/null &&
        vmhostctl machine get demo | grep -q '^Addresses *[0-9]' && break
    sleep 0.5
done
vmhostctl machine get demo
echo
vmhostctl machine list
cat <<EOT

vmhostctl is in $root/bin; it has a context for this vmhost. Try:
  export PATH=$root/bin:\$PATH
  vmhostctl machine compose web1 --cores 2 --memory 512MiB --disk 2GB --dry-run
  vmhostctl event watch
  deploy/devhosts/devhosts.sh up lxd1 && deploy/devhosts/devhosts.sh env | grep LXD1    # an LXD server to add
  make down
EOT
