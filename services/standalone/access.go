package standalone

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/vmhost-project/vmhost/services/ctl/clictx"
)

const (
	// localRack is the id of the rack in this process.
	localRack = "local"
	// joinTTL is how long the local rack may take to enrol.
	joinTTL = 10 * time.Minute
	// contextName is what vmhostctl calls this vmhost.
	contextName = "standalone"
)

// writeAccess leaves what a client needs: the authority's certificate in the
// data folder, and a context for vmhostctl.
func (s *Standalone) writeAccess() error {
	ca := s.cfg.path("ca.pem")
	if err := os.WriteFile(ca, s.region.CACertPEM(), 0o644); err != nil { //nolint:gosec // a certificate is public
		return fmt.Errorf("write the authority's certificate: %w", err)
	}
	if !s.cfg.CLIContext {
		return nil
	}
	path, err := clictx.DefaultPath(os.Getenv)
	if err != nil {
		return err
	}
	return clictx.WriteContext(path, clictx.Context{
		Name: contextName, Endpoint: loopback(s.region.APIAddr()), CAFile: ca, TokenFile: s.region.AdminTokenFile(),
	}, true)
}

// loopback is how this machine reaches one of its listeners.
func loopback(listening net.Addr) string {
	tcp, ok := listening.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return listening.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}
