// Package soak runs several regions at once against one etcd, with many clients
// that compose and delete and operators that change ratios, cordon, adopt and
// release meanwhile, and checks two things by different means:
//
//   - the answers: per host, there is an order of all calls, each between its
//     begin and its end, that explains every answer (porcupine);
//   - the records: at every revision of etcd the ledgers are the sum of their
//     machines, and nothing was ever taken past a limit or on a cordoned host.
//
// What is right is computed here a second time, in whole numbers, and shares
// nothing with placement. Everybody pauses after a round; its answers are checked
// then, so that a long run needs no more memory for them than a short one.
//
// `go test` runs the short form; `make soak` the long one.
package soak
