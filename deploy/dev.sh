# Where `make up` and `make down` keep what they start. Sourced by both.
# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the scripts that source this

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
devhosts=$root/deploy/devhosts/devhosts.sh
# Outside the checkout, so that `git clean` cannot take the state of a running
# vmhost away. Nobody else's: a real installation is in /var/lib/vmhost.
state=${VMHOST_DEV_DIR:-/var/lib/vmhost-dev}
pidfile=$state/vmhost.pid
log=$state/vmhost.log

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

# alive: whether the pid in the file is still the vmhost that up.sh started, and
# not another process that got its number.
alive() {
    local pid
    pid=$(cat "$pidfile" 2>/dev/null) && [ -n "$pid" ] &&
        [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$root/bin/vmhost" ]
}
