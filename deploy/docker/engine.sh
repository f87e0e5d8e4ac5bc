# shellcheck shell=bash
# A docker engine for compose-test.sh, which sources this.
# $work: its temporary folder.
# shellcheck disable=SC2154
#
# With DOCKER_HOST set, that engine is used. Otherwise a private one is started
# from Debian's packages: its own state, sockets and pid file in one temporary
# folder, no default bridge, and no change to the machine's firewall or routing.
# Published ports then go through docker-proxy, which is all that is needed.

# engine_missing says why no engine can run, and ends with what means "skipped".
engine_missing() {
    printf 'compose-test: SKIPPED, nothing was tested: %s\n' "$*" >&2
    exit 77
}

engine_install() {
    command -v dockerd >/dev/null && command -v docker-compose >/dev/null && return
    [ "$(id -u)" = 0 ] || engine_missing 'docker is not installed, and installing it needs root; or set DOCKER_HOST'
    command -v apt-get >/dev/null || engine_missing 'docker is not installed, and this is no Debian; or set DOCKER_HOST'
    echo 'compose-test: installing docker.io and docker-compose from Debian' >&2
    # Package scripts would start an engine of the machine itself. A policy that
    # is there already holds.
    local policy=/usr/sbin/policy-rc.d ours='' status=0
    if [ ! -e $policy ] || grep -q '^# vmhost compose-test' $policy; then
        ours=1
        printf '#!/bin/sh\n# vmhost compose-test\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    apt_install docker.io docker-compose || { apt-get -q update && apt_install docker.io docker-compose; } >>"$work/apt.log" 2>&1 || status=$?
    [ -z "$ours" ] || rm -f $policy
    [ $status = 0 ] || { tail -n 5 "$work/apt.log" >&2; engine_missing 'docker.io and docker-compose could not be installed'; }
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "$@" </dev/null >>"$work/apt.log" 2>&1
}

# engine_start leaves DOCKER_HOST set, and engine_pid if there is one to stop.
engine_start() {
    engine_pid=
    # Debian's docker before any other: a newer client without its plugins
    # cannot build.
    PATH=/usr/sbin:/usr/bin:$PATH
    export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
    if [ -n "${DOCKER_HOST:-}" ]; then
        docker version >/dev/null 2>&1 || engine_missing "no engine answers at DOCKER_HOST=$DOCKER_HOST"
        return
    fi
    engine_install
    [ "$(id -u)" = 0 ] || engine_missing 'a private docker engine needs root; or set DOCKER_HOST'
    mkdir -p "$work/engine"
    echo '{}' >"$work/engine/config.json" # not the machine's /etc/docker/daemon.json
    export DOCKER_HOST=unix://$work/engine/docker.sock DOCKER_CONFIG=$work/engine/client
    mkdir -p "$DOCKER_CONFIG"
    dockerd --config-file "$work/engine/config.json" --host "$DOCKER_HOST" --group 0 \
        --data-root "$work/engine/data" --exec-root "$work/engine/exec" --pidfile "$work/engine/pid" \
        --containerd-namespace vmhost-compose-test --containerd-plugins-namespace vmhost-compose-test-plugins \
        --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        </dev/null >"$work/engine/log" 2>&1 &
    engine_pid=$!
    for _ in $(seq 300); do
        docker version >/dev/null 2>&1 && return
        [ -d "/proc/$engine_pid" ] || break
        sleep 0.1
    done
    tail -n 10 "$work/engine/log" >&2
    engine_missing 'dockerd does not run on this machine'
}

# engine_stop ends what engine_start started, and only that.
engine_stop() {
    [ -n "${engine_pid:-}" ] || return 0
    kill "$engine_pid" 2>/dev/null || true
    wait "$engine_pid" 2>/dev/null || true
    engine_pid=
}
