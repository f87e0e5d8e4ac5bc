#!/bin/bash
# devhosts.sh up|down|status|check|env|exec HOST COMMAND...
#
# Real libvirt/QEMU hosts for development and tests, on one Debian 12 machine, as root, without systemd and without KVM.
# A host is a set of namespaces (mount, net, uts, ipc, pid, cgroup) with its own /run, /etc, /var/lib/libvirt and /dev, its own
# libvirtd, virtlogd and sshd, and an address on a bridge that this machine is on too. Nothing is shared with, or visible to,
# a libvirtd that the machine itself runs. See README.md.
# shellcheck disable=SC2015,SC2317  # "a && b || die" means just that; functions are called through waitfor and verdict
set -u
# Called with closed descriptors, the next file we open would become stdin, and a child would read it.
[ -e /proc/self/fd/0 ] || exec </dev/null
[ -e /proc/self/fd/1 ] || exec >/dev/null
[ -e /proc/self/fd/2 ] || exec 2>/dev/null
umask 022
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
ROOT=${DEVHOSTS_ROOT:-/var/lib/vmhost-devhosts}
CACHE=${DEVHOSTS_CACHE:-/var/cache/vmhost-devhosts}

say() { echo "devhosts: $*"; }
die() { echo "devhosts: $*" >&2; exit 1; }
waitfor() { # seconds command...
  local end=$((SECONDS + $1 + 1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

# shellcheck source=packages.sh
. "$HERE/packages.sh"
# shellcheck source=guest.sh
. "$HERE/guest.sh"
# shellcheck source=keys.sh
. "$HERE/keys.sh"
# shellcheck source=host.sh
. "$HERE/host.sh"

# A lab is found again by its root alone: what `up` was given is kept there, so that `down` never misses a bridge because
# somebody forgot a variable.
settings() {
  local saved_net='' saved_bridge='' saved_count=''
  if [ -s "$ROOT/settings" ]; then read -r saved_net saved_bridge saved_count < "$ROOT/settings"; fi
  NET=${DEVHOSTS_NET:-${saved_net:-10.99.0}}
  BRIDGE=${DEVHOSTS_BRIDGE:-${saved_bridge:-vmhdev0}}
  COUNT=${DEVHOSTS_COUNT:-${saved_count:-3}}
  [ "${saved_net:-$NET} ${saved_bridge:-$BRIDGE}" = "$NET $BRIDGE" ] ||
    die "the lab in $ROOT has $saved_net on $saved_bridge, not $NET on $BRIDGE: take it down first"
  case $ROOT in /*/*) ;; *) die "DEVHOSTS_ROOT must be an absolute path, two levels deep at least: $ROOT" ;; esac
  case $ROOT$CACHE in *[!A-Za-z0-9/._-]*) die "DEVHOSTS_ROOT and DEVHOSTS_CACHE: only letters, digits and / . _ -" ;; esac
  [ ${#ROOT} -le 70 ] || die "DEVHOSTS_ROOT is too long: paths of unix sockets end at 107 bytes"
  [[ $NET =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "DEVHOSTS_NET is the first three numbers of a /24: $NET"
  [[ $BRIDGE =~ ^[a-z][a-z0-9]{0,11}$ ]] || die "DEVHOSTS_BRIDGE: a letter and up to 11 letters or digits: $BRIDGE"
  [[ $COUNT =~ ^[1-9]$ ]] || die "DEVHOSTS_COUNT is 1 to 9: $COUNT"
}
hosts() { local i; for ((i = 1; i <= COUNT; i++)); do echo "h$i"; done; }
ip_of() { echo "$NET.$((10 + ${1#h}))"; }
socket_of() { echo "$ROOT/$1/run/libvirt/libvirt-sock"; }
virsh_on() { # host command...: never for ever, a stopped libvirtd accepts connections and does not answer
  local h=$1; shift
  timeout 20 virsh -q -c "qemu+unix:///system?socket=$(socket_of "$h")" "$@"
}

# `down` removes the lock file, so whoever waited for it may hold the lock of a file that is no longer there: look again.
lock() { # file
  while :; do
    mkdir -p "${1%/*}"; exec 9>"$1"
    flock -w 600 9 || die "somebody else holds $1"
    [ "$1" -ef /proc/self/fd/9 ] && return 0
  done
}

# ---------------------------------------------------------------- the shared segment
# The owner is written on the bridge itself (ifalias): neither a crash nor a reboot can make the two disagree.
bridge_is_ours() { [ "$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null)" = "devhosts $ROOT" ]; }
# Frames between two ports of one bridge pass the machine's FORWARD chain when bridge-nf-call-iptables is on, and dockerd sets
# that chain to DROP.
bridge_rule=(FORWARD -j ACCEPT -m comment --comment devhosts)
mac_of() { local n; IFS=. read -ra n <<<"$1"; printf '02:d0:%02x:%02x:%02x:%02x' "${n[@]}"; }
segment_up() {
  if [ -e "/sys/class/net/$BRIDGE" ]; then
    bridge_is_ours || die "there is an interface $BRIDGE that this lab did not make: set DEVHOSTS_BRIDGE"
  else
    [ -z "$(ip -4 -o addr show to "$NET.0/24")" ] || die "this machine already has an address in $NET.0/24: set DEVHOSTS_NET"
    # With a MAC of its own the bridge does not take the lowest of its ports', which changes as hosts come and go.
    ip link add name "$BRIDGE" address "$(mac_of "$NET.1")" type bridge && ip link set "$BRIDGE" alias "devhosts $ROOT" ||
      die "cannot make the bridge $BRIDGE"
  fi
  ip link set "$BRIDGE" up && ip addr replace "$NET.1/24" dev "$BRIDGE" || die "cannot give $BRIDGE its address"
  iptables -w -C "${bridge_rule[@]}" -i "$BRIDGE" -o "$BRIDGE" 2>/dev/null ||
    iptables -w -I "${bridge_rule[@]}" -i "$BRIDGE" -o "$BRIDGE" || die "cannot insert the iptables rule"
}
segment_down() {
  bridge_is_ours || return 0
  while iptables -w -D "${bridge_rule[@]}" -i "$BRIDGE" -o "$BRIDGE" 2>/dev/null; do :; done
  ip link del "$BRIDGE"
}

# ---------------------------------------------------------------- verbs
up() {
  local h
  [ "$(id -u)" = 0 ] || die "must be root"
  [ -e "$ROOT/settings" ] || [ -z "$(ls -A "$ROOT" 2>/dev/null)" ] || die "$ROOT has files in it and is not a lab"
  lock "$ROOT.lock"
  install_all || die "cannot install the packages"
  # A lab that could not have its segment was never there: `down` must not look for its traces among those of another.
  (segment_up) || { [ -e "$ROOT/settings" ] || rm -f "$ROOT.lock"; exit 1; }
  mkdir -p "$ROOT" && echo "$NET $BRIDGE $COUNT" > "$ROOT/settings" || die "cannot write to $ROOT"
  lab_keys
  for h in $(hosts); do
    host_healthy "$h" && continue
    # Whatever is left of it goes first: a host whose sshd died is not repaired, it is started again.
    { host_stop "$h"; host_prepare "$h" && host_start "$h"; } &
  done 9>&-
  wait
  for h in $(hosts); do
    waitfor 60 host_healthy_or_dead "$h"
    host_healthy "$h" || die "$h did not come up: $(tail -n 5 "$ROOT/$h/log" 2>/dev/null)"
  done
  known_hosts
  status
}

down() {
  local d
  [ "$(id -u)" = 0 ] || die "must be root"
  [ -e "$ROOT/settings" ] || bridge_is_ours || { say "nothing to stop in $ROOT"; return 0; }
  lock "$ROOT.lock"
  for d in "$ROOT"/h[1-9]; do [ -d "$d" ] && host_stop "${d##*/}" & done
  wait
  while read -r _ d; do rmdir "$d/$BRIDGE" 2>/dev/null; done < <(cgroup_mounts)
  segment_down
  rm -rf --one-file-system "$ROOT" && rm -f "$ROOT.lock" && say "down"
}

status() {
  local h rc=0
  for h in $(hosts); do
    if host_healthy "$h"; then
      echo "$h up: pid $(host_pid1 "$h"), $(ip_of "$h"), $(socket_of "$h"), $(virsh_on "$h" list --all --name | grep -c .) domains"
    else
      echo "$h down"; rc=1
    fi
  done
  return $rc
}

env_() {
  local h n
  [ -s "$ROOT/ssh/password" ] || die "no lab in $ROOT"
  p() { printf '%s=%q\n' "$1" "$2"; }
  p DEVHOSTS_ROOT "$ROOT"; p DEVHOSTS_NET "$NET"; p DEVHOSTS_BRIDGE "$BRIDGE"; p DEVHOSTS_COUNT "$COUNT"
  p DEVHOSTS_SSH_KEY "$ROOT/ssh/id_ed25519"; p DEVHOSTS_SSH_PASSWORD "$(cat "$ROOT/ssh/password")"
  p DEVHOSTS_KNOWN_HOSTS "$ROOT/ssh/known_hosts"
  p DEVHOSTS_TLS_CA "$ROOT/pki/cacert.pem"; p DEVHOSTS_TLS_CERT "$ROOT/pki/clientcert.pem"; p DEVHOSTS_TLS_KEY "$ROOT/pki/clientkey.pem"
  for h in $(hosts); do
    n=DEVHOSTS_H${h#h}
    p "${n}_SOCKET" "$(socket_of "$h")"; p "${n}_IP" "$(ip_of "$h")"
    p "${n}_SSH" "qemu+ssh://root@$(ip_of "$h")/system"; p "${n}_TLS" "qemu+tls://$(ip_of "$h")/system"
  done
}

exec_() { # host command...
  local pid
  [ $# -ge 2 ] || die "exec HOST COMMAND..."
  pid=$(host_pid1 "$1") || die "$1 is not up"
  shift
  exec nsenter -t "$pid" -m -u -i -n -p -C -w -- "$@"
}

# ---------------------------------------------------------------- self-test
check_domain() { cat <<X
<domain type='qemu'><name>devhosts-check</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
 <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/><bios useserial='yes'/></os>
 <features><acpi/><apic/></features>
 <devices>
  <interface type='network'><source network='netboot'/><model type='virtio'/></interface>
  <serial type='pty'><log file='/var/log/libvirt/qemu/devhosts-check-serial.log' append='off'/></serial>
 </devices></domain>
X
}
check() {
  local h rc=0 t=${EPOCHREALTIME/./} log=$ROOT/h1/var/log/libvirt/qemu/devhosts-check-serial.log ip=''
  try() { # what command...
    local what=$1 now; shift
    if "$@"; then now=${EPOCHREALTIME/./}; echo "ok   $what ($(((now - t) / 1000)) ms)"; else echo "FAIL $what"; rc=1; fi
    t=${EPOCHREALTIME/./}
    return $rc
  }
  named() { [ "$(timeout 20 virsh -q -c "$2" hostname)" = "$1" ]; }
  ready() { grep -aq 'GUEST READY' "$log"; }
  gone() { ! virsh_on h1 domstate devhosts-check; }
  # shellcheck disable=SC2016
  http() { inside h1 timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/80" && printf "GET / HTTP/1.0\r\n\r\n" >&3 && grep "^{.*cpus.*memory_kib.*dmi_uuid.*macs.*disks" <&3' - "$1"; }
  status >/dev/null || { status; return 1; }
  for h in $(hosts); do
    try "$h by ssh" named "$h" "qemu+ssh://root@$(ip_of "$h")/system?command=$ROOT/ssh/ssh"
    try "$h by TLS" named "$h" "qemu+tls://$(ip_of "$h")/system?pkipath=$ROOT/pki"
  done
  virsh_on h1 destroy devhosts-check >/dev/null 2>&1
  rm -f "$log"; check_domain > "$ROOT/check.xml"
  try "h1 starts a VM" virsh_on h1 create "$ROOT/check.xml" &&
    try "it boots from the network" waitfor 90 ready &&
    ip=$(sed -n 's/.*GUEST IP [^ ]* \([0-9.]*\).*/\1/p' "$log" | head -n 1) &&
    try "it answers HTTP at ${ip:-no address}" http "$ip" &&
    try "it is asked to power off" virsh_on h1 shutdown devhosts-check --mode acpi &&
    try "it powers off on ACPI" waitfor 20 gone
  virsh_on h1 destroy devhosts-check >/dev/null 2>&1
  rm -f "$log" "$ROOT/check.xml"
  return $rc
}

verb=${1:-}; [ $# -gt 0 ] && shift
case $verb in
  up | down | status | check | env | exec) settings ;;
  *) echo "usage: ${0##*/} up|down|status|check|env|exec HOST COMMAND..." >&2; exit 2 ;;
esac
case $verb in
  exec) exec_ "$@" ;;
  env) env_ ;;
  *) exec </dev/null; $verb ;;      # nothing here asks questions; apt and ssh must not eat the caller's stdin
esac
