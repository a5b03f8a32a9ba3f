package deploy

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Users of the test: one that nothing knows, in the group of the manifests' fsGroup.
const (
	someUser = 54321
	fsGroup  = 65532
)

// inEmptyRoot has a shell start a command in a root that has nothing but what the image
// and the volumes have, and is read-only except for the state; as a user without a name.
const inEmptyRoot = `set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind "$1/state" "$1/state"
mount -o remount,bind,ro "$1"
if (: >"$1/writable") 2>/dev/null; then echo "the root is writable" >&2; exit 99; fi
root=$1; shift
exec chroot --userspec=54321:54321 --groups=65532 "$root" "$@"`

// container is an empty image with its volumes.
type container struct {
	server, root string
	env          []string
	swaps        int
}

// newContainer lays out what the manifest mounts for a server.
func newContainer(t *testing.T, server string, s *scene, more ...string) *container {
	t.Helper()
	c := &container{server: server, root: t.TempDir()}
	for _, folder := range []string{c.root, filepath.Join(c.root, "state"), filepath.Join(c.root, "secrets"), filepath.Join(c.root, "config")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(c.root, "state")
	if err := os.Chown(state, 0, fsGroup); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Chmod(state, 0o2775); err != nil { // as Kubernetes makes it for an fsGroup
		t.Fatal(err)
	}
	image := filepath.Join(c.root, "handoff-"+server)
	if out, err := exec.Command("cp", built(t, server), image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.mount(t, "secrets", s, "tls.crt", "tls.key", "trust.key", "trust.jwks", "ca.pem", "clients.pem")
	c.mount(t, "config", s, "policy.json")
	manifest := read(t, "container", "kubernetes.yaml")
	prefix := "HANDOFF_" + strings.ToUpper(server) + "_"
	for _, line := range regexp.MustCompile(`- \{name: (`+prefix+`\w+), value: "?([^"}]*)"?\}`).FindAllStringSubmatch(manifest, -1) {
		c.env = append(c.env, line[1]+"="+line[2])
	}
	if len(c.env) < 9 {
		t.Fatalf("the manifest sets only %q for %s", c.env, server)
	}
	c.env = append(append(c.env, prefix+"LISTEN=127.0.0.1:0", prefix+"METRICS=127.0.0.1:0"), more...)
	return c
}

// mount puts files into a volume as Kubernetes does: a folder of their own, a link ..data
// to it that is swapped by renaming, and a link to each file behind that.
func (c *container) mount(t *testing.T, volume string, s *scene, files ...string) {
	t.Helper()
	c.swaps++
	at := filepath.Join(c.root, volume)
	fresh := fmt.Sprintf("..%d", c.swaps)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(at, fresh), 0o755))
	for _, name := range files {
		path := filepath.Join(at, fresh, name)
		must(os.WriteFile(path, []byte(read(t, s.folder, name)), 0o440))
		must(os.Chown(path, 0, fsGroup))
		if _, err := os.Lstat(filepath.Join(at, name)); err != nil {
			must(os.Symlink(filepath.Join("..data", name), filepath.Join(at, name)))
		}
	}
	must(os.Symlink(fresh, filepath.Join(at, "..next")))
	must(os.Rename(filepath.Join(at, "..next"), filepath.Join(at, "..data")))
}

// command is one in the container.
func (c *container) command(args ...string) []string {
	return append([]string{"unshare", "--mount", "sh", "-c", inEmptyRoot, "sh", c.root, "/handoff-" + c.server}, args...)
}

// Both servers run in an empty root that is read-only, as a user that nothing knows, with
// the settings of the manifest; and they follow secrets whose links are swapped.
func TestEmptyRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a root")
	}
	if out, err := exec.Command("unshare", "--mount", "mount", "--make-rprivate", "/").CombinedOutput(); err != nil {
		t.Skipf("mounting is not allowed here: %v: %s", err, out)
	}
	s := newScene(t)
	first := newContainer(t, "server1", s)
	one := start(t, first.env, first.command("serve")...)
	until(t, "SERVER1 is ready", first.env, first.command("probe", "--listen="+one.address)...)
	second := newContainer(t, "server2", s, "HANDOFF_SERVER2_TRUST=grpc://"+one.address)
	until(t, "init", second.env, second.command("init", "--if-missing")...)
	two := start(t, second.env, second.command("serve")...)
	until(t, "SERVER2 is ready", second.env, second.command("probe", "--listen="+two.address)...)

	before := serial(t, s, one.address)
	s.authority.Issue(t, filepath.Join(s.folder, "tls"), "127.0.0.1")
	s.write(t, "policy.json", policy+"\n ")
	first.mount(t, "secrets", s, "tls.crt", "tls.key", "trust.key", "trust.jwks", "ca.pem", "clients.pem")
	first.mount(t, "config", s, "policy.json")
	eventually(t, "the swapped certificate is in use", func() bool { return serial(t, s, one.address) != before })
	if err := one.process.Signal(syscall.SIGHUP); err != nil { // else the next handoff would have it read
		t.Fatal(err)
	}
	eventually(t, "the swapped policy is in use", func() bool { return strings.Contains(one.log.String(), "policy loaded again") })
	until(t, "SERVER1 is ready", first.env, first.command("probe", "--listen="+one.address)...)
}

func serial(t *testing.T, s *scene, address string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: s.authority.Pool, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}
