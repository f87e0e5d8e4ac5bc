#!/bin/bash
# devhosts.sh up [HOST...]|down|status|check|env|exec HOST COMMAND...
#
# Real libvirt/QEMU hosts and LXD servers for development and tests, on one Debian 12 machine, as root, without systemd and
# without KVM. A host is a set of namespaces (mount, net, uts, ipc, pid, cgroup) with its own /run, /etc, /var/lib/libvirt and
# /dev, its own daemons, and an address on a bridge that this machine is on too. Nothing is shared with, or visible to, a
# libvirtd or lxd that the machine itself runs. See README.md.
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
# shellcheck source=tiny.sh
. "$HERE/tiny.sh"
# shellcheck source=lxdvm-image.sh
. "$HERE/lxdvm-image.sh"
# shellcheck source=keys.sh
. "$HERE/keys.sh"
# shellcheck source=host.sh
. "$HERE/host.sh"
# shellcheck source=libvirt.sh
. "$HERE/libvirt.sh"
# shellcheck source=lxd.sh
. "$HERE/lxd.sh"
# shellcheck source=lxdvm.sh
. "$HERE/lxdvm.sh"
# shellcheck source=check.sh
. "$HERE/check.sh"

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
  # with "-lxdc1" after it, it is the name of an interface: 15 characters
  [[ $BRIDGE =~ ^[a-z][a-z0-9]{0,8}$ ]] || die "DEVHOSTS_BRIDGE: a letter and up to 8 letters or digits: $BRIDGE"
  [[ $COUNT =~ ^[1-9]$ ]] || die "DEVHOSTS_COUNT is 1 to 9: $COUNT"
}

# ---------------------------------------------------------------- names
all_names() { printf '%s\n' h{1..9} lxd{1..9} lxdc1 lxdc2 lxdvm; }
kind_of() { # host
  case $1 in
    h[1-9]) echo libvirt ;;
    lxd[1-9] | lxdc[12]) echo lxd ;;
    lxdvm) echo lxdvm ;;
    *) return 1 ;;
  esac
}
hosts() { # [kind]: those of this lab, up or not: a host that was ever asked for has a directory
  local h
  for h in $(all_names); do [ -d "$ROOT/$h" ] && [ "${1:-$(kind_of "$h")}" = "$(kind_of "$h")" ] && echo "$h"; done
}
asked() { # [host...]: what `up` is to bring up, each once
  local h names=" $* "
  # Nobody named: the libvirt hosts, and whatever else the lab has.
  [ $# -gt 0 ] || for h in $(seq -f h%.0f "$COUNT") $(hosts); do names+="$h "; done
  [[ $names != *" lxdc"[12]" "* ]] || names+="lxdc1 lxdc2 "        # a cluster is up when all its members are
  for h in $(all_names); do [[ $names != *" $h "* ]] || echo "$h"; done
}
patience() { case $1 in lxdvm) echo 300 ;; *) echo 60 ;; esac }
ip_number() { # host: 11 for h1, 31 for lxd1, 41 for lxdc1
  case $1 in h*) echo $((10 + ${1#h})) ;; lxdc*) echo $((40 + ${1#lxdc})) ;; lxdvm) echo 51 ;; *) echo $((30 + ${1#lxd})) ;; esac
}
ip_of() { echo "$NET.$(ip_number "$1")"; }                                          # where it is reached
own_ip() { case $1 in lxdvm) echo "$NET.52" ;; *) ip_of "$1" ;; esac }      # of its namespaces

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
up() { # [host...]
  local h wanted kinds
  [ "$(id -u)" = 0 ] || die "must be root"
  for h in "$@"; do kind_of "$h" >/dev/null || die "there is no host $h: h1 to h9, lxd1 to lxd9, lxdc1, lxdc2, lxdvm"; done
  [ -e "$ROOT/settings" ] || [ -z "$(ls -A "$ROOT" 2>/dev/null)" ] || die "$ROOT has files in it and is not a lab"
  lock "$ROOT.lock"
  wanted=$(asked "$@"); kinds=$(for h in $wanted; do kind_of "$h"; done | sort -u)
  # shellcheck disable=SC2086
  install_all $kinds || die "cannot install the packages"
  # A lab that could not have its segment was never there: `down` must not look for its traces among those of another.
  (segment_up) || { [ -e "$ROOT/settings" ] || rm -f "$ROOT.lock"; exit 1; }
  mkdir -p "$ROOT" && echo "$NET $BRIDGE $COUNT" > "$ROOT/settings" || die "cannot write to $ROOT"
  lab_keys
  for h in $wanted; do
    mkdir -p "$ROOT/$h"
    host_healthy "$h" && continue
    # Whatever is left of it goes first: a host whose sshd died is not repaired, it is started again.
    { host_stop "$h"; host_prepare "$h" && host_start "$h"; } &
  done 9>&-
  wait
  for h in $wanted; do
    waitfor "$(patience "$h")" host_healthy_or_dead "$h"
    host_healthy "$h" || say "$h did not come up: $(tail -n 5 "$ROOT/$h/log" 2>/dev/null)" >&2
  done
  known_hosts
  # shellcheck disable=SC2086
  status $wanted
}

down() {
  local h d
  [ "$(id -u)" = 0 ] || die "must be root"
  [ -e "$ROOT/settings" ] || bridge_is_ours || { say "nothing to stop in $ROOT"; return 0; }
  lock "$ROOT.lock"
  for h in $(hosts); do host_stop "$h" & done
  wait
  while read -r _ d; do rmdir "$d/$BRIDGE" 2>/dev/null; done < <(cgroup_mounts)
  segment_down
  rm -rf --one-file-system "$ROOT" && rm -f "$ROOT.lock" && say "down"
}

status() { # [host...]
  local h rc=0
  # shellcheck disable=SC2046
  [ $# -gt 0 ] || set -- $(hosts)
  [ $# -gt 0 ] || { say "no lab in $ROOT"; return 1; }
  for h in "$@"; do
    if host_healthy "$h"; then
      echo "$h up: pid $(host_pid1 "$h"), $(ip_of "$h"), $("$(kind_of "$h")_status" "$h")"
    else
      echo "$h down"; rc=1
    fi
  done
  return $rc
}

env_() { # of the hosts that run: tests skip what they need of others
  local h
  [ -s "$ROOT/ssh/password" ] || die "no lab in $ROOT"
  p() { printf '%s=%q\n' "$1" "$2"; }
  p DEVHOSTS_ROOT "$ROOT"; p DEVHOSTS_NET "$NET"; p DEVHOSTS_BRIDGE "$BRIDGE"; p DEVHOSTS_COUNT "$COUNT"
  p DEVHOSTS_SSH_KEY "$ROOT/ssh/id_ed25519"; p DEVHOSTS_SSH_PASSWORD "$(cat "$ROOT/ssh/password")"
  p DEVHOSTS_KNOWN_HOSTS "$ROOT/ssh/known_hosts"
  p DEVHOSTS_TLS_CA "$ROOT/pki/cacert.pem"; p DEVHOSTS_TLS_CERT "$ROOT/pki/clientcert.pem"; p DEVHOSTS_TLS_KEY "$ROOT/pki/clientkey.pem"
  for h in $(hosts); do
    host_pid1 "$h" >/dev/null && "$(kind_of "$h")_env" "$h" "DEVHOSTS_${h^^}"
  done
  return 0
}

exec_() { # host command...
  local pid
  [ $# -ge 2 ] || die "exec HOST COMMAND..."
  pid=$(host_pid1 "$1") || die "$1 is not up"
  [ "$1" != lxdvm ] || { shift; exec "$ROOT/lxdvm/ssh" -- "$(printf '%q ' "$@")"; }
  [ "$(kind_of "$1")" != lxd ] || export LXD_DIR="$ROOT/$1/lxd" LXD_CONF="$ROOT/$1/lxc"
  shift
  exec nsenter -t "$pid" -m -u -i -n -p -C -w -- "$@"
}

verb=${1:-}; [ $# -gt 0 ] && shift
case $verb in
  up | down | status | check | env | exec) settings ;;
  *) cat >&2 <<X; exit 2 ;;
usage: ${0##*/} up [HOST...]|down|status|check|env|exec HOST COMMAND...
hosts: h1 to h9      libvirt; without names, up brings up h1 to h3 and what the lab has already
       lxd1 to lxd9  LXD, containers only
       lxdc1 lxdc2   LXD, a cluster of two
       lxdvm         LXD with virtual machines, in a guest of its own
X
esac
case $verb in
  exec) exec_ "$@" ;;
  env) env_ ;;
  *) exec </dev/null; $verb "$@" ;;      # nothing here asks questions; apt and ssh must not eat the caller's stdin
esac
