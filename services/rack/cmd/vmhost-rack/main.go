// Command vmhost-rack is the agent near hypervisors.
//
//	vmhost-rack                    serve
//	vmhost-rack enroll TOKEN       get an identity with a one-time token
//	vmhost-rack config print       show the effective configuration
//	vmhost-rack version            show the version
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmhost-rack:", err)
		os.Exit(1)
	}
}
