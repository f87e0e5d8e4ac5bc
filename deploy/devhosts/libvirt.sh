# shellcheck shell=bash
# libvirt.sh: what makes a host a libvirt host: its files, and whether it answers. Part of devhosts.sh.
# shellcheck disable=SC2015  # "a && b || die" means just that

socket_of() { echo "$ROOT/$1/run/libvirt/libvirt-sock"; }
virsh_on() { # host command...: never for ever, a stopped libvirtd accepts connections and does not answer
  local h=$1; shift
  timeout 20 virsh -q -c "qemu+unix:///system?socket=$(socket_of "$h")" "$@"
}
libvirt_healthy() { # host
  local list n
  host_pid1 "$1" >/dev/null && list=$(virsh_on "$1" 'net-list --name; pool-list --name' 2>/dev/null) || return 1
  [ "$(tr -d ' ' <<<"$list" | grep -cxE 'default|netboot|fabric')" = 4 ] || return 1
  for n in 22 16514; do port_open "$(ip_of "$1")" $n || return 1; done
}
libvirt_status() { echo "$(socket_of "$1"), $(virsh_on "$1" list --all --name | grep -c .) domains"; }
libvirt_env() { # host prefix
  p "$2_SOCKET" "$(socket_of "$1")"; p "$2_IP" "$(ip_of "$1")"
  p "$2_SSH" "qemu+ssh://root@$(ip_of "$1")/system"; p "$2_TLS" "qemu+tls://$(ip_of "$1")/system"
}

libvirt_prepare() { # host ip etc
  local h=$1 R=$ROOT/$1 e=$3 o
  rm -rf "$e"/libvirt/{qemu,storage,secrets,hooks} "$e"/ssh/ssh_host_* "$e"/ssh/sshd_config.d "$e/pki/libvirt"
  mkdir -p "$e"/libvirt/{qemu/networks,storage}/autostart "$e"/pki/{CA,libvirt/private} \
    "$R"/var/{lib,log,cache}/libvirt "$R/var/lib/libvirt/tftp" "$R/var/log/libvirt/qemu"
  install -d -m 711 "$R/var/lib/libvirt/images"
  o=$(openssl passwd -6 -in "$ROOT/ssh/password") && sed -i "s|^root:.*|root:$o:19000:0:99999:7:::|" "$e/shadow" || return 1
  for o in rsa:2048 ecdsa:256 ed25519:256; do      # several types, as a real sshd has
    ssh-keygen -q -t "${o%:*}" -b "${o#*:}" -N '' -C "$h" -f "$e/ssh/ssh_host_${o%:*}_key" || return 1
  done
  cp "$ROOT/ssh/id_ed25519.pub" "$e/ssh/authorized_keys" || return 1
  cp "$ROOT/pki/cacert.pem" "$e/pki/CA/" &&
    certificate "/CN=$h" serverAuth "IP:$2,DNS:$h" "$e/pki/libvirt/private/serverkey.pem" "$e/pki/libvirt/servercert.pem" || return 1
  libvirt_config "$h" "$2" "$e"
}
libvirt_refresh() { cp "$CACHE"/guest/{vmlinuz,initrd.gz} "$HERE/boot.ipxe" "$ROOT/$1/var/lib/libvirt/tftp/"; }

libvirt_config() { # host ip etc
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
