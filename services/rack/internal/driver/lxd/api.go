package lxd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	lxdclient "github.com/canonical/lxd/client"
	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/gorilla/websocket"
)

// api is what this package needs of an LXD server: requests, bodies that are no
// JSON, and websockets. Every path starts with /1.0.
type api interface {
	query(ctx context.Context, method, path string, body any, etag string) (*lxdapi.Response, string, error)
	stream(ctx context.Context, path string) (io.ReadCloser, error)
	websocket(ctx context.Context, path string) (*websocket.Conn, error)
}

const userAgent = "vmhost-rack"

// client is the api over a connection.
type client struct {
	http *http.Client
	conn *conn
}

// query sends one request. LXD's client keeps one context for all it does and
// wraps operations in a websocket each; its raw requests do neither, and a
// client over a transport that is there already costs nothing, so that every
// call gets one of its own.
func (c *client) query(ctx context.Context, method, path string, body any, etag string) (*lxdapi.Response, string, error) {
	server, err := lxdclient.ConnectLXDHTTPWithContext(ctx, &lxdclient.ConnectionArgs{UserAgent: userAgent, SkipGetServer: true}, c.http)
	if err != nil {
		return nil, "", err
	}
	return server.RawQuery(method, path, body, etag)
}

// base is what LXD's client calls a server that is reached by our own transport.
const base = "https://custom.socket"

func (c *client) stream(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, answered(resp)
}

func (c *client) websocket(ctx context.Context, path string) (*websocket.Conn, error) {
	raw, err := c.conn.dial(ctx)
	if err != nil {
		return nil, err
	}
	dialer := websocket.Dialer{NetDialTLSContext: raw.dialed, HandshakeTimeout: c.conn.dialTimeout}
	// The library looks at the deadline of a context only, and not at its end.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	ws, resp, err := dialer.DialContext(ctx, "wss"+base[len("https"):]+path, http.Header{"User-Agent": {userAgent}})
	if resp != nil && resp.Body != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err == nil && stop() {
		return ws, nil
	}
	stop()
	_ = raw.Close()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, websocket.ErrBadHandshake) && resp != nil {
		return nil, answered(resp)
	}
	return nil, err
}

// answered is the error in an answer that is one.
func answered(resp *http.Response) error {
	var r lxdapi.Response
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&r); err != nil || r.Error == "" {
		return lxdapi.NewStatusError(resp.StatusCode, resp.Status)
	}
	return lxdapi.NewStatusError(resp.StatusCode, r.Error)
}

// get reads one object or list.
func get[T any](ctx context.Context, c *conn, op, path string) (T, error) {
	out, _, err := getTagged[T](ctx, c, op, path)
	return out, err
}

// getTagged is get with the object's ETag.
func getTagged[T any](ctx context.Context, c *conn, op, path string) (T, string, error) {
	var out T
	resp, etag, err := c.query(ctx, op, http.MethodGet, path, nil, "")
	if err != nil {
		return out, "", err
	}
	if err := json.Unmarshal(resp.Metadata, &out); err != nil {
		return out, "", classify(op, lxdapi.NewStatusError(http.StatusInternalServerError, fmt.Sprintf("LXD's answer cannot be read: %v", err)))
	}
	return out, etag, nil
}
