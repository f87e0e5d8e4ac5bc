// Package child runs parts of vmhost, and the floors they are held against, as
// processes of their own: this program, started again with a role. What a part
// takes of memory and processor is then its own, and can be told.
//
// A child reads its configuration from the first line of its standard input,
// prints one line of JSON when it is up, and ends when its input does, so that it
// never outlives who started it. On loopback it answers /memory, its role's own
// questions, and pprof.
package child
