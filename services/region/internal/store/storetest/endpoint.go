package storetest

import "testing"

// Endpoint is the URL of the process's etcd, for what makes a client by itself.
// It is not bound to a key space: one test of a process can use it.
func Endpoint(tb testing.TB) string {
	tb.Helper()
	addr, _ := shared.acquire(tb)
	return "http://" + addr
}
