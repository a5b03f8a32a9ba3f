package commandline

import (
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

type line struct {
	Version kong.VersionFlag `help:"Show the version."`
	Serve   struct {
		Address string        `default:"127.0.0.1:1"`
		Wait    time.Duration `default:"5s"`
		Loud    bool
	} `cmd:"" default:"withargs"`
	Keys struct {
		Retire struct {
			Kid  string `arg:""`
			Lost string
			Loud bool
		} `cmd:""`
	} `cmd:""`
}

func parse(t *testing.T, args, env []string) (l line, chosen *kong.Node, out string, err error) {
	t.Helper()
	var text strings.Builder
	p := Program{Name: "prog", Prefix: "PROG_"}
	chosen, err = p.Parse(&l, args, env, &Output{To: &text})
	return l, chosen, text.String(), p.Blame(err, args, env)
}

// I13: only what is this program's is judged. Variables that Kubernetes makes for a
// Service of the program's name are not; the same names with a setting's value are.
func TestI13Variables(t *testing.T) {
	for _, c := range []struct {
		variable string
		refused  bool
	}{
		{"PROG_ADDRESS=127.0.0.1:2", false},
		{"PROG_ADRESS=127.0.0.1:2", true},
		{"PROG_WAIT=soon", true},
		{"PROG_WAIT=", false},
		{"PROG_ANYTHING=", false},
		{"PROG_HELP=1", true},
		{"PROG_VERSION=1", true},
		{"PROGRESS=1", false},
		{"OTHER_ADRESS=1", false},
		{"PROG_SERVICE_HOST=10.96.12.7", false},
		{"PROG_SERVICE_HOST=fd00::7", false},
		{"PROG_SERVICE_HOST=db.example", true},
		{"PROG_SERVICE_PORT=8442", false},
		{"PROG_SERVICE_PORT_GRPC_TLS=8442", false},
		{"PROG_PORT=tcp://10.96.12.7:8442", false},
		{"PROG_PORT=8442", true},
		{"PROG_PORT_8442_TCP=tcp://10.96.12.7:8442", false},
		{"PROG_PORT_8442_TCP_PROTO=tcp", false},
		{"PROG_PORT_8442_TCP_PORT=8442", false},
		{"PROG_PORT_8442_TCP_ADDR=10.96.12.7", false},
		{"PROG_PORT_53_UDP_PROTO=udp", false},
		{"PROG_METRICS_SERVICE_HOST=10.96.12.8", false},
		{"PROG_METRICS_PORT_9100_TCP_ADDR=10.96.12.8", false},
	} {
		_, chosen, _, err := parse(t, nil, []string{"PATH=/bin", c.variable})
		name, _, _ := strings.Cut(c.variable, "=")
		switch {
		case c.refused && (err == nil || !strings.Contains(err.Error(), name)):
			t.Errorf("%s: %v", c.variable, err)
		case !c.refused && (err != nil || chosen.Name != "serve"):
			t.Errorf("%s: %v, %v", c.variable, chosen, err)
		}
	}
}

// An error names the variables of the settings that it is about, and no others.
func TestBlame(t *testing.T) {
	env := []string{"PROG_ADDRESS=x:2", "PROG_WAIT=1s", "PROG_LOST=x", "PROG_LOUD=", "PROG_HELP=1"}
	for _, c := range []struct{ text, args, want string }{
		{"--address must be y", "", "--address must be y (from $PROG_ADDRESS)"},
		{"--address: no", "", "--address: no (from $PROG_ADDRESS)"},
		{"--address: no", "--address x:2", "--address: no"},
		{"--address: no", "--address=x:2", "--address: no"},
		{"--address: no", "--addresses=x:2", "--address: no (from $PROG_ADDRESS)"},
		{"--loud cannot be given together with --wait and --address", "--loud", "--loud cannot be given together with --wait and --address (--wait from $PROG_WAIT, --address from $PROG_ADDRESS)"},
		{"--wait is for --address, which --wait is not", "--address x", "--wait is for --address, which --wait is not (from $PROG_WAIT)"},
		{"--wait-more must be 1", "", "--wait-more must be 1"},
		{"unknown flag --los, did you mean \"--lost\"?", "", "unknown flag --los, did you mean \"--lost\"?"},
		{"--help and --loud", "", "--help and --loud"},
		{"x--wait", "", "x--wait"},
	} {
		cause := errors.New(c.text)
		err := Program{Prefix: "PROG_"}.Blame(cause, strings.Fields(c.args), env)
		if err.Error() != c.want || !errors.Is(err, cause) {
			t.Errorf("%q, %q: %q, want %q", c.text, c.args, err, c.want)
		}
	}
	if err := (Program{}).Blame(nil, nil, env); err != nil {
		t.Error("nothing is wrong:", err)
	}
}

// A flag wins over a variable, and an empty variable is not set.
func TestWhatWins(t *testing.T) {
	for _, c := range []struct {
		args, env []string
		want      string
	}{
		{nil, nil, "127.0.0.1:1"},
		{nil, []string{"PROG_ADDRESS=x:2"}, "x:2"},
		{nil, []string{"PROG_ADDRESS="}, "127.0.0.1:1"},
		{[]string{"--address=y:3"}, []string{"PROG_ADDRESS=x:2"}, "y:3"},
		{[]string{"serve", "--address", "y:3"}, []string{"PROG_ADDRESS=x:2"}, "y:3"},
	} {
		if l, _, _, err := parse(t, c.args, c.env); err != nil || l.Serve.Address != c.want {
			t.Errorf("%q with %q: %q, %v", c.args, c.env, l.Serve.Address, err)
		}
	}
}

// An id can begin with a dash.
func TestIds(t *testing.T) {
	kid, jti := "-"+strings.Repeat("k", 42), "--"+strings.Repeat("j", 20)
	for _, c := range []struct {
		args      []string
		kid, lost string
	}{
		{[]string{"keys", "retire", kid}, kid, ""},
		{[]string{"keys", "retire", kid, "--loud"}, kid, ""},
		{[]string{"keys", "retire", "--loud", kid}, kid, ""},
		{[]string{"keys", "retire", "--", kid}, kid, ""},
		{[]string{"keys", "retire", "--lost", jti, kid}, kid, jti},
		{[]string{"keys", "retire", "--lost=" + jti, "--", kid}, kid, jti},
		{[]string{"keys", "retire", jti}, jti, ""},
	} {
		l, chosen, _, err := parse(t, c.args, nil)
		if err != nil || chosen.Name != "retire" || l.Keys.Retire.Kid != c.kid || l.Keys.Retire.Lost != c.lost {
			t.Errorf("%q: %+v, %v", c.args, l.Keys.Retire, err)
		}
	}
	for _, args := range [][]string{{"keys", "retire", "-short"}, {"keys", "retire", kid + "k"}, {"keys", "retire", "x", kid}} {
		if _, _, _, err := parse(t, args, nil); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

// A command that there is not is called one; an argument too many is not, and is not
// repeated.
func TestDiscreet(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"keys", "retir"}, `there is no command retir; did you mean "retire"? (prog --help lists all)`},
		{[]string{"frob"}, "there is no command frob: see prog --help"},
		{[]string{"--loud", "frob"}, "there is no command frob: see prog --help"},
		{[]string{"keys", "frob"}, "there is no command frob: see prog --help"},
		{[]string{"serve", "frob"}, "serve: unexpected argument"},
		{[]string{"keys", "retire", "kid", "frob"}, "keys retire: unexpected argument"},
		{[]string{"eyJhbGciOiJFZERTQSJ9"}, "unexpected argument: not the name of a command: see prog --help"},
		{[]string{"--address", "postgres://me:hun", "ter2@h/x"}, "unexpected argument: not the name of a command: see prog --help"},
		{[]string{"serve", "--address", "postgres://me:hun", "ter2@h/x"}, "serve: unexpected argument"},
		{[]string{"keys", "ter2@h/x"}, "unexpected argument: not the name of a command: see prog --help"},
		{[]string{"serve", "--address", "postgres://me:hun", "--ter2@h/x"}, "unknown flag: see prog --help"},
		{[]string{"serve", "--address", "postgres://me:hun", "--ter2@h/x=y"}, "unknown flag: see prog --help"},
		{[]string{"serve", "--adres", "x"}, `unknown flag --adres, did you mean "--address"?`},
		{[]string{"serve", "-x"}, `unknown flag -x, did you mean "-h"?`},
	} {
		if _, _, _, err := parse(t, c.args, nil); err == nil || err.Error() != c.says {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"--help"}, []string{"serve", "keys retire", "--address", "default 127.0.0.1:1, $PROG_ADDRESS"}},
		{[]string{"keys", "retire", "--help"}, []string{"--lost", "$PROG_LOST"}},
		{[]string{"--version"}, []string{"prog ", "go1."}},
	} {
		_, chosen, out, err := parse(t, c.args, []string{"PROG_NONSENSE=1"})
		if chosen != nil || err != nil {
			t.Errorf("%q: %v, %v", c.args, chosen, err)
		}
		for _, part := range c.says {
			if !strings.Contains(out, part) {
				t.Errorf("%q does not say %q:\n%s", c.args, part, out)
			}
		}
		if strings.Contains(out, "$PROG_HELP") || strings.Contains(out, "$PROG_VERSION") {
			t.Errorf("%q names a variable that there is not:\n%s", c.args, out)
		}
	}
}

func TestVersion(t *testing.T) {
	settings := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}
	for want, info := range map[string]debug.BuildInfo{
		"v0.1.0 go1.26":              {GoVersion: "go1.26", Main: debug.Module{Version: "v0.1.0"}, Settings: settings},
		"devel abc (changed) go1.26": {GoVersion: "go1.26", Main: debug.Module{Version: "(devel)"}, Settings: settings},
		"devel go1.26":               {GoVersion: "go1.26"},
	} {
		if got := version(&info); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What could not be written is not forgotten.
func TestOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	out := &Output{To: full}
	if _, err := out.Write([]byte("x")); err == nil || !errors.Is(err, syscall.ENOSPC) || out.Err() != err {
		t.Errorf("wrote: %v, %v", err, out.Err())
	}
	for _, args := range [][]string{{"--help"}, {"keys", "--help"}, {"--version"}} {
		out = &Output{To: full}
		chosen, err := Program{Name: "prog"}.Parse(new(line), args, nil, out)
		if chosen != nil || err != nil || out.Err() == nil {
			t.Errorf("%q: %v, %v, wrote: %v", args, chosen, err, out.Err())
		}
	}
	var text strings.Builder
	out = &Output{To: &text}
	if _, err := out.Write([]byte("x")); err != nil || out.Err() != nil || !slices.Equal([]byte(text.String()), []byte("x")) {
		t.Errorf("wrote: %v, %v", err, out.Err())
	}
}

// A flag with nothing in it is not taken for one that is not given.
func TestNoneEmpty(t *testing.T) {
	for args, want := range map[string]string{
		"serve --address a:1 --wait 1s": "",
		"serve --address=":              "--address is given without a value",
		"keys retire --lost= kid":       "--lost is given without a value",
	} {
		_, _, _, err := parse(t, strings.Fields(args), []string{"PROG_ADDRESS=b:1"})
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s: %v", args, err)
		}
	}
}
