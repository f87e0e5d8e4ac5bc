# shellcheck shell=bash
# keys.sh: the lab's own ssh keys, password and certificate authority. Part of devhosts.sh. They live and die with the lab:
# root in a host is root on this machine (there is no user namespace), so no key and no password is the same everywhere.
# shellcheck disable=SC2015

lab_keys() {
  local ssh=$ROOT/ssh pki=$ROOT/pki
  mkdir -p "$ssh" "$pki"; chmod 700 "$ssh" "$pki"
  # The public half is written last: without it, the `up` before this one was killed, and ssh-keygen would ask.
  [ -s "$ssh/id_ed25519.pub" ] || { rm -f "$ssh/id_ed25519"; ssh-keygen -q -t ed25519 -N '' -C devhosts -f "$ssh/id_ed25519"; } || die "ssh-keygen"
  [ -s "$ssh/password" ] || (umask 077; openssl rand -hex 12 > "$ssh/password") || die "openssl rand"
  # For virsh, whose qemu+ssh runs a command: ...?command=$ROOT/ssh/ssh
  cat > "$ssh/ssh" <<X
#!/bin/sh
exec ssh -F none -l root -i $ssh/id_ed25519 -o IdentitiesOnly=yes -o UserKnownHostsFile=$ssh/known_hosts -o StrictHostKeyChecking=yes -o BatchMode=yes "\$@"
X
  chmod 755 "$ssh/ssh"
  [ -s "$pki/cacert.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=devhosts CA" -keyout "$pki/cakey.pem" -out "$pki/cacert.pem" 2>/dev/null || die "cannot make the CA"
  # These names are what libvirt's ?pkipath= looks for.
  [ -s "$pki/clientcert.pem" ] || certificate "/CN=devhosts client" clientAuth '' "$pki/clientkey.pem" "$pki/clientcert.pem" || die "cannot make the client certificate"
}

certificate() { # subject usage subject-alt-names key-file certificate-file
  local ext="basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=$2\n${3:+subjectAltName=$3\n}"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$1" -keyout "$4" 2>/dev/null |
    openssl x509 -req -CA "$ROOT/pki/cacert.pem" -CAkey "$ROOT/pki/cakey.pem" -set_serial "0x$(openssl rand -hex 8)" -days 3650 \
      -extfile <(printf '%b' "$ext") -out "$5" 2>/dev/null
}

# Every key type of every host, as ssh-keyscan would find them: a client that knows just one type must cope with a server that
# offers others.
known_hosts() {
  local h k
  for h in $(hosts libvirt); do
    for k in "$ROOT/$h"/etc/ssh/ssh_host_*_key.pub; do echo "$(ip_of "$h") $(cut -d' ' -f1,2 "$k")"; done
  done > "$ROOT/ssh/known_hosts.new" && mv "$ROOT/ssh/known_hosts.new" "$ROOT/ssh/known_hosts"
}
