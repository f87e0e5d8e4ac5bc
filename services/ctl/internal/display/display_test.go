package display_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func TestCleanWritesOutWhatATerminalWouldObey(t *testing.T) {
	for in, want := range map[string]string{
		"plain web-1 ü 機械": "plain web-1 ü 機械",
		"\x1b[31mred":      `\x1b[31mred`,
		"a\nb\tc\rd\x00":   `a\nb\tc\rd\x00`,
		"\u009b31m":        `\x9b31m`,
		"abc\u202edef":     `abc\u{202e}def`,
		"bad\xff\xfebytes": `bad\xff\xfebytes`,
		"\uFFFD":           "\uFFFD",
		"\u2028":           `\u{2028}`,
		"":                 "",
	} {
		if got := display.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestWhatIsCleanIsPrintableAndStaysAsItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		got := display.Clean(in)
		if !utf8.ValidString(got) {
			t.Fatalf("Clean(%q) = %q is no UTF-8", in, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) && r != utf8.RuneError }); i >= 0 {
			t.Fatalf("Clean(%q) = %q is not printable at %d", in, got, i)
		}
		if again := display.Clean(got); again != got {
			t.Fatalf("Clean changes what is clean: %q, then %q", got, again)
		}
	})
}

func TestSizesAreForPeople(t *testing.T) {
	for in, want := range map[int64]string{0: "0B", 20e9: "20GB", 40 << 30: "40GiB", 123456789012: "123GB", 1234567890123: "1.23TB", 10001: "10001B", 9_999_999_999_999: "10TB"} {
		if got := display.Bytes(in); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[int64]string{512: "512MiB", 2048: "2GiB", 15907: "15.5GiB", 1 << 20: "1TiB", 1: "1MiB"} {
		if got := display.MiB(in); got != want {
			t.Errorf("MiB(%d) = %s, want %s", in, got, want)
		}
	}
}

func TestSpansAreShort(t *testing.T) {
	for in, want := range map[time.Duration]string{
		-time.Second: "0.0s", 1500 * time.Millisecond: "1.5s", 59 * time.Second: "59s", 150 * time.Second: "2m30s",
		time.Hour: "60m", 30 * time.Hour: "30h", 100 * time.Hour: "4d",
	} {
		if got := display.Span(in); got != want {
			t.Errorf("Span(%v) = %s, want %s", in, got, want)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got := display.Time(now, timestamppb.New(now.Add(5*time.Minute))); !strings.HasSuffix(got, "(in 5m00s)") {
		t.Errorf("a time to come is %q", got)
	}
	if got := display.Time(now, nil); got != "" {
		t.Errorf("no time is %q", got)
	}
}

func TestWordsOfEnums(t *testing.T) {
	if got := display.Word(vmhostv1.PowerState_POWER_STATE_ON, "POWER_STATE_"); got != "ON" {
		t.Error(got)
	}
	if got := display.Word(vmhostv1.PowerState_POWER_STATE_UNSPECIFIED, "POWER_STATE_"); got != "UNKNOWN" {
		t.Error(got)
	}
}

func TestATableAlignsWideAndPaintedCells(t *testing.T) {
	type row struct{ name, state string }
	columns := []display.Column[row]{
		{Head: "NAME", Cell: func(r row) string { return r.name }},
		{Head: "STATE", State: true, Cell: func(r row) string { return r.state }},
		{Head: "N", Right: true, Cell: func(r row) string { return "" }},
		{Head: "MORE", Wide: true, Cell: func(row) string { return "more" }},
	}
	rows := []row{{"機械", "READY"}, {"a", "FAILED"}, {"\x1b[1m", "odd"}}
	var out bytes.Buffer
	if err := display.Table(&out, rows, columns, display.TableOptions{Palette: display.Palette{On: true}}); err != nil {
		t.Fatal(err)
	}
	want := "NAME     STATE   N\n" +
		"機械     \x1b[32mREADY\x1b[0m   -\n" +
		"a        \x1b[31mFAILED\x1b[0m  -\n" +
		`\x1b[1m  odd     -` + "\n"
	if out.String() != want {
		t.Errorf("got:\n%q\nwant:\n%q", out.String(), want)
	}
}

func TestJSONAndYAMLDoNoHarmToATerminalAndStayExact(t *testing.T) {
	const evil = "a\x1b[31m\u009b31m\x7f\n\u202eü機械\U000e0001"
	m := &vmhostv1.Machine{Hostname: evil}
	for name, write := range map[string]func(io.Writer, proto.Message) error{"json": display.JSON, "line": display.JSONLine, "yaml": display.YAML} {
		var out bytes.Buffer
		if err := write(&out, m); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if unicode.IsControl(r) && r != '\n' || name != "yaml" && unicode.Is(unicode.Cf, r) && r < 0x10000 {
				t.Errorf("%s has %U in it", name, r)
			}
		}
		data, err := yaml.YAMLToJSON(out.Bytes()) // JSON is YAML
		if err != nil {
			t.Fatal(err)
		}
		back := &vmhostv1.Machine{}
		if err := protojson.Unmarshal(data, back); err != nil {
			t.Fatal(err)
		}
		if back.GetHostname() != evil {
			t.Errorf("%s: %q came back as %q", name, evil, back.GetHostname())
		}
	}
}

func TestYAMLSaysWhatJSONSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &vmhostv1.RebalanceResponse{
			ImbalanceBefore: rapid.Float64Range(-1e22, 1e22).Draw(t, "before"), ImbalanceAfter: rapid.SampledFrom([]float64{0, 1, 1e-7, 1e6, 1e21, math.Inf(1)}).Draw(t, "after"),
			Considered: rapid.Int32().Draw(t, "considered"),
			Moves: []*vmhostv1.RebalanceMove{{Why: rapid.OneOf(
				rapid.SampledFrom([]string{"", "yes", "1", "1e3", "0x1F", "null", "~", "2026-01-01", "a: b", "- a", "#", "a\nb\n"}), rapid.String(),
			).Draw(t, "why")}},
		}
		var plain, out bytes.Buffer
		if err := errors.Join(display.JSON(&plain, m), display.YAML(&out, m)); err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := errors.Join(yaml.Unmarshal(plain.Bytes(), &want), yaml.Unmarshal(out.Bytes(), &got)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("yaml differs from json (-json +yaml):\n%s\n%s", diff, out.String())
		}
		if whole := fmt.Sprintf("\nconsidered: %d\n", m.GetConsidered()); !strings.Contains("\n"+out.String(), whole) {
			t.Fatalf("no %q in\n%s", whole, out.String())
		}
	})
}

func TestSentencesOfATableStayInTheirColumn(t *testing.T) {
	type row struct{ host, why, do string }
	columns := []display.Column[row]{
		{Head: "HOST", Cell: func(r row) string { return r.host }},
		{Head: "WHY", Text: true, Cell: func(r row) string { return r.why }},
		{Head: "TO DO", Text: true, Cell: func(r row) string { return r.do }},
	}
	rows := []row{
		{"h1", "has 64 cores in all, less than the 65 asked for", "ask for less"},
		{"h2", "", ""},
		{"h3", "機械機械機械機械機械機械機械機械", "ask for less"},
	}
	for _, c := range []struct {
		name    string
		options display.TableOptions
		want    string
	}{
		{"without a terminal", display.TableOptions{}, `
HOST  WHY                                              TO DO
h1    has 64 cores in all, less than the 65 asked for  ask for less
h2    -                                                -
h3    機械機械機械機械機械機械機械機械                 ask for less
`},
		{"where they fit", display.TableOptions{Width: 67}, `
HOST  WHY                                              TO DO
h1    has 64 cores in all, less than the 65 asked for  ask for less
h2    -                                                -
h3    機械機械機械機械機械機械機械機械                 ask for less
`},
		{"where they do not", display.TableOptions{Width: 46, Indent: 2}, `
  HOST  WHY                       TO DO
  h1    has 64 cores in all,      ask for less
        less than the 65 asked
        for
  h2    -                         -
  h3    機械機械機械機械機械機械  ask for less
        機械機械
`},
		{"where there is too little to share", display.TableOptions{Width: 39}, `
HOST  WHY                                              TO DO
h1    has 64 cores in all, less than the 65 asked for  ask for less
h2    -                                                -
h3    機械機械機械機械機械機械機械機械                 ask for less
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := display.Table(&out, rows, columns, c.options); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + out.String(); got != c.want {
				t.Errorf("got:%s\nwant:%s", got, c.want)
			}
		})
	}
}

func TestATableIsNeverWiderThanItsTerminalWhereSentencesCanGiveWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,30}`), 0, 12)
		sentence := rapid.Map(words, func(w []string) string { return strings.Join(w, " ") })
		rows := rapid.SliceOfN(rapid.SliceOfN(sentence, 3, 3), 1, 4).Draw(t, "rows")
		width := rapid.IntRange(80, 200).Draw(t, "width")
		var columns []display.Column[[]string]
		for i := range 3 {
			columns = append(columns, display.Column[[]string]{Head: "C", Text: true, Cell: func(r []string) string { return r[i] }})
		}
		var out bytes.Buffer
		if err := display.Table(&out, rows, columns, display.TableOptions{Width: width}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len(strings.TrimSuffix(line, "\n")); n > width {
				t.Fatalf("%d columns, of %d: %s", n, width, line)
			}
		}
		for _, r := range rows {
			for _, word := range strings.Fields(strings.Join(r, " ")) {
				if len(word) < 20 && !strings.Contains(out.String(), word) {
					t.Fatalf("%q is not in\n%s", word, out.String())
				}
			}
		}
	})
}

func TestJSONIsTheSameEveryTime(t *testing.T) {
	m := &vmhostv1.ListMachinesResponse{Machines: []*vmhostv1.Machine{{Name: "machines/x", MemoryMib: 5}}}
	var first string
	for range 50 {
		var out bytes.Buffer
		if err := display.JSON(&out, m); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = out.String()
		}
		if out.String() != first {
			t.Fatalf("differs:\n%s\n%s", first, out.String())
		}
	}
	if !strings.Contains(first, `"memoryMib": "5"`) || !strings.Contains(first, `"nextPageToken": ""`) {
		t.Errorf("got %s", first)
	}
}
