package child

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/vmhost-project/vmhost/tests/bench/internal/process"
)

// RoleEtcd is an etcd member that listens on loopback and syncs every write.
const RoleEtcd = "etcd"

// EtcdConfig says where an etcd has its state.
type EtcdConfig struct{ Dir string }

// EtcdUp is where it answers.
type EtcdUp struct{ Endpoint string }

func runEtcd(ctx context.Context, config []byte, _ *http.ServeMux) (any, func(), error) {
	var c EtcdConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	etcd, err := process.StartEtcd(ctx, c.Dir)
	if err != nil {
		return nil, nil, err
	}
	return EtcdUp{Endpoint: etcd.Wire.Endpoints()[0]}, etcd.Close, nil
}
