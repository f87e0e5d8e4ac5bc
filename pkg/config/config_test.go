package config_test

import (
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmhost-project/vmhost/pkg/config"
)

type logging struct {
	Level string `yaml:"level" usage:"least level that is logged"`
}

type peer struct {
	Name  string `yaml:"name"`
	Token string `yaml:"token" secret:"true"`
}

type settings struct {
	Log     logging `yaml:"log"`
	Inline  `yaml:",inline"`
	Names   []string          `yaml:"names" usage:"names to serve"`
	Labels  map[string]string `yaml:"labels" usage:"labels to add"`
	Grace   time.Duration     `yaml:"grace" usage:"how long to wait"`
	Retries int8              `yaml:"retries" usage:"how often to try"`
	Ratio   float64           `yaml:"ratio" usage:"a ratio"`
	Debug   bool              `yaml:"debug" usage:"say more"`
	Secret  string            `yaml:"secret" usage:"a password" secret:"true"`
	Peers   []peer            `yaml:"peers" usage:"others"`
	Hook    func()            `yaml:"-"`
}

type Inline struct {
	Listen uint16 `yaml:"listen_port" usage:"where to listen"`
}

func defaults() *settings {
	return &settings{
		Log: logging{Level: "info"}, Inline: Inline{Listen: 80},
		Names: []string{"a"}, Grace: time.Second, Ratio: 1,
	}
}

// options reads from a file with the text and an environment.
func options(file string, env map[string]string, args ...string) config.Options {
	return config.Options{
		Name: "prog", EnvPrefix: "PROG", Args: args,
		Getenv: func(k string) string { return env[k] },
		ReadFile: func(name string) ([]byte, error) {
			if name != "f.yaml" {
				return nil, os.ErrNotExist
			}
			return []byte(file), nil
		},
		Output: io.Discard,
	}
}

func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	file := `
log: {level: file}
listen_port: 1
names: [f, g]
labels: {from: file}
grace: 2m
retries: 1
peers:
  - {name: p, token: t}
`
	env := map[string]string{
		"PROG_LISTEN_PORT": "2", "PROG_NAMES": "e, f", "PROG_LABELS": "from=env,x=y",
		"PROG_RETRIES": "2", "PROG_SECRET": "s3cret", "PROG_RATIO": "",
	}
	got := defaults()
	err := config.Load(got, options(file, env, "--config=f.yaml", "--retries", "3", "-debug", "--grace=3s"))
	if err != nil {
		t.Fatal(err)
	}
	want := &settings{
		Log: logging{Level: "file"}, Inline: Inline{Listen: 2},
		Names: []string{"e", "f"}, Labels: map[string]string{"from": "env", "x": "y"},
		Grace: 3 * time.Second, Retries: 3, Ratio: 1, Debug: true, Secret: "s3cret",
		Peers: []peer{{Name: "p", Token: "t"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestTheFileMayBeNamedInTheEnvironment(t *testing.T) {
	got := defaults()
	if err := config.Load(got, options("ratio: 2", map[string]string{"PROG_CONFIG": "f.yaml"})); err != nil {
		t.Fatal(err)
	}
	if got.Ratio != 2 {
		t.Errorf("ratio = %v, want the file's 2", got.Ratio)
	}
}

func TestFaultsNameWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		env        map[string]string
		args       []string
		want       string
	}{
		{name: "unknown key", file: "nomes: [a]", want: "line 1: unknown key nomes"},
		{name: "unknown nested key", file: "log:\n  lovel: x", want: "line 2: unknown key log.lovel"},
		{name: "unknown key in a list", file: "peers: [{nome: x}]", want: "unknown key peers.0.nome"},
		{name: "both of two unknown keys", file: "x: 1\ny: 2", want: "unknown key x\nline 2: unknown key y"},
		{name: "value for a tree", file: "log: debug", want: "log has keys of its own, such as level"},
		{name: "duplicate key", file: "ratio: 1\nratio: 2", want: "already defined"},
		{name: "wrong type", file: "ratio: many", want: "line 1: cannot unmarshal"},
		{name: "two documents", file: "ratio: 1\n---\nratio: 2", want: "more than one"},
		{name: "not YAML", file: "a: [", want: "yaml"},
		{name: "out of range", env: map[string]string{"PROG_RETRIES": "128"}, want: `PROG_RETRIES: "128" is not a valid int8: value out of range`},
		{name: "bad duration", env: map[string]string{"PROG_GRACE": "5"}, want: `"5" is not a duration`},
		{name: "bad map", args: []string{"--labels=x"}, want: `flag --labels: "x" is not key=value`},
		{name: "bad bool", args: []string{"--debug=maybe"}, want: `flag --debug: "maybe" is not a valid bool`},
		{name: "unknown flag", args: []string{"--nomes=a"}, want: "nomes"},
		{name: "secret as a flag", args: []string{"--secret=a"}, want: "secret"},
		{name: "argument", args: []string{"serve"}, want: `unexpected argument "serve"`},
		{name: "no such file", args: []string{"--config=g.yaml"}, want: "read configuration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if tt.file != "" {
				args = append(args, "--config=f.yaml")
			}
			err := config.Load(defaults(), options(tt.file, tt.env, args...))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load = %v, want it to contain %q", err, tt.want)
			}
		})
	}
}

func TestFaultsShowNoSecret(t *testing.T) {
	type secretive struct {
		PIN int `yaml:"pin" usage:"a number" secret:"true"`
	}
	for _, o := range []config.Options{
		options("pin: hunt`er2", nil, "--config=f.yaml"),
		options("", map[string]string{"PROG_PIN": "hunt`er2"}),
	} {
		err := config.Load(&secretive{}, o)
		if err == nil || strings.Contains(err.Error(), "er2") || strings.Contains(err.Error(), "hunt") {
			t.Errorf("Load = %v, want an error without the value", err)
		}
	}
}

func TestAnEmptyFileChangesNothing(t *testing.T) {
	for _, file := range []string{"", "# nothing\n", "---\n", "log:\n"} {
		got := defaults()
		if err := config.Load(got, options(file, nil, "--config=f.yaml")); err != nil {
			t.Fatalf("%q: %v", file, err)
		}
		if diff := cmp.Diff(defaults(), got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", file, diff)
		}
	}
}

type checked struct {
	Size int `yaml:"size" usage:"a size"`
}

func (c *checked) Validate() error {
	if c.Size > 3 {
		return errors.New("size is too large")
	}
	return nil
}

func TestLoadAsksTheConfigurationWhetherItIsValid(t *testing.T) {
	err := config.Load(&checked{}, options("", nil, "--size=4"))
	if err == nil || !strings.Contains(err.Error(), "size is too large") {
		t.Errorf("Load = %v", err)
	}
}

func TestAStructNobodyCouldConfigureIsRefused(t *testing.T) {
	for name, dst := range map[string]any{
		"no pointer": struct{}{},
		"no tag":     &struct{ A string }{},
		"no usage": &struct {
			A string `yaml:"a"`
		}{},
		"same flag twice": &struct {
			A string `yaml:"a_b" usage:"x"`
			B struct {
				B string `yaml:"b" usage:"x"`
			} `yaml:"a"`
		}{},
		"a flag of our own": &struct {
			A string `yaml:"config" usage:"x"`
		}{},
	} {
		if err := config.Load(dst, options("", nil)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHelpIsNoConfiguration(t *testing.T) {
	if err := config.Load(defaults(), options("", nil, "--help")); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("Load = %v, want %v", err, flag.ErrHelp)
	}
}
