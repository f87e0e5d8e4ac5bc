// Package component tests several real parts of vmhost in one process: regions
// and racks as they run, a real etcd, fake hypervisors. What each proves is in
// its name; the promises are those of docs/architecture.md.
package component
