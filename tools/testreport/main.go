// Command testreport turns the output of `go test -json` into what a person
// wants to read: the package lines of go test, the full output of what failed,
// a line with its reason for every skipped and every failed test, and last of all
//
//	N passed, N failed, N skipped
//
// alone on the line. It exits with 1 if anything failed, if a package never
// finished, or if nothing was tested at all.
//
// Subtests are counted instead of the test that holds them. Whatever fails
// without a test to blame (a build, TestMain, a timeout) counts as one failure
// of its package.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
)

func main() {
	ok, err := run(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) (ok bool, err error) {
	r := newReport(out)
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, fmt.Errorf("read events: %w", err)
		}
	}
	return r.finish(), nil
}
