//go:build pins

// Package pins holds the versions of design time in go.mod until code imports
// them: `go mod tidy` looks at every build tag. No build ever sees this file.
// Take out what is imported elsewhere; delete the file when it is empty.
package pins

import (
	_ "buf.build/go/protovalidate"
	_ "github.com/canonical/lxd/client"
	_ "github.com/canonical/lxd/shared/api"
	_ "github.com/coder/websocket"
	_ "github.com/digitalocean/go-libvirt"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/google/uuid"
	_ "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	_ "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	_ "github.com/oklog/ulid/v2"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "go.etcd.io/etcd/client/v3"
	_ "go.etcd.io/etcd/server/v3/embed"
	_ "go.uber.org/goleak"
	_ "go.uber.org/zap"
	_ "golang.org/x/crypto/ssh"
	_ "golang.org/x/sync/errgroup"
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
	_ "libvirt.org/go/libvirtxml"
	_ "pgregory.net/rapid"
	_ "sigs.k8s.io/yaml"

	_ "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)
