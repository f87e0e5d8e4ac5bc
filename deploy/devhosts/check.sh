# shellcheck shell=bash
# check.sh: the self-test of the hosts that are up: every transport, and a machine on one host of each kind. Part of devhosts.sh.
# shellcheck disable=SC2015,SC2317  # "a && b || c" means just that; functions are called through waitfor and try

check() {
  local kind rc=0 t=${EPOCHREALTIME/./}
  status >/dev/null || { status; return 1; }
  for kind in libvirt lxd lxdvm; do [ -z "$(hosts $kind)" ] || "check_$kind"; done
  return $rc
}
try() { # what command...
  local what=$1 now; shift
  if "$@"; then now=${EPOCHREALTIME/./}; echo "ok   $what ($(((now - t) / 1000)) ms)"; else echo "FAIL $what"; rc=1; fi
  t=${EPOCHREALTIME/./}
  return $rc
}

# ---------------------------------------------------------------- libvirt
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
check_libvirt() {
  local h log ip=''
  named() { [ "$(timeout 20 virsh -q -c "$2" hostname)" = "$1" ]; }
  for h in $(hosts libvirt); do
    try "$h by ssh" named "$h" "qemu+ssh://root@$(ip_of "$h")/system?command=$ROOT/ssh/ssh"
    try "$h by TLS" named "$h" "qemu+tls://$(ip_of "$h")/system?pkipath=$ROOT/pki"
  done
  h=$(hosts libvirt | head -n 1); log=$ROOT/$h/var/log/libvirt/qemu/devhosts-check-serial.log
  ready() { grep -aq 'GUEST READY' "$log"; }
  gone() { ! virsh_on "$h" domstate devhosts-check; }
  # shellcheck disable=SC2016
  http() { inside "$h" timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/80" && printf "GET / HTTP/1.0\r\n\r\n" >&3 && grep "^{.*cpus.*memory_kib.*dmi_uuid.*macs.*disks" <&3' - "$1"; }
  virsh_on "$h" destroy devhosts-check >/dev/null 2>&1
  rm -f "$log"; check_domain > "$ROOT/check.xml"
  try "$h starts a VM" virsh_on "$h" create "$ROOT/check.xml" &&
    try "it boots from the network" waitfor 90 ready &&
    ip=$(sed -n 's/.*GUEST IP [^ ]* \([0-9.]*\).*/\1/p' "$log" | head -n 1) &&
    try "it answers HTTP at ${ip:-no address}" http "$ip" &&
    try "it is asked to power off" virsh_on "$h" shutdown devhosts-check --mode acpi &&
    try "it powers off on ACPI" waitfor 20 gone
  virsh_on "$h" destroy devhosts-check >/dev/null 2>&1
  rm -f "$log" "$ROOT/check.xml"
}

# ---------------------------------------------------------------- LXD
# All of it by HTTPS, as a client that LXD has not seen before: its configuration and its certificate are made for this and
# thrown away.
check_lxd() { check_lxd_hosts "$(hosts lxd)"; }
check_lxd_hosts() { # hosts
  local h conf=$ROOT/check-lxc
  lxc_() { LXD_CONF=$conf timeout 30 lxc -q "$@" </dev/null; }
  said() { local out; out=$("$@" 2>&1) || { echo "$out" >&2; return 1; }; }
  trusted() { said lxc_ remote add "$h" "$@" --accept-certificate && lxc_ query "$h:/1.0" | grep -q '"auth": "trusted"'; }
  forget() { lxc_on "$h" config trust remove "$(openssl x509 -in "$conf/client.crt" -outform DER | sha256sum | cut -c1-12)" && lxc_ remote remove "$h"; }
  address() { lxc_ list "$h:devhosts-check" -c 4 -f csv | grep -q eth0; }
  token() { lxc_on "$h" config trust add --name devhosts-check </dev/null | tail -n 1; }
  for h in $1; do
    rm -rf "$conf"; mkdir -p "$conf"
    lxc_on "$h" delete -f devhosts-check >/dev/null 2>&1
    try "$h trusts who has a token" trusted "$(token)" && forget
    try "$h trusts who has the password" trusted "https://$(ip_of "$h"):8443" --password "$(cat "$ROOT/$h/password")" &&
      try "it launches a container" lxc_ launch "$h:tiny" "$h:devhosts-check" -c limits.memory=64MiB &&
      try "it has an address" waitfor 20 address &&
      try "it runs commands" [ "$(lxc_ exec "$h:devhosts-check" -- hostname)" = devhosts-check ] &&
      try "it stops when asked" lxc_ stop "$h:devhosts-check" --timeout 10 &&
      try "it is deleted" lxc_ delete "$h:devhosts-check"
    [ "$h" != lxdvm ] || check_vm
    lxc_on "$h" delete -f devhosts-check >/dev/null 2>&1
    forget; rm -rf "$conf"
  done
}
check_vm() {
  lxc_on "$h" delete -f devhosts-check >/dev/null 2>&1
  try "it launches a virtual machine" lxc_ launch "$h:tiny-vm" "$h:devhosts-check" --vm -c limits.memory=128MiB &&
    try "it has an address" waitfor 180 address &&
    try "it stops when asked" lxc_ stop "$h:devhosts-check" --timeout 25 &&
    try "it is deleted" lxc_ delete "$h:devhosts-check"
}
check_lxdvm() { check_lxd_hosts lxdvm; }
