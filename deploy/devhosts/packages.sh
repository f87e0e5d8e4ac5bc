# shellcheck shell=bash
# packages.sh: the Debian packages of the hosts. Part of devhosts.sh.

packages_common=(iproute2 iptables openssl openssh-client)
packages_libvirt=(
  openssh-server
  libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base
  qemu-system-x86 qemu-utils ipxe-qemu seabios
)
packages_lxd=(lxd lxd-client lxcfs btrfs-progs dnsmasq-base)
# LXD itself is inside the guest. syslinux and after: the disk of tiny-vm.
packages_lxdvm=(lxd-client debootstrap e2fsprogs qemu-system-x86 qemu-utils seabios syslinux syslinux-common mtools fdisk)

apt() { apt-get -q -y -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root "$@" </dev/null >>"$CACHE/apt.log" 2>&1; }

packages_install() { # kind...
  local p k packages=("${packages_common[@]}") miss=() have policy=/usr/sbin/policy-rc.d rc
  for k in "$@"; do local -n list=packages_$k; packages+=("${list[@]}"); done
  have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null)
  for p in "${packages[@]}"; do grep -qx "$p installed" <<<"$have" || miss+=("$p"); done
  [ ${#miss[@]} = 0 ] && return 0
  say "installing ${miss[*]}"
  # Package scripts would start a libvirtd and an sshd of the machine itself. If somebody has a policy already, theirs holds;
  # one of ours is of an `up` that was killed.
  if [ ! -e $policy ] || grep -q '^# devhosts' $policy; then
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\n# devhosts\nexit 101\n' > $policy && chmod 755 $policy
  fi
  apt install --no-install-recommends "${miss[@]}"; rc=$?
  [ "$(trap -p EXIT)" ] && { rm -f $policy; trap - EXIT; }
  return $rc
}

# What the hosts hand out is built while apt unpacks: it needs nothing of what is being installed.
guests_build() { # kind...
  local k
  for k in "$@"; do
    case $k in
      libvirt) guest_build ;;
      lxd) tiny_build ;;
      lxdvm) guest_build && tiny_build ;;
    esac || return 1
  done
}
guests_known() { # kind...: if not, apt has no lists yet
  local k
  for k in "$@"; do
    case $k in
      libvirt) guest_known ;;
      lxd) tiny_known ;;
      lxdvm) lxdvm_known ;;
    esac || return 1
  done
}
install_once() {
  local g rc
  guests_build "$@" & g=$!
  packages_install "$@"; rc=$?
  wait $g && [ $rc = 0 ] || return 1
  [[ " $* " != *" lxdvm "* ]] || lxdvm_build
}
install_all() ( # kind...
  # Several labs may start at once, and they share the cache and apt. (A subshell: lock() has only descriptor 9.)
  lock "$CACHE/lock"
  : > "$CACHE/apt.log"
  guests_known "$@" || apt update
  install_once "$@" || { apt update; install_once "$@"; } || { tail -n 20 "$CACHE/apt.log"; exit 1; }
)
