#!/usr/bin/env bash
# Makes the binaries that the images are made of, into bin/: static, so that an
# image needs nothing else. etcd is built from its Go module at the version that
# the services are tested with; nothing is pulled from a registry of images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
make build
export CGO_ENABLED=0 GOWORK=off
go -C tools/etcd build -trimpath -ldflags '-s -w' -o "$PWD/bin/etcd" go.etcd.io/etcd/server/v3
go -C tools/etcd build -trimpath -ldflags '-s -w' -o "$PWD/bin/etcdctl" go.etcd.io/etcd/etcdctl/v3
go -C tools/composekit build -trimpath -ldflags '-s -w' -o "$PWD/bin/composekit" .
