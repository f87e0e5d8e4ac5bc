#!/usr/bin/env bash
# `make compose-test`: builds the images, brings docker-compose.yml up on an
# engine of its own, composes a machine through the gateway and one with
# vmhostctl, checks that a restart loses nothing, and takes everything down.
#
# Ends with 0 when all is well, 1 when something is not, and 77 when no engine can
# run here and nothing was tested. Ends only what it started itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
# Short: the paths of unix sockets end at 107 bytes.
work=$(mktemp -d /tmp/vmhost-compose.XXXXXX)
# shellcheck source=deploy/docker/engine.sh
source "$here/engine.sh"

say() { printf 'compose-test: %s\n' "$*" >&2; }

passed=
up=
finish() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$up" ]; then
        if [ -z "$passed" ]; then
            compose ps >&2 || true
            compose logs --no-color --tail=40 >&2 || true
        fi
        compose down --volumes --timeout 10 >"$work/down.log" 2>&1 || { status=1; cat "$work/down.log" >&2; }
    fi
    engine_stop
    rm -rf --one-file-system "$work"
    [ "$status" != 0 ] || say 'passed'
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    say "FAILED: $*"
    exit 1
}

# quiet runs a command and shows what it said only if it fails.
quiet() {
    "$@" >"$work/out.log" 2>&1 || { tail -n 30 "$work/out.log" >&2; fail "$*"; }
}

compose() {
    if command -v docker-compose >/dev/null; then docker-compose "$@"; else docker compose "$@"; fi
}

# A port of loopback that nobody listens on now.
free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# vmhostctl from outside, through the published port.
ctl() {
    VMHOSTCTL_CONFIG=$work/vmhostctl.yaml VMHOSTCTL_ENDPOINT=127.0.0.1:$VMHOST_API_PORT \
        VMHOSTCTL_CA_FILE=$work/ca.pem VMHOSTCTL_TOKEN_FILE=$work/token bin/vmhostctl "$@"
}

api() {
    local method=$1 path=$2
    shift 2
    curl -sS --fail-with-body --max-time 60 --cacert "$work/ca.pem" -X "$method" \
        -H "Authorization: Bearer $(cat "$work/token")" -H 'Content-Type: application/json' "$@" "https://127.0.0.1:$VMHOST_GATEWAY_PORT$path"
}

# field NAME: the string value of a field of the JSON on standard input.
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; }

# try SECONDS WHAT COMMAND...: until it succeeds.
try() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$work/try.log" 2>&1; do
        [ $SECONDS -lt $deadline ] || { cat "$work/try.log" >&2; fail "waited for $what"; }
        sleep 0.5
    done
}

say 'starting an engine'
engine_start
say 'building binaries and images'
quiet deploy/docker/build.sh
export COMPOSE_PROJECT_NAME="vmhosttest$$" VMHOST_SUBNET VMHOST_API_PORT VMHOST_GATEWAY_PORT
VMHOST_SUBNET=10.$((200 + RANDOM % 50)).$((RANDOM % 256)).0/24
VMHOST_API_PORT=$(free_port)
VMHOST_GATEWAY_PORT=$(free_port)
quiet compose build

say 'starting'
up=1
quiet compose up -d
region=$(compose ps -q region)
quiet docker cp "$region:/var/lib/vmhost/ca.pem" "$work/ca.pem"
quiet docker cp "$region:/var/lib/vmhost/admin.token" "$work/token"
try 90 'the region' ctl zone list
quiet compose exec -T region vmhostctl zone list # as README says
try 60 'the gateway' api GET /v1/zones/default
connected() { ctl rack get rack1 -o json | grep -Eq '"connected": *true'; }
try 60 'the rack to connect' connected

say 'composing a machine through the gateway'
quiet ctl vm-host add f1 fake://f1
ready() { ctl vm-host get f1 -o json | grep -q '"VM_HOST_STATE_READY"'; }
try 60 'the host to be ready' ready
api POST /v1/machines:compose -d '{"hostname":"by-json","cores":2,"memoryMib":"512","start":true}' >"$work/op.json" || fail "compose: $(cat "$work/op.json")"
operation=$(field name <"$work/op.json")
[ -n "$operation" ] || fail "compose answered no operation: $(cat "$work/op.json")"
succeeded() { api GET "/v1/$operation" | grep -q '"OPERATION_PHASE_SUCCEEDED"'; }
try 60 "$operation to succeed" succeeded
machine=$(field target <"$work/op.json")
api GET "/v1/$machine" >"$work/machine.json" || fail "get $machine"
for want in '"hostname": *"by-json"' '"cores": *2' '"MACHINE_PHASE_READY"' '"POWER_STATE_ON"' '"vmHosts/f1"'; do
    grep -Eq "$want" "$work/machine.json" || fail "the machine has no $want: $(cat "$work/machine.json")"
done

say 'composing a machine with vmhostctl'
quiet ctl machine compose by-cli --cores 1 --memory 256MiB
[ "$(ctl machine list -o name | wc -l)" = 2 ] || fail "not two machines: $(ctl machine list)"

say 'unknown fields and strangers are refused'
if api POST /v1/machines:compose -d '{"cores":1,"memoryMib":"128","colour":"red"}' >"$work/refused.json" 2>/dev/null; then fail 'an unknown field was accepted'; fi
grep -q colour "$work/refused.json" || fail "the unknown field is not named: $(cat "$work/refused.json")"
code=$(curl -s -o /dev/null -w '%{http_code}' --cacert "$work/ca.pem" "https://127.0.0.1:$VMHOST_GATEWAY_PORT/v1/machines")
[ "$code" = 401 ] || fail "without a token the answer is $code"

say 'killing all services and starting them again'
quiet compose kill -s KILL
quiet compose up -d
try 90 'the region after a restart' ctl zone list
try 60 'the rack after a restart' connected
try 60 'the host after a restart' ready
[ "$(ctl machine list -o name | wc -l)" = 2 ] || fail "machines were lost: $(ctl machine list)"
passed=1
