# shellcheck shell=bash
# lxdvm.sh: the LXD that runs virtual machines. Part of devhosts.sh.
#
# LXD starts a VM only where /dev/kvm and vhost_vsock work, and the hosts have neither. QEMU's software emulation has AMD's SVM,
# though: in a guest with `-cpu max` Debian's kernel loads kvm_amd and vhost_vsock, and an LXD there, as Debian ships it, starts
# real VMs. OVMF does not survive it (QEMU aborts when it writes CR8 under SVM), so LXD_OVMF_PATH has SeaBIOS under its name.
#
# The guest's disk is built once, by lxdvm-image.sh. What belongs to the lab is a second cpio archive behind its initrd: keys,
# preseed, images, and the guest's PID 1 (lxdvm-guest).
# shellcheck disable=SC2015  # "a && b || die" means just that

lxdvm_healthy() { lxd_healthy "$@"; }
lxdvm_status() { lxd_status "$@"; }
lxdvm_env() { lxd_env "$@"; }

lxdvm_prepare() { # host ip etc
  local R=$ROOT/$1 s=$ROOT/$1/seed
  chmod 700 "$R"        # the seed has a host key and a password in it
  (umask 077; openssl rand -hex 12 > "$R/password") && mkdir -p "$s" && lxd_preseed "$1" "$2" > "$s/preseed.yaml" || return 1
  rm -f "$s"/ssh_host_ed25519_key*
  ssh-keygen -q -t ed25519 -N '' -C "$1" -f "$s/ssh_host_ed25519_key" && cp "$ROOT/ssh/id_ed25519.pub" "$s/authorized_keys" || return 1
  printf 'name=%s address=%s gateway=%s\n' "$1" "$2" "$NET.1" > "$s/settings"
  echo "$2 $(cut -d' ' -f1,2 "$s/ssh_host_ed25519_key.pub")" > "$R/known_hosts"
  cat > "$R/ssh" <<X
#!/bin/sh
exec ssh -F none -i $ROOT/ssh/id_ed25519 -o IdentitiesOnly=yes -o UserKnownHostsFile=$R/known_hosts -o StrictHostKeyChecking=yes -o BatchMode=yes -o ConnectTimeout=5 root@$2 "\$@"
X
  chmod 755 "$R/ssh"
}
lxdvm_refresh() {
  local R=$ROOT/$1 T
  # As with the others, a first start that was cut short is done again from nothing. So is one on another base: it has been
  # built anew since, and the overlay would make no sense on it.
  if [ ! -e "$R/configured" ] || ! cmp -s "$CACHE/lxdvm/stamp" "$R/base"; then
    rm -f "$R/configured" && qemu-img create -q -f qcow2 -b "$CACHE/lxdvm/base.img" -F raw "$R/disk.qcow2" && cp "$CACHE/lxdvm/stamp" "$R/base" || return 1
  fi
  mkdir -p "$R/lxd" && cp "$CACHE"/lxdvm/vmlinuz "$R/" && cp "$CACHE"/tiny/tiny.tar.gz "$CACHE"/lxdvm/tiny-vm.* "$R/seed/" &&
    install -m 755 "$HERE/lxdvm-guest" "$R/seed/init" || return 1
  rm -rf "$R"/build.*; T=$(mktemp -d "$R/build.XXXXXX") && cp -a "$R/seed" "$T/" && dpkg-deb --fsys-tarfile "$(deb_cached busybox-static)" | tar -x -C "$R" ./bin/busybox &&
    archive "$R/bin/busybox" "$T" | cat "$CACHE/lxdvm/initrd.gz" - > "$R/initrd.gz" || return 1
  rm -rf "$T" "$R/lxd/unix.socket"
}
