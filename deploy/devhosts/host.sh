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
host_healthy() { # host: everything a test could ask it for is there
  local list n
  host_pid1 "$1" >/dev/null && list=$(virsh_on "$1" 'net-list --name; pool-list --name' 2>/dev/null) || return 1
  [ "$(tr -d ' ' <<<"$list" | grep -cxE 'default|netboot|fabric')" = 4 ] || return 1
  for n in 22 16514; do port_open "$(ip_of "$1")" $n || return 1; done
}
host_healthy_or_dead() { host_healthy "$1" || host_gone "$1"; }

# ---------------------------------------------------------------- files
# /etc is copied whole: a bind mount on a single file vanishes from the host as soon as the machine replaces that file by
# rename, which is what passwd and package scripts do to /etc/shadow.
host_prepare() { # host: written once, then the host's own; a host started again keeps its domains, keys and UUID
  local h=$1 R=$ROOT/$1 ip o e; ip=$(ip_of "$1")
  mkdir -p "$R"
  if [ ! -e "$R/prepared" ]; then
    rm -rf "$R/etc" "$R/var" && mkdir -p "$R/etc" && cp -a /etc/. "$R/etc/" || return 1
    e=$R/etc
    rm -rf "$e"/libvirt/{qemu,storage,secrets,hooks} "$e"/ssh/ssh_host_* "$e"/ssh/sshd_config.d "$e/pki/libvirt"
    mkdir -p "$e"/libvirt/{qemu/networks,storage}/autostart "$e"/pki/{CA,libvirt/private} \
      "$R"/var/{lib,log,cache}/libvirt "$R/var/lib/libvirt/tftp" "$R/var/log/libvirt/qemu"
    install -d -m 711 "$R/var/lib/libvirt/images"
    echo "$h" > "$e/hostname"; rm -f "$e/hosts"
    { echo "127.0.0.1 localhost"; echo "$NET.1 controller"; for o in $(hosts); do echo "$(ip_of "$o") $o"; done; } > "$e/hosts"
    o=$(openssl passwd -6 -in "$ROOT/ssh/password") && sed -i "s|^root:.*|root:$o:19000:0:99999:7:::|" "$e/shadow" || return 1
    for o in rsa:2048 ecdsa:256 ed25519:256; do      # several types, as a real sshd has
      ssh-keygen -q -t "${o%:*}" -b "${o#*:}" -N '' -C "$h" -f "$e/ssh/ssh_host_${o%:*}_key" || return 1
    done
    cp "$ROOT/ssh/id_ed25519.pub" "$e/ssh/authorized_keys" || return 1
    cp "$ROOT/pki/cacert.pem" "$e/pki/CA/" &&
      certificate "/CN=$h" serverAuth "IP:$ip,DNS:$h" "$e/pki/libvirt/private/serverkey.pem" "$e/pki/libvirt/servercert.pem" || return 1
    host_config "$h" "$ip" "$e" && : > "$R/prepared" || return 1
  fi
  cp "$CACHE"/guest/{vmlinuz,initrd.gz} "$HERE/boot.ipxe" "$R/var/lib/libvirt/tftp/"
}

host_config() { # host ip etc
  local n=${1#h} e=$3 x ra=''
  # iPXE waits 13 s for an IPv6 router advertisement. An IPv6 address makes libvirt's dnsmasq send one.
  [ -e /proc/sys/net/ipv6 ] && ra="<ip family='ipv6' address='fd00:$((130 + n))::1' prefix='64'/>"
  cat > "$e/ssh/sshd_config" <<X
ListenAddress $2
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin yes
PasswordAuthentication yes
UsePAM no
UseDNS no
MaxStartups 100
MaxSessions 100
Subsystem sftp /usr/lib/openssh/sftp-server
X
  # TLS files are where libvirtd looks by itself (/etc/pki). Without tls_no_verify_certificate a client needs a certificate.
  # The machine's DMI UUID would be the same for all hosts, if it has one.
  cat > "$e/libvirt/libvirtd.conf" <<X
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tcp = 0
listen_tls = 1
auth_tls = "none"
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
X
  echo 'security_driver = "none"' > "$e/libvirt/qemu.conf"     # the namespaces have no securityfs
  # Written as libvirt's own files with autostart, not by virsh: a host that starts again needs no further step.
  uuid() { cat /proc/sys/kernel/random/uuid; }
  cat > "$e/libvirt/storage/default.xml" <<X
<pool type='dir'><name>default</name><uuid>$(uuid)</uuid><target><path>/var/lib/libvirt/images</path></target></pool>
X
  cat > "$e/libvirt/qemu/networks/default.xml" <<X
<network><name>default</name><uuid>$(uuid)</uuid><forward mode='nat'/><bridge name='virbr0' stp='off' delay='0'/>
 <ip address='192.168.$((120 + n)).1' netmask='255.255.255.0'>
  <dhcp><range start='192.168.$((120 + n)).10' end='192.168.$((120 + n)).250'/></dhcp></ip></network>
X
  # no-ping: dnsmasq would look for 3 s whether anybody has the address already
  cat > "$e/libvirt/qemu/networks/netboot.xml" <<X
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
 <name>netboot</name><uuid>$(uuid)</uuid><forward mode='nat'/><bridge name='virbr1' stp='off' delay='0'/>
 <ip address='192.168.$((130 + n)).1' netmask='255.255.255.0'><tftp root='/var/lib/libvirt/tftp'/>
  <dhcp><range start='192.168.$((130 + n)).10' end='192.168.$((130 + n)).250'/><bootp file='boot.ipxe'/></dhcp></ip>
 $ra
 <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options></network>
X
  cat > "$e/libvirt/qemu/networks/fabric.xml" <<X
<network><name>fabric</name><uuid>$(uuid)</uuid><forward mode='bridge'/><bridge name='br0'/></network>
X
  ln -s ../default.xml "$e/libvirt/storage/autostart/"
  for x in default netboot fabric; do ln -s ../$x.xml "$e/libvirt/qemu/networks/autostart/"; done
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
      bash "$HERE/host-init.sh" "$h" "$(ip_of "$h")" "$NET.1" "$(mac_of "$(ip_of "$h")")" "$R"
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
  ip link del "$BRIDGE-$h" 2>/dev/null
  cgroup_remove "$BRIDGE/$h"
  rm -f "$ROOT/$h/pid"
}

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
