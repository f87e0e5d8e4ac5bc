# shellcheck shell=bash
# host.sh: one host seen from outside: its files, its processes, its cgroups. Part of devhosts.sh; what runs inside as PID 1
# is host-init.sh.
# shellcheck disable=SC2015  # "a && b || die" means just that

# ---------------------------------------------------------------- is it running
# $ROOT/hN/pid names the `unshare` that is the parent of the host's PID 1: it is known before the host exists, so that a host
# whose `up` was killed half-way is found too. Its start time and the boot make the pid ours and nobody else's.
identity() { # pid
  local s
  s=$(cat "/proc/$1/stat" 2>/dev/null) && [ -n "$s" ] || return 1
  s=${s##*) }; [ "${s%% *}" != Z ] || return 1       # a zombie that nobody waits for is not alive
  # shellcheck disable=SC2086
  set -- $s; echo "${20}-$(cat /proc/sys/kernel/random/boot_id)"
}
host_parent() { # host
  local pid id
  read -r pid id 2>/dev/null < "$ROOT/$1/pid" && [ "$id" = "$(identity "$pid")" ] && echo "$pid"
}
host_gone() { ! host_parent "$1"; }
host_pid1() { # host
  local parent pid space
  parent=$(host_parent "$1") || return 1
  read -r pid _ 2>/dev/null < "/proc/$parent/task/$parent/children" || :     # (the file has no newline)
  # until `unshare` runs, the child is one of the launching shell, in our namespace or gone already
  [ -n "${pid:-}" ] && space=$(readlink "/proc/$pid/ns/pid") && [ -n "$space" ] && [ "$space" != "$(readlink /proc/self/ns/pid)" ] && echo "$pid"
}
inside() { # host command...
  local pid; pid=$(host_pid1 "$1") || return 1; shift
  nsenter -t "$pid" -m -u -i -n -p -C -w -- "$@"
}
port_open() { timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' - "$1" "$2" 2>/dev/null; }
host_healthy() { "$(kind_of "$1")_healthy" "$1"; }      # everything a test could ask it for is there
host_healthy_or_dead() { host_healthy "$1" || host_gone "$1"; }

# ---------------------------------------------------------------- files
# /etc is copied whole: a bind mount on a single file vanishes from the host as soon as the machine replaces that file by
# rename, which is what passwd and package scripts do to /etc/shadow.
host_prepare() { # host: written once, then the host's own; a host started again keeps its machines, keys and UUID
  local h=$1 R=$ROOT/$1 kind ip o e; ip=$(ip_of "$1"); kind=$(kind_of "$1")
  if [ ! -e "$R/prepared" ]; then
    rm -rf "$R/etc" "$R/var" && mkdir -p "$R/etc" && cp -a /etc/. "$R/etc/" || return 1
    e=$R/etc
    echo "$h" > "$e/hostname"; rm -f "$e/hosts"
    { echo "127.0.0.1 localhost"; echo "$NET.1 controller"; for o in $(all_names); do echo "$(ip_of "$o") $o"; done; } > "$e/hosts"
    "${kind}_prepare" "$h" "$ip" "$e" && : > "$R/prepared" || return 1
  fi
  "${kind}_refresh" "$h"
}

# ---------------------------------------------------------------- start and stop
host_start() { # host
  local h=$1 R=$ROOT/$1 pid1
  rm -rf "$R/run" && mkdir -p "$R/run"
  (
    me=$BASHPID        # inside $(...) BASHPID is another process, perhaps started a tick later
    echo "$me $(identity "$me")" > "$R/pid"
    cgroup_enter "$BRIDGE/$h"
    exec setsid unshare -m --propagation slave -u -i -n -p -C --fork --kill-child --mount-proc \
      bash "$HERE/host-init.sh" "$h" "$(own_ip "$h")" "$NET.1" "$(mac_of "$(own_ip "$h")")" "$R" "$(kind_of "$h")"
  ) </dev/null >"$R/log" 2>&1 &
  waitfor 10 host_pid1 "$h" && pid1=$(host_pid1 "$h") || { say "$h: no process"; return 1; }
  # the host waits for its eth0
  ip link add "$BRIDGE-$h" type veth peer name eth0 netns "$pid1" && ip link set "$BRIDGE-$h" master "$BRIDGE" up
}
host_stop() { # host: killing PID 1 ends everything in its namespaces
  local h=$1 pid parent
  if parent=$(host_parent "$h"); then
    pid=$(host_pid1 "$h") || pid=$parent
    kill -TERM "$pid" 2>/dev/null
    # `unshare` dies with its child, and the child is killed when `unshare` dies (--kill-child)
    waitfor 5 host_gone "$h" || { kill -KILL "$parent" 2>/dev/null; waitfor 5 host_gone "$h" || say "$h: $parent does not die"; }
  fi
  # A pool on a loop device is unmounted a moment after the last process of its namespace is gone.
  [ ! -d "$ROOT/$h/lxd" ] || waitfor 10 loops_gone "$h" || say "$h: its loop devices are still in use"
  ip link del "$BRIDGE-$h" 2>/dev/null
  cgroup_remove "$BRIDGE/$h"
  rm -f "$ROOT/$h/pid"
}

loops_gone() { local f; for f in "$ROOT/$1"/lxd/disks/*.img; do [ -z "$(losetup -j "$f")" ] || return 1; done; }

# ---------------------------------------------------------------- cgroups: a subtree for every host, in every hierarchy
cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $3, $2 }' /proc/self/mounts; }
cgroup_enter() { # lab/host: the calling (sub)shell
  local type dir d k c
  while read -r type dir; do
    mkdir -p "$dir/$1" 2>/dev/null || continue
    for d in "$dir/${1%/*}" "$dir/$1"; do
      # a new cpuset is empty, and nothing may enter it then
      for k in cpuset.cpus cpuset.mems; do
        [ "$type" = cgroup ] && [ -e "$d/$k" ] && [ -z "$(cat "$d/$k")" ] && cat "$d/../$k" > "$d/$k"
      done
      # in the unified hierarchy the parent hands its controllers down
      if [ "$type" = cgroup2 ]; then
        for c in $(cat "$d/../cgroup.controllers"); do echo "+$c" > "$d/../cgroup.subtree_control"; done 2>/dev/null
      fi
    done
    echo "$BASHPID" > "$dir/$1/cgroup.procs"
  done < <(cgroup_mounts)
}
cgroup_gone() { find "$1" -depth -type d -exec rmdir {} \; ; [ ! -d "$1" ]; }
cgroup_remove() { # lab/host
  local dir
  while read -r _ dir; do
    # the last processes may take a moment to leave
    [ ! -d "$dir/$1" ] || waitfor 5 cgroup_gone "$dir/$1" || say "cannot remove $dir/$1"
  done < <(cgroup_mounts)
}
