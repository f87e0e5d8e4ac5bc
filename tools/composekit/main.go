// Command composekit is what docker-compose.yml needs and images without a shell
// cannot do otherwise:
//
//	composekit join-token   a join token for the rack, unless it is enrolled
//	composekit probe URL    whether URL answers 200: the health check
//
// It is for trying vmhost in containers. A site makes join tokens with vmhostctl.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// timeout bounds a run. Compose asks again when a probe fails.
const timeout = 30 * time.Second

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	err := run(ctx, os.Args[1:], os.Stdout)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "composekit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch verb, rest := args[0], args[1:]; verb {
		case "join-token":
			return joinToken(ctx, rest, out)
		case "probe":
			return probe(ctx, rest)
		}
	}
	return errors.New("want join-token or probe")
}

func probe(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("probe: want one URL")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what there is, for the log
		return fmt.Errorf("probe: %s: %s", resp.Status, text)
	}
	return nil
}
