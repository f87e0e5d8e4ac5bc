#!/bin/bash
# host-init.sh NAME ADDRESS GATEWAY MAC DIR KIND: PID 1 of a host, already in its namespaces. Gives it its own files and devices,
# starts its services, waits. Whatever fails ends the host: `devhosts.sh up` shows the log.
set -eu
name=$1 address=$2 gateway=$3 mac=$4 dir=$5 kind=$6
here=$(dirname "${BASH_SOURCE[0]}")
trap 'exit 0' TERM        # the kernel then kills all that is left in here
cd /
hostname "$name"

# sysfs shows the network devices of the namespace it is mounted in, cgroups the subtree of the namespace as their root.
# (`ip netns exec` would do the first, and lose the second: libvirt then runs without cgroups.)
mounts=$(awk '$3 == "cgroup" || $3 == "cgroup2" { print $3, $2, $4 }' /proc/self/mounts)
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
if grep -q '^cgroup ' <<<"$mounts"; then
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  while read -r type path opts; do
    mkdir -p "$path"
    # of the mount options only the names of the controllers
    opts=$(tr ',' '\n' <<<"$opts" | grep -vE '^(rw|ro|nosuid|nodev|noexec|relatime|noatime|seclabel|xattr|clone_children|(no)?prefix|release_agent=.*)$' | paste -sd, || :)
    case $type in
      cgroup) mount -t cgroup -o "$opts" cgroup "$path" ;;
      cgroup2) mount -t cgroup2 cgroup2 "$path" ;;
    esac
  done <<<"$mounts"
else
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # a cgroup with processes in it hands no controllers down
  mkdir -p /sys/fs/cgroup/init; echo $$ > /sys/fs/cgroup/init/cgroup.procs
  read -ra controllers < /sys/fs/cgroup/cgroup.controllers
  for c in "${controllers[@]}"; do echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control || :; done
fi

case $kind in
  libvirt) own=(var/lib/libvirt var/log/libvirt var/cache/libvirt) nodes=() loops=0 ;;
  lxdvm) own=() nodes=() loops=0 ;;
  lxd) own=(var/lib/lxcfs var/log/lxd) nodes=(fuse:10:229 btrfs-control:10:234 loop-control:10:237) loops=64 ;;
esac
for d in etc "${own[@]}" run; do mkdir -p "$dir/$d"; mkdir -p "/$d"; mount --bind "$dir/$d" "/$d"; done
mkdir -p /run/sshd /run/lock

# A /dev without /dev/kvm, so that the hosts are the same wherever they run; some machines have one that hangs SeaBIOS.
# (Hiding just that node does not work: over /dev/null libvirt probes QEMU anew at every define, 8 s.)
mount -t tmpfs -o mode=755,nosuid tmpfs /dev
mkdir /dev/net /dev/pts /dev/shm /dev/mqueue
for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200 "${nodes[@]}"; do
  IFS=: read -r node major minor <<<"$n"; mknod -m 666 "/dev/$node" c "$major" "$minor"
done
# as many as there may come to be: the kernel makes new ones in the machine's /dev only
for ((n = 0; n < loops; n++)); do mknod -m 660 "/dev/loop$n" b 7 "$n"; done
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts /dev/pts; ln -s pts/ptmx /dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr

# br0: VMs on it are on the shared segment, as if plugged into the same switch.
for ((t = 0; t < 200; t++)); do [ -e /sys/class/net/eth0 ] && break; sleep 0.05; done
ip link set lo up
ip link add name br0 address "$mac" type bridge
# Routes learned from router advertisements (a controller on the segment may send some) make libvirt refuse IPv6 networks.
for n in eth0 br0; do echo 0 2>/dev/null > /proc/sys/net/ipv6/conf/$n/accept_ra || :; done
ip link set eth0 master br0 up
ip link set br0 up
ip addr add "$address/24" dev br0
ip route add default via "$gateway"

if [ "$kind" = libvirt ]; then
  virtlogd -d; libvirtd -d --listen; /usr/sbin/sshd
else
  # shellcheck source=lxd-init.sh
  . "$here/$kind-init.sh"
fi
while :; do sleep 3600 & wait $! || :; done       # bash reaps what is left over
