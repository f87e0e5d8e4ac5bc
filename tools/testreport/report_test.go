package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// The recordings in testdata are what `go test -json` printed for small packages.
func TestReport(t *testing.T) {
	tests := []struct {
		name     string
		in       string
		ok       bool
		last     string
		contains []string
		lacks    []string
	}{
		{
			name:     "passing packages are one line each, and a table counts its rows",
			in:       "pass",
			ok:       true,
			last:     "3 passed, 0 failed, 0 skipped",
			contains: []string{"ok  \texample.com/rec/good\t", "?   \texample.com/rec/none\t"},
			lacks:    []string{"quiet", "PASS", "Skipped:"},
		},
		{
			name: "failures are shown in full, skips with their reason, passes not at all",
			in:   "mixed",
			last: "3 passed, 2 failed, 3 skipped",
			contains: []string{
				"    m_test.go:6: two is not three\n",
				"--- FAIL: TestOwnFault",
				"FAIL\texample.com/rec/mixed\t",
				"SKIP example.com/rec/mixed TestNoLibvirt: no libvirt at qemu:///system: run make up\n",
				"SKIP example.com/rec/mixed TestSilent: NO REASON GIVEN\n",
				"SKIP example.com/rec/mixed TestHalf/lxd: LXD absent\n",
				"FAIL example.com/rec/mixed TestWrong/right: m_test.go:6: two is not three\n",
			},
			lacks: []string{"must not be shown"},
		},
		{
			name:     "a package that does not build is a failure, with what the compiler said",
			in:       "build",
			last:     "0 passed, 1 failed, 0 skipped",
			contains: []string{"broken/b_test.go:3:28: undefined: undefined\n", "[build failed]"},
		},
		{
			name:     "a failure of TestMain counts although every test passed",
			in:       "testmain",
			last:     "1 passed, 1 failed, 0 skipped",
			contains: []string{"goroutine leaked\n"},
		},
		{
			name:     "a timeout blames the test that was running, with the stacks",
			in:       "timeout",
			last:     "1 passed, 1 failed, 0 skipped",
			contains: []string{"panic: test timed out after 1s\n", "rec/cut.TestHangs"},
			lacks:    []string{"TestFirst"},
		},
		{
			name:     "output that ends early is a failure",
			in:       "truncated",
			last:     "1 passed, 1 failed, 0 skipped",
			contains: []string{"the output ended before the package did"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, err := os.Open("testdata/" + tt.in + ".json")
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			var out bytes.Buffer
			ok, err := run(in, &out)
			if err != nil {
				t.Fatal(err)
			}
			if ok != tt.ok {
				t.Errorf("ok = %v, want %v", ok, tt.ok)
			}
			if !strings.HasSuffix(out.String(), "\n\n"+tt.last+"\n") {
				t.Errorf("the last line is not %q", tt.last)
			}
			for _, want := range tt.contains {
				if !strings.Contains(out.String(), want) {
					t.Errorf("missing %q", want)
				}
			}
			for _, lack := range tt.lacks {
				if strings.Contains(out.String(), lack) {
					t.Errorf("unwanted %q", lack)
				}
			}
			if t.Failed() {
				t.Logf("the report:\n%s", out.String())
			}
		})
	}
}

func TestNothingTestedIsAFailure(t *testing.T) {
	var out bytes.Buffer
	ok, err := run(strings.NewReader("go: no such package\n"), &out)
	if err != nil {
		t.Fatal(err)
	}
	want := "go: no such package\nno package was tested\n\n0 passed, 0 failed, 0 skipped\n"
	if ok || out.String() != want {
		t.Errorf("ok = %v, report:\n%s\nwant:\n%s", ok, out.String(), want)
	}
}
