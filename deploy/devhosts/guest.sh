# shellcheck shell=bash
# guest.sh: builds the kernel and initrd that the network `netboot` hands out: the Debian cloud kernel and a static busybox,
# neither of them installed on this machine. Part of devhosts.sh. Result: $CACHE/guest/{vmlinuz,initrd.gz}.
# shellcheck disable=SC2015

# What the guest needs beyond the kernel itself: virtio devices, and the ACPI power button as an input device.
guest_modules=(virtio_pci virtio_net virtio_blk virtio_scsi sd_mod virtio_console virtio_balloon virtio-rng button evdev)

deb_cached() { find "$CACHE" -maxdepth 1 -name "$1_*.deb" -size +0 2>/dev/null | sort -V | tail -n 1; }
kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }
deb() { # name or pattern, package: path of a .deb, from the cache if it is there
  local f; f=$(deb_cached "$1")
  if [ -z "$f" ]; then
    [ -n "$2" ] || return 1
    # moved when complete: a broken file in the cache would stay there for good
    mkdir -p "$CACHE/partial" && (cd "$CACHE/partial" && rm -f ./*.deb && apt download "$2" && mv ./*.deb ..) || return 1
    f=$(deb_cached "$1")
  fi
  echo "$f"
}
guest_known() { [ -s "$CACHE/guest/stamp" ] || [ -n "$(kernel_package)" ]; }

module_add() { # name: it and, before it, what it depends on
  local m file dep
  file=$(grep -E "/${1//[_-]/[_-]}\.ko$" "$T/all" | head -n 1)
  [ -n "$file" ] || return 0          # built in
  m=$(basename "$file" .ko)
  grep -qx -- "$m" "$T/initrd/modules.order" && return 0
  for dep in $(tr '\0' '\n' < "$file" | sed -n 's/^depends=//p' | tr ',' ' '); do module_add "$dep"; done
  cp "$file" "$T/initrd/modules/"; echo "$m" >> "$T/initrd/modules.order"
}

guest_build() {
  local kernel busybox stamp m T out=$CACHE/guest
  stamp=$(cat "$HERE/guest.sh" "$HERE/guest-init" | sha256sum)
  [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && return 0
  kernel=$(deb 'linux-image-[0-9]*-cloud-amd64' "$(kernel_package)") && busybox=$(deb busybox-static busybox-static) || return 1
  rm -rf "$CACHE"/build.*        # of one that was killed
  T=$(mktemp -d "$CACHE/build.XXXXXX") && mkdir -p "$out" "$T/initrd/bin" "$T/initrd/modules" || return 1
  dpkg-deb --fsys-tarfile "$kernel" | tar -x -C "$T" ./boot ./lib/modules && dpkg-deb -x "$busybox" "$T" || { rm -rf "$T"; return 1; }
  find "$T/lib/modules" -name '*.ko' > "$T/all"; : > "$T/initrd/modules.order"
  for m in "${guest_modules[@]}"; do module_add "$m"; done
  cp "$T/bin/busybox" "$T/initrd/bin/"; install -m 755 "$HERE/guest-init" "$T/initrd/init"
  rm -f "$out/stamp"
  # busybox' own cpio: a minimal Debian has none
  (set -o pipefail; cd "$T/initrd" && find . | "$T/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -6 > "$out/initrd.gz") &&
    install -m 644 "$T"/boot/vmlinuz-* "$out/vmlinuz" && echo "$stamp" > "$out/stamp"
  m=$?; rm -rf "$T"; return $m
}
