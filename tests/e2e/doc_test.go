// Package e2e runs the built binaries against real libvirt hosts: what a user
// types, over the CLI, JSON and gRPC, seen from the hypervisor's side by virsh.
//
// The hosts are those of deploy/devhosts, named by DEVHOSTS_ variables (make
// test brings them up). Host h1 is left to the driver's own tests; here h2 and
// h3 are used, each by one test at a time.
package e2e
