package main

import (
	"flag"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/config/configtest"
	"github.com/vmhost-project/vmhost/services/standalone"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestTheDefaultsAreDescribed(t *testing.T) {
	cfg := standalone.Default()
	configtest.Reference(t, "services/standalone/cmd/vmhost", "vmhost", "VMHOST", &cfg, *update)
}
