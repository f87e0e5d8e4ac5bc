# shellcheck shell=bash
# tiny.sh: builds the LXD image `tiny`: a static busybox and tiny-init. Part of devhosts.sh. Result: $CACHE/tiny/tiny.tar.gz, a
# unified image of 1 MB.
# shellcheck disable=SC2015

tiny_known() { [ -s "$CACHE/tiny/stamp" ] || apt-cache show busybox-static >/dev/null 2>&1; }

tiny_build() {
  local busybox stamp m T a out=$CACHE/tiny
  stamp=$(cat "$HERE/tiny.sh" "$HERE/tiny-init" | sha256sum)
  [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && return 0
  busybox=$(deb busybox-static busybox-static) || return 1
  rm -rf "$CACHE"/build-tiny.*        # of one that was killed
  T=$(mktemp -d "$CACHE/build-tiny.XXXXXX") && mkdir -p "$out" "$T/deb" "$T"/image/rootfs/{bin,sbin,etc,proc,sys,dev,tmp,root,run,mnt} "$T/image/templates" || return 1
  chmod 755 "$T"
  dpkg-deb -x "$busybox" "$T/deb" && cp "$T/deb/bin/busybox" "$T/image/rootfs/bin/" || { rm -rf "$T"; return 1; }
  for a in $("$T/deb/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$T/image/rootfs/bin/$a"; done
  install -m 755 "$HERE/tiny-init" "$T/image/rootfs/sbin/init"
  echo 'root:x:0:0:root:/root:/bin/sh' > "$T/image/rootfs/etc/passwd"; echo 'root:x:0:' > "$T/image/rootfs/etc/group"
  echo '{{ container.name }}' > "$T/image/templates/hostname.tpl"
  cat > "$T/image/metadata.yaml" <<X
architecture: $(uname -m)
creation_date: $(stat -c %Y "$HERE/tiny-init")
properties: {architecture: $(uname -m), description: tiny busybox, os: busybox, release: tiny}
templates:
  /etc/hostname: {when: [create, copy, rename], template: hostname.tpl}
X
  rm -f "$out/stamp"
  tar -C "$T/image" --numeric-owner --owner=0 --group=0 -czf "$out/tiny.tar.gz" metadata.yaml templates rootfs && echo "$stamp" > "$out/stamp"
  m=$?; rm -rf "$T"; return $m
}
