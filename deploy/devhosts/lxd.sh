# shellcheck shell=bash
# lxd.sh: what makes a host an LXD host: its preseed, and whether it answers. Part of devhosts.sh; what it starts is in
# lxd-init.sh.
# shellcheck disable=SC2015  # "a && b || die" means just that

# Every LXD has a directory with a path of its own, also inside: mkfs.btrfs takes a loop file for mounted when another
# namespace has one mounted under the same name.
lxd_dir() { echo "$ROOT/$1/lxd"; }
lxc_on() { # host command...: by its unix socket; never for ever
  local h=$1; shift
  LXD_DIR=$(lxd_dir "$h") LXD_CONF=$ROOT/$h/lxc timeout 20 lxc "$@"
}
# What TLS clients are shown: members of a cluster have one certificate.
lxd_certificate() { local d; d=$(lxd_dir "$1"); if [ -s "$d/cluster.crt" ]; then echo "$d/cluster.crt"; else echo "$d/server.crt"; fi; }
lxd_fingerprint() { openssl x509 -in "$(lxd_certificate "$1")" -outform DER | sha256sum | cut -d' ' -f1; }

lxd_healthy() { # host
  host_pid1 "$1" >/dev/null && [ -e "$ROOT/$1/run/ready" ] && port_open "$(ip_of "$1")" 8443 && lxc_on "$1" query /1.0 >/dev/null 2>&1
}
lxd_status() { echo "https://$(ip_of "$1"):8443, $(lxc_on "$1" query /1.0/instances | grep -c /instances/) instances"; }
lxd_env() { # host prefix
  p "$2_URL" "https://$(ip_of "$1"):8443"; p "$2_IP" "$(ip_of "$1")"; p "$2_SOCKET" "$(lxd_dir "$1")/unix.socket"
  p "$2_CERTIFICATE" "$(lxd_certificate "$1")"; p "$2_FINGERPRINT" "$(lxd_fingerprint "$1")"
  p "$2_PASSWORD" "$(cat "$ROOT/$1/password")"
}

lxd_prepare() { # host ip etc
  local h=$1 R=$ROOT/$1
  case $h in
    # one password in a cluster, and lxdc2 joins with it; lxdc1 is being prepared at this moment
    lxdc2) waitfor 10 test -s "$ROOT/lxdc1/password" && cp "$ROOT/lxdc1/password" "$R/password" ;;
    *) (umask 077; openssl rand -hex 12 > "$R/password") ;;
  esac && (umask 077; lxd_preseed "$h" "$2" > "$R/preseed.yaml")
}
# A first start that was cut short is done again from nothing: a cluster that is half there cannot be preseeded.
lxd_refresh() {
  [ -e "$ROOT/$1/configured" ] || { rm -rf --one-file-system "$(lxd_dir "$1")" && cp "$CACHE/tiny/tiny.tar.gz" "$ROOT/$1/"; }
}

lxd_preseed() { # host ip
  local net cluster='' address='[::]'
  net=$(($(ip_number "$1") + 110))       # 141 for lxd1, 151 and 151 for the cluster, whose members share a network
  case $1 in
    # All that a member has to say for itself; the rest it gets from the cluster.
    lxdc2)
      cat <<X
cluster:
  enabled: true
  server_name: $1
  server_address: $2:8443
  cluster_address: $(ip_of lxdc1):8443
  cluster_certificate_path: $(lxd_dir lxdc1)/cluster.crt
  cluster_password: $(cat "$ROOT/$1/password")
  member_config:
  - {entity: storage-pool, name: default, key: source, value: ""}
  - {entity: storage-pool, name: btrfs, key: source, value: ""}
  - {entity: storage-pool, name: btrfs, key: size, value: 2GiB}
X
      return ;;
    lxdc1) cluster="cluster: {enabled: true, server_name: $1}" address=$2 ;;
  esac
  cat <<X
config:
  core.https_address: "$address:8443"
  core.trust_password: $(cat "$ROOT/$1/password")
  images.auto_update_interval: "0"
storage_pools:
- {name: default, driver: dir}
- {name: btrfs, driver: btrfs, config: {size: 2GiB}}
networks:
- name: lxdbr0
  type: bridge
  config: {ipv4.address: 192.168.$net.1/24, ipv4.nat: "true", ipv6.address: "fd00:$net::1/64", ipv6.nat: "true"}
profiles:
- name: default
  devices:
    root: {type: disk, path: /, pool: default}
    eth0: {type: nic, network: lxdbr0, name: eth0}
$cluster
X
}
