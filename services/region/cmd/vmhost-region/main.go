// Command vmhost-region is the service that holds all state of vmhost and
// decides.
//
//	vmhost-region                  serve
//	vmhost-region init             make the deployment, and files for other services
//	vmhost-region token create     make an API token
//	vmhost-region config print     show the effective configuration
//	vmhost-region version          show the version
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmhost-project/vmhost/services/region"
)

func main() {
	region.TuneMemory(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmhost-region:", err)
		os.Exit(1)
	}
}
