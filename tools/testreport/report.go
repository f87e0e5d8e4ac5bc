package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	FailedBuild string
}

type test struct {
	result string // pass, fail, skip; empty while it runs
	parent bool   // it has subtests, and they are counted
	output []string
}

// pkg is a package that is being tested. Output is kept in the order in which
// it came, so that a failure reads as it does in plain go test.
type pkg struct {
	tests  map[string]*test
	order  []string
	output []outputLine
	done   bool
}

type outputLine struct{ test, text string }

type report struct {
	out     io.Writer
	pkgs    map[string]*pkg
	builds  map[string][]string
	skips   []string
	fails   []string
	passed  int
	failed  int
	skipped int
}

func newReport(out io.Writer) *report {
	return &report{out: out, pkgs: map[string]*pkg{}, builds: map[string][]string{}}
}

func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		fmt.Fprint(r.out, string(line)) // not ours: a tool in between has something to say
		return
	}
	switch e.Action {
	case "build-output":
		r.builds[e.ImportPath] = append(r.builds[e.ImportPath], e.Output)
		return
	case "build-fail":
		return // the package says so too, in FailedBuild
	}
	p := r.pkgs[e.Package]
	if p == nil {
		p = &pkg{tests: map[string]*test{}}
		r.pkgs[e.Package] = p
	}
	if e.Action == "output" {
		p.output = append(p.output, outputLine{e.Test, e.Output})
	}
	if e.Test != "" {
		p.event(e)
		return
	}
	switch e.Action {
	case "pass", "fail", "skip":
		r.end(e.Package, p, e.Action == "fail", e.FailedBuild)
	}
}

func (p *pkg) event(e event) {
	t := p.tests[e.Test]
	if t == nil {
		t = &test{}
		p.tests[e.Test] = t
		p.order = append(p.order, e.Test)
		for name := e.Test; strings.Contains(name, "/"); {
			name = name[:strings.LastIndex(name, "/")]
			if up := p.tests[name]; up != nil {
				up.parent = true
				break
			}
		}
	}
	switch e.Action {
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "fail", "skip":
		t.result = e.Action
	}
}

// end counts and prints a package, and forgets its output.
func (r *report) end(name string, p *pkg, failed bool, failedBuild string) {
	blamed := false
	for _, path := range p.order {
		t := p.tests[path]
		if t.result == "" {
			t.result = "fail" // cut off by a panic or a timeout
		}
		switch {
		case t.result == "fail" && !(t.parent && p.failedBelow(path)):
			r.failed++
			blamed = true
			r.fails = append(r.fails, fmt.Sprintf("FAIL %s %s: %s", name, path, said(t.output)))
		case t.result == "skip" && !t.parent:
			r.skipped++
			r.skips = append(r.skips, fmt.Sprintf("SKIP %s %s: %s", name, path, reason(t.output)))
		case t.result == "pass" && !t.parent:
			r.passed++
		}
	}
	if failed && !blamed {
		r.failed++
	}
	for _, text := range r.builds[failedBuild] {
		fmt.Fprint(r.out, text)
	}
	for _, line := range p.output {
		if r.wanted(p, line, failed) {
			fmt.Fprint(r.out, line.text)
		}
	}
	p.output, p.done = nil, true
	for _, t := range p.tests {
		t.output = nil
	}
}

func (r *report) wanted(p *pkg, line outputLine, failed bool) bool {
	if line.test != "" {
		return p.tests[line.test].result == "fail"
	}
	return failed || strings.HasPrefix(line.text, "ok  ") || strings.HasPrefix(line.text, "?   ")
}

func (p *pkg) failedBelow(path string) bool {
	return slices.ContainsFunc(p.order, func(name string) bool {
		return strings.HasPrefix(name, path+"/") && p.tests[name].result != "pass" && p.tests[name].result != "skip"
	})
}

// finish prints what is known only at the end, and says whether all is well.
func (r *report) finish() bool {
	for _, name := range slices.Sorted(maps.Keys(r.pkgs)) {
		if p := r.pkgs[name]; !p.done {
			r.end(name, p, true, "")
			fmt.Fprintf(r.out, "FAIL\t%s\tthe output ended before the package did\n", name)
		}
	}
	if len(r.pkgs) == 0 {
		fmt.Fprintln(r.out, "no package was tested")
	}
	slices.Sort(r.skips)
	if len(r.skips) > 0 {
		fmt.Fprintf(r.out, "\nSkipped:\n%s\n", strings.Join(r.skips, "\n"))
	}
	slices.Sort(r.fails)
	if len(r.fails) > 0 {
		fmt.Fprintf(r.out, "\nFailed:\n%s\n", strings.Join(r.fails, "\n"))
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return r.failed == 0 && len(r.pkgs) > 0
}

// reason is what the test gave to t.Skip, which go test prints as
// "    file_test.go:12: reason" between lines of its own.
func reason(output []string) string {
	var said []string
	for _, text := range output {
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") {
			continue
		}
		if _, rest, found := strings.Cut(text, ".go:"); found {
			if _, msg, found := strings.Cut(rest, ": "); found {
				text = msg
			}
		}
		said = append(said, text)
	}
	if len(said) == 0 {
		return "NO REASON GIVEN"
	}
	return strings.Join(said, " ")
}

// What is said of a failure at the end: after its first lines come logs, and who sees
// only the end of a report sees nothing but those.
const (
	saidLines  = 5
	saidLength = 300
)

// said are the first lines that the test gave to t.Error and the like.
func said(output []string) string {
	var out []string
	for _, text := range output {
		text = strings.TrimSpace(text)
		if file, _, found := strings.Cut(text, ".go:"); !found || strings.ContainsAny(file, " {") {
			continue
		}
		if len(text) > saidLength {
			text = strings.ToValidUTF8(text[:saidLength], "") + "…"
		}
		if out = append(out, text); len(out) == saidLines {
			break
		}
	}
	if len(out) == 0 {
		return "see above"
	}
	return strings.Join(out, "; ")
}
