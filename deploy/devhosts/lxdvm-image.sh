# shellcheck shell=bash
# lxdvm-image.sh: builds the disk of lxdvm's guest: Debian with its kernel's modules, LXD and QEMU; what mounts it; and the LXD
# image `tiny-vm`. Part of devhosts.sh. Result: $CACHE/lxdvm/{base.img,vmlinuz,initrd.gz,tiny-vm.tar.gz,tiny-vm.qcow2}.
# shellcheck disable=SC2015  # "a && b || die" means just that

lxdvm_packages=lxd,lxd-client,btrfs-progs,dnsmasq-base,iproute2,iptables,qemu-system-x86,qemu-utils,seabios,ipxe-qemu,gdisk,genisoimage,udev,kmod,openssh-server

lxdvm_known() { [ -s "$CACHE/lxdvm/stamp" ] || guest_known; }
lxdvm_mirror() { # where this machine's own packages come from
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1
}
lxdvm_build() {
  local stamp T r rc out=$CACHE/lxdvm
  stamp=$(cat "$HERE/lxdvm-image.sh" "$HERE/lxdvm-boot" "$CACHE/guest/stamp" | sha256sum)
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
  kernel=$(deb 'linux-image-[0-9]*-cloud-amd64' "$(kernel_package)") && dpkg-deb --fsys-tarfile "$kernel" | tar -x -C "$r" ./boot ./lib/modules &&
    install -m 644 "$r"/boot/vmlinuz-* "$out/vmlinuz" && rm -rf "${r:?}/boot" &&
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
