// Package e2e runs the built binaries against real libvirt and LXD hosts: what a user
// types, over the CLI, JSON and gRPC, seen from the hypervisor's side by virsh and lxc.
//
// The hosts are those of deploy/devhosts, named by DEVHOSTS_ variables (make
// test brings them up). Host h1 is left to the driver's own tests; here h2 and
// h3 are used, each by one test at a time. Of the LXD servers, lxd3 is of these
// tests alone, because what others have on a server counts; each test has a
// project of its own there, and in the cluster.
package e2e
