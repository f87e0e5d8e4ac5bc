# shellcheck shell=bash
# lxd-init.sh: the services of an LXD host, started by its PID 1 (host-init.sh). At its first start LXD is given its
# preseed and the image.
# shellcheck disable=SC2154  # dir and name are host-init.sh's
export LXD_DIR=$dir/lxd LXD_CONF=$dir/lxc HOME=/root
mkdir -p "$LXD_DIR" "$LXD_CONF"

# With lxcfs, /proc in a container shows the limits of the container.
lxcfs --pidfile=/run/lxcfs.pid /var/lib/lxcfs >/var/log/lxd/lxcfs.log 2>&1 &
lxd --group root --logfile /var/log/lxd/lxd.log >/var/log/lxd/out 2>&1 &
lxd waitready --timeout 60

if [ ! -e "$dir/configured" ]; then
  if [ "$name" = lxdc2 ]; then      # it joins lxdc1, which may be starting at this moment
    for ((t = 0; t < 600; t++)); do [ -e "$dir/../lxdc1/run/ready" ] && break; sleep 0.1; done
    # of a join that was cut short
    LXD_DIR=$dir/../lxdc1/lxd lxc cluster remove --force --yes lxdc2 2>/dev/null || :
  fi
  lxd init --preseed < "$dir/preseed.yaml"
  [ "$name" = lxdc2 ] || lxc -q image import "$dir/tiny.tar.gz" --alias tiny
  : > "$dir/configured"
fi
: > /run/ready
