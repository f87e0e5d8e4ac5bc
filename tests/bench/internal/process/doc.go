// Package process starts what figures are measured against: the built vmhost,
// and a raw etcd. Each has a data folder of its own on a real disk and listens on
// loopback only; Close ends it and waits until it is gone.
package process
