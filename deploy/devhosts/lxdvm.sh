# shellcheck shell=bash
# lxdvm.sh: the LXD that runs virtual machines. Part of devhosts.sh.
#
# LXD starts a VM only where /dev/kvm and vhost_vsock work, and the hosts have neither. QEMU's software emulation has AMD's SVM,
# though: in a guest with `-cpu max` Debian's kernel loads kvm_amd and vhost_vsock, and an LXD there, as Debian ships it, starts
# real VMs. OVMF does not survive it (QEMU aborts when it writes CR8 under SVM), so LXD_OVMF_PATH has SeaBIOS under its name.
#
# The guest's disk is built once: $CACHE/lxdvm/{base.img,initrd.gz,tiny-vm.qcow2}. What belongs to the lab is a second cpio
# archive behind its initrd: keys, preseed, images, and the guest's PID 1 (lxdvm-guest).
# shellcheck disable=SC2015  # "a && b || die" means just that

lxdvm_packages=lxd,lxd-client,btrfs-progs,dnsmasq-base,iproute2,iptables,qemu-system-x86,qemu-utils,seabios,ipxe-qemu,gdisk,genisoimage,udev,kmod,openssh-server

lxdvm_healthy() { lxd_healthy "$@"; }
lxdvm_status() { lxd_status "$@"; }
lxdvm_env() { lxd_env "$@"; }

# ---------------------------------------------------------------- built once
lxdvm_known() { [ -s "$CACHE/lxdvm/stamp" ] || guest_known; }
lxdvm_mirror() { # where this machine's own packages come from
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1
}
lxdvm_build() {
  local stamp T r rc out=$CACHE/lxdvm
  stamp=$(cat "$HERE/lxdvm.sh" "$HERE/lxdvm-boot" "$CACHE/guest/stamp" | sha256sum)
  [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && return 0
  say "building the guest of lxdvm, once: about a minute and a half"
  rm -rf "$out" "$CACHE"/build-lxdvm.*        # also of one that was killed
  T=$(mktemp -d "$CACHE/build-lxdvm.XXXXXX") && mkdir -p "$out" && r=$T/root || return 1
  {
    debootstrap --variant=minbase --include=$lxdvm_packages bookworm "$r" "$(lxdvm_mirror)" </dev/null &&
      lxdvm_root && lxdvm_initrd && tiny_vm && echo "$stamp" > "$out/stamp"
  } >>"$CACHE/apt.log" 2>&1
  rc=$?; rm -rf "$T"; return $rc
}
lxdvm_root() {
  local kernel firmware=$r/usr/share/lxdvm-firmware
  rm -rf "$r"/var/cache/apt/archives/*.deb "$r"/var/lib/apt/lists/* "$r"/usr/share/{doc,man,locale}/* "$r"/etc/ssh/ssh_host_*
  kernel=$(deb 'linux-image-[0-9]*-cloud-amd64' "$(kernel_package)") && dpkg-deb --fsys-tarfile "$kernel" | tar -x -C "$r" ./lib/modules &&
    chroot "$r" depmod "$(basename "$r"/lib/modules/*)" &&
    mkdir "$firmware" && cp "$r/usr/share/seabios/bios-256k.bin" "$firmware/OVMF_CODE.fd" && truncate -s 64K "$firmware"/OVMF_VARS{,.ms}.fd &&
    truncate -s 8G "$out/base.img" && mke2fs -q -t ext4 -d "$r" "$out/base.img"
}
lxdvm_initrd() { # what mounts the disk
  local m
  mkdir -p "$T/initrd/bin" "$T/initrd/modules"
  find "$r/lib/modules" -name '*.ko' > "$T/all"; : > "$T/initrd/modules.order"
  for m in virtio_pci virtio_blk ext4; do module_add $m; done
  dpkg-deb -x "$(deb busybox-static busybox-static)" "$T/busybox" && cp "$T/busybox/bin/busybox" "$T/initrd/bin/" &&
    install -m 755 "$HERE/lxdvm-boot" "$T/initrd/init" && archive "$T/busybox/bin/busybox" "$T/initrd" > "$out/initrd.gz"
}
archive() { (set -o pipefail; cd "$2" && find . | "$1" cpio -o -H newc 2>/dev/null | gzip -1); } # busybox folder
tiny_vm() { # a disk that boots the tiny guest by BIOS: one FAT partition, syslinux
  local d=$T/disk.img first=$((1 << 20))
  printf 'DEFAULT tiny\nLABEL tiny\n KERNEL vmlinuz\n INITRD initrd.gz\n APPEND console=ttyS0 quiet panic=1 guest.name=tiny-vm\n' > "$T/syslinux.cfg"
  cat > "$T/metadata.yaml" <<X
architecture: $(uname -m)
creation_date: $(stat -c %Y "$HERE/guest-init")
properties: {architecture: $(uname -m), description: tiny guest, os: busybox, release: tiny}
X
  truncate -s 40M "$d" && echo 'start=2048, type=c, bootable' | sfdisk -q "$d" &&
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$d" bs=440 count=1 conv=notrunc status=none &&
    mformat -i "$d@@$first" -F -T $((40 * 2048 - 2048)) -h 64 -s 32 :: &&
    mcopy -i "$d@@$first" "$T/syslinux.cfg" "$CACHE"/guest/{vmlinuz,initrd.gz} :: &&
    syslinux --install --offset $first "$d" &&
    qemu-img convert -c -O qcow2 "$d" "$out/tiny-vm.qcow2" &&
    tar -C "$T" --numeric-owner --owner=0 --group=0 -czf "$out/tiny-vm.tar.gz" metadata.yaml
}

# ---------------------------------------------------------------- the host
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
  # as with the others, a first start that was cut short is done again from nothing
  [ -e "$R/configured" ] || qemu-img create -q -f qcow2 -b "$CACHE/lxdvm/base.img" -F raw "$R/disk.qcow2" || return 1
  mkdir -p "$R/lxd" && cp "$CACHE"/guest/vmlinuz "$R/" && cp "$CACHE"/tiny/tiny.tar.gz "$CACHE"/lxdvm/tiny-vm.* "$R/seed/" &&
    install -m 755 "$HERE/lxdvm-guest" "$R/seed/init" || return 1
  rm -rf "$R"/build.*; T=$(mktemp -d "$R/build.XXXXXX") && cp -a "$R/seed" "$T/" && dpkg-deb --fsys-tarfile "$(deb_cached busybox-static)" | tar -x -C "$R" ./bin/busybox &&
    archive "$R/bin/busybox" "$T" | cat "$CACHE/lxdvm/initrd.gz" - > "$R/initrd.gz" || return 1
  rm -rf "$T" "$R/lxd/unix.socket"
}
