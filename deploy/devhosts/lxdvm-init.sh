# shellcheck shell=bash
# lxdvm-init.sh: the services of lxdvm, started by its PID 1 (host-init.sh): the guest that LXD is in, and LXD's socket brought
# out of it.
# shellcheck disable=SC2154  # dir and mac are host-init.sh's
rm -f "$dir/console.log"
ip tuntap add dev tap0 mode tap
ip link set tap0 master br0 up
# The bridge has the address of the namespaces, .52; the MAC of .51 is the guest's.
qemu-system-x86_64 -name lxdvm -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -nodefaults -display none -no-reboot \
  -kernel "$dir/vmlinuz" -initrd "$dir/initrd.gz" -append "console=ttyS0 quiet panic=1" \
  -drive "file=$dir/disk.qcow2,if=virtio,cache=unsafe" \
  -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device "virtio-net-pci,netdev=n0,romfile=,mac=${mac%:*}:33" \
  -device virtio-rng-pci -serial "file:$dir/console.log" &
guest=$!
until grep -aqs 'LXDVM READY' "$dir/console.log"; do
  if [ ! -d "/proc/$guest" ] || grep -aqs 'LXDVM FAILED' "$dir/console.log"; then
    rm -f "$dir/configured"        # the next start is from nothing
    tail -n 5 "$dir/console.log"; exit 1
  fi
  sleep 0.2
done
: > "$dir/configured"
"$dir/ssh" cat /var/lib/lxd/server.crt > "$dir/lxd/server.crt"
while :; do "$dir/ssh" -N -o StreamLocalBindUnlink=yes -o ServerAliveInterval=15 -L "$dir/lxd/unix.socket:/var/lib/lxd/unix.socket" || sleep 1; done &
: > /run/ready
