package child

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmhost-project/vmhost/services/region"
)

// RoleRegion is a region as `vmhost-region` runs it.
const RoleRegion = "region"

// RegionConfig says where a region has its state and its files.
type RegionConfig struct {
	Etcd, Dir string
	// Patient does not give up racks that are not there.
	Patient bool
}

// RegionUp is where a region answers, and how it is known.
type RegionUp struct{ API, Racks, Token, CA string }

func runRegion(ctx context.Context, config []byte, questions *http.ServeMux) (any, func(), error) {
	var c RegionConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	region.TuneMemory(os.Getenv)
	cfg := region.Default()
	cfg.APIListen, cfg.RackListen, cfg.OpsListen = "127.0.0.1:0", "127.0.0.1:0", ""
	cfg.Etcd.Endpoints = []string{"http://" + c.Etcd}
	cfg.SecretKeyFile, cfg.GenerateSecretKey = filepath.Join(c.Dir, "secret.key"), true
	cfg.AdminTokenFile = filepath.Join(c.Dir, "admin.token")
	cfg.DrainTimeout = time.Second
	if c.Patient {
		cfg.RackGrace = 24 * time.Hour
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	r, err := region.NewWith(ctx, cfg, region.Deps{Log: log})
	if err != nil {
		return nil, nil, err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.Run(running); err != nil {
			log.ErrorContext(ctx, "the region ended", "error", err)
		}
	}()
	questions.HandleFunc("/join", func(w http.ResponseWriter, req *http.Request) {
		token, err := r.JoinToken(req.Context(), req.FormValue("rack"), "", time.Hour)
		answer(w, token, err)
	})
	token, err := os.ReadFile(cfg.AdminTokenFile)
	if err != nil {
		cancel()
		<-ended
		return nil, nil, fmt.Errorf("read the administrator's token: %w", err)
	}
	up := RegionUp{API: r.APIAddr().String(), Racks: r.RackAddr().String(), Token: strings.TrimSpace(string(token)), CA: string(r.CACertPEM())}
	return up, func() { cancel(); <-ended }, nil
}
