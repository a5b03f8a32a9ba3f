package server1

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// Every mistake stops the start before a port is open, with exit status 2 and
// one line that names the setting.
func TestMistakesInSettings(t *testing.T) {
	s := newTrustedSite(t)
	missing := s.path("missing")
	text := s.write(t, "text", "not what it should be", 0o600)
	policy := func(name, text string) map[string]string {
		return map[string]string{"policy": s.write(t, name+".json", text, 0o600)}
	}
	methods := func(name, methods string) map[string]string {
		return policy(name, `{"audiences": {"`+billing+`": {"target": "localhost:1", "methods": {`+methods+`}}}}`)
	}
	public, err := os.ReadFile(s.path("tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(s.path("shop.key"))
	if err != nil {
		t.Fatal(err)
	}
	trustKey, err := os.ReadFile(s.path("trust.key"))
	if err != nil {
		t.Fatal(err)
	}
	open := s.path("open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	other := s.path("other.db")
	db, err := database.Open(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	err = db.KeepTerms(t.Context(), trust.Terms{
		Issuer: "https://other.example", TokenLifetime: time.Minute, ListLifetime: time.Minute, Skew: time.Second,
	}, time.Now())
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	type change = map[string]string
	trusting := func(more ...string) change { return s.publishing(more...) }
	link := s.path("link.jwt")
	if err := os.Symlink(s.path("nothing"), link); err != nil {
		t.Fatal(err)
	}
	writable := s.write(t, "open.binpb", "", 0o600)
	if err := os.Chmod(writable, 0o622); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change  change // to settings that start; an empty value drops the flag
		setting string // the one that the line names
	}{
		"followers and no trust list":      {change{"follower-network": "192.0.2.0/24"}, "--follower-network: needs --trust-key"},
		"followers without a length":       {trusting("follower-network", "192.0.2.7"), "--follower-network: must be a network"},
		"followers with bits too many":     {trusting("follower-network", "192.0.2.0/24,192.0.2.7/24"), "--follower-network: must be 192.0.2.0/24"},
		"all are followers":                {trusting("follower-network", "::/0"), "--follower-network: must not be all addresses"},
		"no issuer":                        {change{"issuer": ""}, "--issuer"},
		"an issuer with a space":           {change{"issuer": "the shop"}, "--issuer"},
		"an issuer that is no URL":         {change{"issuer": "shop"}, "--issuer"},
		"an issuer over plain http":        {change{"issuer": "http://shop.example"}, "--issuer"},
		"an issuer too long":               {change{"issuer": strings.Repeat("x", 256)}, "--issuer"},
		"no key":                           {change{"key": ""}, "--key"},
		"a key that is missing":            {change{"key": missing}, "--key"},
		"a key that is none":               {change{"key": text}, "--key"},
		"a public key":                     {change{"key": s.write(t, "public", string(public), 0o600)}, "--key"},
		"H11: a key others can read":       {change{"key": s.write(t, "open.key", string(key), 0o644)}, "--key"},
		"no database":                      {change{"database": ""}, "--database"},
		"a database in no folder":          {change{"database": missing + "/x.db"}, "--database"},
		"a database that is none":          {change{"database": s.write(t, "x.db", strings.Repeat("no database. ", 100), 0o600)}, "--database"},
		"H11: a database others can read":  {change{"database": s.write(t, "open.db", "", 0o644)}, "--database"},
		"no certificate":                   {change{"tls-cert": ""}, "--tls-cert"},
		"a certificate that is none":       {change{"tls-cert": text}, "--tls-cert"},
		"no certificate key":               {change{"tls-key": ""}, "--tls-key"},
		"a certificate key missing":        {change{"tls-key": missing}, "--tls-key"},
		"a listener without a port":        {change{"listen": "127.0.0.1"}, "--listen"},
		"metrics off loopback":             {change{"metrics": "0.0.0.0:0"}, "--metrics"},
		"a log level that is none":         {change{"log-level": "loud"}, "--log-level: must be debug, info, warn or error"},
		"a lifetime that is none":          {change{"lifetime": "soon"}, "--lifetime"},
		"a lifetime of nothing":            {change{"lifetime": "0s"}, "--lifetime"},
		"a lifetime with a fraction":       {change{"lifetime": "1500ms"}, "--lifetime"},
		"a lifetime above its maximum":     {change{"lifetime": "61s", "max-lifetime": "60s"}, "--lifetime"},
		"a maximum above the cap":          {change{"max-lifetime": "301s"}, "--max-lifetime"},
		"a negative maximum":               {change{"max-lifetime": "-1s"}, "--max-lifetime"},
		"sessions that end at once":        {change{"session-lifetime": "0s"}, "--session-lifetime"},
		"an idle time above the life":      {change{"session-idle": "2h", "session-lifetime": "1h"}, "--session-idle"},
		"no attempts to sign in":           {change{"sign-in-attempts": "0"}, "--sign-in-attempts"},
		"attempts that are no number":      {change{"sign-in-attempts": "many"}, "--sign-in-attempts"},
		"descriptors that are missing":     {change{"descriptors": missing}, "--descriptors"},
		"descriptors others can write":     {change{"descriptors": writable}, "--descriptors: " + writable + ": others can write it"},
		"descriptors that are none":        {change{"descriptors": text}, "--descriptors"},
		"rules that are missing":           {change{"rules": missing}, "--rules"},
		"rules that loosen":                {change{"rules": s.write(t, "rules.json", `{"rules": {"`+payInvoice+`": {"reusable": true}}}`, 0o600)}, "--rules: rule: the overlay: \"" + payInvoice + "\": reusable: it loosens"},
		"no policy":                        {change{"policy": ""}, "--policy"},
		"a policy that is missing":         {change{"policy": missing}, "--policy"},
		"a policy that is not JSON":        {policy("text", "allow everything"), "--policy"},
		"a policy with a comma too many":   {policy("comma", "{\n\"audiences\": {\n},\n}"), "line 4"},
		"a policy with an unknown member":  {policy("member", `{"audiences": {}, "default": "allow"}`), "--policy"},
		"a policy without audiences":       {policy("empty", `{}`), "--policy"},
		"a policy for an unknown method":   {methods("method", `"/handoff.server2.v1.InvoiceService/Steal": {"roles": ["x"]}`), "--descriptors"},
		"a policy for a ruleless method":   {methods("ruleless", `"/handoff.server1.v1.SessionService/SignIn": {"roles": ["x"]}`), "--policy"},
		"a policy for nobody":              {methods("nobody", `"`+payInvoice+`": {"roles": []}`), "--policy"},
		"a policy above --max-lifetime":    {change{"max-lifetime": "29s", "lifetime": "1s"}, "--policy"},
		"no key at all":                    {trusting("key", ""), "--key or --key-dir is required"},
		"a set of public keys":             {change{"key": s.write(t, "public.jwks", string(publicSet(t, s.key)), 0o644)}, "public keys"},
		"a key in PEM":                     {change{"key": s.path("tls.key")}, "handoff keygen"},
		"a folder without a trust key":     {change{"key-dir": s.path("keys")}, "--key-dir"},
		"H11: a folder others can change":  {trusting("key-dir", open), "--key-dir"},
		"a folder that is a file":          {trusting("key-dir", text), "--key-dir"},
		"a URI for a folder":               {trusting("key-dir", "pkcs11:object=a?pin-value=battery-staple"), "--key-dir"},
		"a folder in no folder":            {trusting("key-dir", missing+"/keys"), "--key-dir"},
		"rotation of one key":              {trusting("rotate-every", "24h"), "--rotate-every"},
		"rotation without rest":            {trusting("key-dir", s.path("keys"), "rotate-every", "999ms"), "--rotate-every"},
		"rotation back in time":            {trusting("key-dir", s.path("keys"), "rotate-every", "-24h"), "--rotate-every"},
		"a trust key that is missing":      {change{"trust-key": missing}, "--trust-key"},
		"a trust key that is none":         {change{"trust-key": text}, "--trust-key"},
		"H11: a trust key others can read": {change{"trust-key": s.write(t, "open-trust.key", string(trustKey), 0o640)}, "--trust-key"},
		"a trust key that signs handoffs":  {change{"trust-key": s.path("shop.key")}, "--trust-key"},
		"lists that live for nothing":      {trusting("trust-lifetime", "0s"), "--trust-lifetime"},
		"lists that live for a moment":     {trusting("trust-lifetime", "1s"), "from 2s"},
		"lists that live too long":         {trusting("trust-lifetime", "25h"), "--trust-lifetime"},
		"lists of a fraction":              {trusting("trust-lifetime", "1500ms"), "--trust-lifetime"},
		"a trust file without a key":       {change{"trust-file": s.path("trust.jwt")}, "--trust-file"},
		"a trust file in no folder":        {trusting("trust-file", missing+"/trust.jwt"), "--trust-file"},
		"a trust file that is a folder":    {trusting("trust-file", open), "--trust-file"},
		"a trust file that is a link":      {trusting("trust-file", link), "--trust-file: replace " + link + ": not a regular file"},
		"HTTPS without a trust key":        {change{"http": "127.0.0.1:0"}, "--http"},
		"HTTPS without a port":             {trusting("http", "127.0.0.1"), "--http"},
		"no skew":                          {change{"skew": "0s"}, "--skew"},
		"too much skew":                    {change{"skew": "61s"}, "--skew"},
		"PostgreSQL off this machine":      {change{"database": "postgres://shop:battery-staple@db.example/shop"}, "--database"},
		"PostgreSQL that is not there":     {change{"database": "postgres://shop:battery-staple@127.0.0.1:1/shop"}, "--database"},
		"PostgreSQL in words":              {change{"database": "host=127.0.0.1 user=app password=battery-staple dbname=shop"}, "--database must"},
		"PostgreSQL without a scheme":      {change{"database": "app:battery-staple@127.0.0.1"}, "--database must"},
		"PostgreSQL in capitals":           {change{"database": "POSTGRES://app:battery-staple@127.0.0.1/shop"}, "--database must"},
		"PostgreSQL after a space":         {change{"database": " postgres://app:battery-staple@127.0.0.1/shop"}, "--database must"},
		"PostgreSQL by SQLAlchemy":         {change{"database": "postgresql+psycopg://app:battery-staple@127.0.0.1/shop"}, "--database must"},
		"a database with two slashes":      {change{"database": "/" + s.path("x.db")}, "--database must"},
		"no root certificate":              {change{"database": "postgres://app:battery-staple@192.0.2.1/shop?sslmode=verify-full&sslrootcert=/nowhere"}, "sslrootcert cannot be read"},
		"no connections":                   {change{"database-connections": "1"}, "--database-connections must be at least 2"},
		"a URL that is none":               {change{"database": "postgres://shop:battery-staple@["}, "--database"},
		"another issuer's database":        {change{"database": other}, "--database"},
		"a flag that is none":              {change{"skip-tls": "true"}, "--skip-tls"},
	} {
		t.Run(name, func(t *testing.T) {
			settings := s.settings()
			for flag, value := range c.change {
				if settings[flag] = value; value == "" {
					delete(settings, flag)
				}
			}
			refused(t, arguments("serve", settings), nil, c.setting)
		})
	}
}

// A start that is refused does not make a new database its issuer's, nor keys.
func TestRefusedStartBindsNothing(t *testing.T) {
	s := newTrustedSite(t)
	public := s.write(t, "public", string(publicSet(t, s.trustKey)), 0o644)
	for name, change := range map[string]map[string]string{
		"a listener that is another machine's": {"listen": "192.0.2.1:1"},
		"HTTPS that is another machine's":      {"http": "192.0.2.1:1"},
		"metrics on no port":                   {"metrics": "127.0.0.1:99999"},
		"a public trust key":                   {"trust-key": public},
		"a key that is none":                   {"key": s.path("policy.json")},
		"a trust file in no folder":            {"trust-file": s.path("missing/trust.jwt")},
		"a certificate that is missing":        {"tls-cert": s.path("missing")},
	} {
		t.Run(name, func(t *testing.T) {
			settings := s.settings()
			for flag, value := range s.publishing("key-dir", s.path("keys"), "issuer", "https://shop.exmaple") {
				settings[flag] = value
			}
			delete(settings, "key")
			maps.Copy(settings, change)
			for flag := range change {
				refused(t, arguments("serve", settings), nil, "--"+flag)
			}
			if files, _ := os.ReadDir(s.path("keys")); len(files) > 0 {
				t.Errorf("keys were made: %v", files)
			}
		})
	}
	s.start(t, s.publishing("key", "", "key-dir", s.path("keys")))
}

func publicSet(t *testing.T, key *signkey.Key) []byte {
	t.Helper()
	set, err := keyset.New(key.Key())
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// refused checks that the program does not start.
func refused(t *testing.T, args, env []string, setting string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // where it starts after all
	defer cancel()
	var stdout, stderr bytes.Buffer
	status := run(ctx, args, env, strings.NewReader(password), &stdout, &stderr)
	line := stderr.String()
	if status != 2 || stdout.Len() > 0 {
		t.Errorf("exit status %d, stdout %q; want 2 and nothing; stderr:\n%s", status, &stdout, line)
	}
	if strings.Contains(line, password) || strings.Contains(line, "battery-staple") {
		t.Errorf("stderr has a password:\n%s", line)
	}
	if strings.Count(line, "\n") != 1 || !strings.Contains(line, setting) {
		t.Errorf("stderr is not one line that names %s:\n%s", setting, line)
	}
}

// The rest of a password with a space is not repeated, wherever it comes to stand.
func TestPasswordsWithASpace(t *testing.T) {
	const url, rest = "postgres://shop:correct", "battery-staple2@db.example/shop"
	for _, c := range []struct {
		args  []string
		names string
	}{
		{[]string{"--database", url, rest}, "unexpected argument: not the name of a command"},
		{[]string{"serve", "--database", url, rest}, "serve: unexpected argument"},
		{[]string{"user", "list", "--database", url, rest}, "user list: unexpected argument"},
		{[]string{"user", "disable", "--database", url, rest}, "--database must"},
		{[]string{"user", "disable", "--database", url, rest, "alice"}, "user disable: unexpected argument"},
		{[]string{"user", "list", "--database", url, "--" + rest}, "unknown flag: see"},
		{[]string{"user", "--database", url, rest}, "unknown flag --database"},
	} {
		refused(t, c.args, nil, c.names)
	}
}

func TestMistakesInVariables(t *testing.T) {
	s := newSite(t)
	settings := s.settings()
	delete(settings, "lifetime")
	delete(settings, "issuer")
	for name, c := range map[string]struct{ pair, names string }{
		"a value that is none": {"HANDOFF_SERVER1_LIFETIME=soon", "(from $HANDOFF_SERVER1_LIFETIME)"},
		"out of range":         {"HANDOFF_SERVER1_LIFETIME=0s", "(from $HANDOFF_SERVER1_LIFETIME)"},
		"no such setting":      {"HANDOFF_SERVER1_LIFETIM=60s", "HANDOFF_SERVER1_LIFETIM"},
		"a required one empty": {"HANDOFF_SERVER1_ISSUER=", "--issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, arguments("serve", settings), []string{"PATH=/bin", "HANDOFF_SERVER1_ISSUER=" + issuerName, c.pair}, c.names)
		})
	}
}

// A variable sets what its flag does; the flag goes before.
func TestVariables(t *testing.T) {
	s := newSite(t)
	env := []string{"HANDOFF_SERVER1_LIFETIME=0s"}
	for flag, value := range s.settings() {
		env = append(env, "HANDOFF_SERVER1_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))+"="+value)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	stop := writerFunc(func(p []byte) (int, error) {
		defer cancel() // it listens: that is enough
		return stdout.Write(p)
	})
	var stderr servingtest.Log
	if status := run(ctx, []string{"--lifetime=60s"}, env, strings.NewReader(""), stop, &stderr); status != 0 {
		t.Errorf("exit status %d; stderr:\n%s", status, &stderr)
	}
	if !strings.HasPrefix(stdout.String(), "listening on 127.0.0.1:") {
		t.Errorf("stdout is %q", &stdout)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestHelp(t *testing.T) {
	s := newSite(t)
	for command, flags := range map[string]map[string]string{
		"serve":         s.publishing("key-dir", "", "rotate-every", "", "trust-file", "", "trust-lifetime", "", "http", "", "skew", "", "key", ""),
		"user add":      {"database": "", "name": "", "role": ""},
		"user list":     {"database": ""},
		"user disable":  {"database": ""},
		"user enable":   {"database": ""},
		"user password": {"database": ""},
		"user role":     {"database": "", "add": "", "remove": ""},
		"revoke":        {"database": "", "handoff": "", "session": "", "subject": ""},
		"keys list":     {"database": ""},
		"keys prepare":  {"database": "", "key-dir": "", "key": "", "lost": ""},
		"keys activate": {"database": "", "key-dir": ""},
		"keys retire":   {"database": "", "key-dir": ""},
		"keys taint":    {"database": "", "key-dir": ""},
	} {
		var stdout, stderr bytes.Buffer
		args := append(strings.Fields(command), "--help")
		if status := run(t.Context(), args, nil, strings.NewReader(""), &stdout, &stderr); status != 0 || stderr.Len() > 0 {
			t.Errorf("%s: exit status %d, stderr %q", command, status, &stderr)
		}
		for flag := range maps.Keys(flags) {
			variable := "$HANDOFF_SERVER1_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
			if !strings.Contains(stdout.String(), "--"+flag) || !strings.Contains(stdout.String(), variable) {
				t.Errorf("%s --help does not document --%s and its variable", command, flag)
			}
		}
	}
}

// The policy that --help shows is one.
func TestHelpShowsAPolicy(t *testing.T) {
	s := newSite(t)
	s.start(t, map[string]string{"policy": s.write(t, "example.json", examplePolicy, 0o644)})
	status, stdout, stderr := s.try("serve", "--help")
	if first, _, _ := strings.Cut(examplePolicy, "\n"); status != 0 || !strings.Contains(stdout, first) || !strings.Contains(stdout, payInvoice) {
		t.Errorf("exit status %d, %q, %q", status, stdout, stderr)
	}
}
