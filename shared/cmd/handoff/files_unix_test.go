//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// I12: what decides what is signed, or for whom, is read as the servers read it: not
// where others can write it, and not without end.
func TestI12FilesOfIssue(t *testing.T) {
	key, dir := newKeyFile(t), t.TempDir()
	open := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	anybodys := open("anybodys", "{}", 0o666)
	const method = "/handoff.server2.v1.InvoiceService/PayInvoice"
	long := open("long.json", strings.Repeat(" ", maxRequest+1), 0o644)
	descriptors, err := descriptorsOf(server2v1.File_handoff_server2_v1_invoice_service_proto)
	if err != nil {
		t.Fatal(err)
	}
	billing := open("billing.binpb", string(descriptors), 0o644)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"descriptors of anybody's":   {[]string{"--descriptors", anybodys}, "--descriptors: " + anybodys + ": others can write it"},
		"descriptors without end":    {[]string{"--descriptors", "/dev/zero"}, "--descriptors: /dev/zero: not a regular file"},
		"rules of anybody's":         {[]string{"--descriptors", billing, "--rules", anybodys}, "--rules: " + anybodys + ": others can write it"},
		"rules without end":          {[]string{"--descriptors", billing, "--rules", "/dev/zero"}, "--rules: /dev/zero: not a regular file"},
		"a certificate of anybody's": {[]string{"--certificate", anybodys}, "--certificate: " + anybodys + ": others can write it"},
		"a certificate without end":  {[]string{"--certificate", "/dev/zero"}, "--certificate: /dev/zero: not a regular file"},
		"a long request":             {[]string{"--descriptors", billing, "--request", long}, "--request: longer than"},
		"a request without end":      {[]string{"--descriptors", billing, "--request", "/dev/zero"}, "--request: longer than"},
	} {
		args := append([]string{"issue", "--key", key, "--issuer", "i", "--audience", "a", "--subject", "s", "--method", method}, c.args...)
		if status, out, said := invoke(t, "{}", args...); status != exitUsage || out != "" || !strings.Contains(said, c.says) {
			t.Errorf("I12: %s: status %d, %q, %q; want %q", name, status, out, said, c.says)
		}
	}
}

// I12: what root writes in another user's folder of keys is that user's.
func TestI12RootPreparesForAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	const user = 10001
	o := newOperator(t)
	if err := errors.Join(os.Mkdir(string(o.dir), 0o700), os.Chown(string(o.dir), user, user)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		o.do("prepare")
	}
	files, err := os.ReadDir(string(o.dir))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if of := info.Sys().(*syscall.Stat_t); of.Uid != user {
			t.Errorf("%s belongs to user %d", f.Name(), of.Uid)
		}
	}
}
