package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// settings are the flags of a server that works, each on its own.
type settings map[string]string

func (s settings) args() []string {
	var all []string
	for _, flag := range slices.Sorted(maps.Keys(s)) {
		all = append(all, "--"+flag+"="+s[flag])
	}
	return all
}

// goodSettings returns settings whose files exist, in a folder of their own.
func goodSettings(t *testing.T) (settings, *signkey.Key) {
	t.Helper()
	dir := t.TempDir()
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyset.New(key.Key())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	s := settings{
		"listen":         "127.0.0.1:0",
		"tls-cert":       filepath.Join(dir, "server2.crt"),
		"tls-key":        filepath.Join(dir, "server2.key"),
		"audience":       testAudience,
		"issuer":         testIssuer,
		"keys":           write(t, filepath.Join(dir, "server1.jwks"), text),
		"database":       filepath.Join(dir, "server2.db"),
		"shutdown-delay": "0s",
		"skew":           "50ms",
	}
	servingtest.NewAuthority(t).Issue(t, filepath.Join(dir, "server2"), "127.0.0.1")
	return s, key
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Every mistake stops the start before a port is open or a database made, with
// status 2 and one line that names the setting.
func TestSettingsRefused(t *testing.T) {
	file := func(content string) string {
		return write(t, filepath.Join(t.TempDir(), "file"), []byte(content))
	}
	set := func(flag, value string) func(settings) { return func(s settings) { s[flag] = value } }
	missing := func(flag string) func(settings) { return func(s settings) { delete(s, flag) } }
	// listed is a mistake of one who follows the trust list.
	listed := func(flag, value string) func(settings) {
		return func(s settings) {
			delete(s, "keys")
			maps.Copy(s, followed(t))
			if flag != "" {
				s[flag] = value
			}
		}
	}
	mode := func(flag string, mode fs.FileMode) func(settings) {
		return func(s settings) {
			if err := os.Chmod(s[flag], mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	privatePEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	_, signing := goodSettings(t)
	privateJWK := filepath.Join(t.TempDir(), "server1.key")
	if err := signing.Save(privateJWK); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	for name, c := range map[string]struct {
		change func(settings)
		names  string // what the line must have
	}{
		"no audience":              {missing("audience"), "--audience"},
		"empty audience":           {set("audience", ""), "--audience"},
		"audience with a space":    {set("audience", "https://a.example b"), "--audience"},
		"long audience":            {set("audience", strings.Repeat("a", 256)), "--audience"},
		"no issuer":                {missing("issuer"), "--issuer"},
		"empty issuer":             {set("issuer", ""), "--issuer"},
		"issuer that is no URL":    {set("issuer", "shop"), "--issuer"},
		"audience that is no URL":  {set("audience", "billing"), "--audience"},
		"issuer with a newline":    {set("issuer", "https://a.example\n"), "--issuer"},
		"no keys":                  {missing("keys"), "--keys"},
		"keys without a name":      {set("keys", ""), "--keys"},
		"keys and a trust list":    {func(s settings) { list := followed(t); s["trust-key"], s["trust"] = list["trust-key"], list["trust"] }, "--keys"},
		"keys and a trust key":     {func(s settings) { s["trust-key"] = followed(t)["trust-key"] }, "--keys"},
		"keys and a trust CA":      {func(s settings) { s["trust-ca"] = s["tls-cert"] }, "--trust-ca"},
		"keys and a staleness":     {set("max-staleness", "10s"), "--max-staleness"},
		"no trust key":             {listed("trust-key", ""), "--trust-key"},
		"a trust key missing":      {listed("trust-key", "/nowhere/trust.pem"), "--trust-key"},
		"a trust key is text":      {listed("trust-key", file("text")), "--trust-key"},
		"a private trust key":      {listed("trust-key", privateJWK), "--trust-key"},
		"a private trust key, PEM": {listed("trust-key", file(privatePEM)), "--trust-key"},
		"one trust key twice":      {func(s settings) { listed("", "")(s); s["trust-key"] += "," + s["trust-key"] }, "--trust-key"},
		"three trust keys": {func(s settings) {
			listed("", "")(s)
			s["trust-key"] += "," + followed(t)["trust-key"] + "," + followed(t)["trust-key"]
		}, "--trust-key"},
		"pages from nowhere":          {func(s settings) { withPages(s); delete(s, "issuer-origin") }, "--issuer-origin"},
		"pages that lead nowhere":     {func(s settings) { withPages(s); delete(s, "issuer-return") }, "--issuer-return"},
		"an origin without pages":     {set("issuer-origin", shopOrigin), "--issuer-origin"},
		"a way back without pages":    {set("issuer-return", shopOrigin+"/"), "--issuer-return"},
		"an origin with a path":       {func(s settings) { withPages(s); s["issuer-origin"] = shopOrigin + "/" }, "--issuer-origin"},
		"an origin in capitals":       {func(s settings) { withPages(s); s["issuer-origin"] = "https://SHOP.test" }, "--issuer-origin"},
		"an origin over plain http":   {func(s settings) { withPages(s); s["issuer-origin"] = "http://shop.test" }, "--issuer-origin"},
		"a way back without a path":   {func(s settings) { withPages(s); s["issuer-return"] = shopOrigin }, "--issuer-return"},
		"a way back that is a script": {func(s settings) { withPages(s); s["issuer-return"] = "javascript:x//" }, "--issuer-return"},
		"pages on a busy port":        {func(s settings) { withPages(s); s["http"] = busy.Addr().String() }, "--http"},
		"pages on no port":            {func(s settings) { withPages(s); s["http"] = "billing" }, "--http"},
		"no trust list":               {listed("trust", ""), "--trust "},
		"a list over plain HTTP":      {listed("trust", "http://127.0.0.1/list"), "--trust "},
		"a list of no host":           {listed("trust", "https:///list"), "--trust: "},
		"a list of no port":           {listed("trust", "grpc://127.0.0.1"), "--trust "},
		"a list of any host":          {listed("trust", "grpc://:8441"), "--trust "},
		"a list with a path":          {listed("trust", "grpc://127.0.0.1:8441/list"), "--trust "},
		"a list with a user":          {listed("trust", "https://me@127.0.0.1/list"), "--trust: "},
		"a list without a scheme":     {listed("trust", "localhost:18441"), "grpc://HOST:PORT"},
		"a list by IPv6, no scheme":   {listed("trust", "[::1]:18441"), "grpc://HOST:PORT"},
		"a list with a password":      {listed("trust", "grpc://me:c2VjcmV0@127.0.0.1:8441"), "--trust must"},
		"a list, user, no scheme":     {listed("trust", "me:c2VjcmV0@127.0.0.1:8441"), "--trust must"},
		"a list by FTP":               {listed("trust", "ftp://127.0.0.1/list"), "--trust "},
		"a trust CA for a file":       {func(s settings) { listed("", "")(s); s["trust-ca"] = s["tls-cert"] }, "--trust-ca"},
		"a trust CA missing":          {func(s settings) { listed("trust", "grpc://127.0.0.1:1")(s); s["trust-ca"] = "/nowhere/ca.pem" }, "--trust-ca"},
		"a trust CA others can write": {func(s settings) {
			listed("trust", "https://127.0.0.1/")(s)
			s["trust-ca"] = s["tls-cert"]
			mode("trust-ca", 0o662)(s)
		}, "--trust-ca: "},
		"a trust CA is text":          {func(s settings) { listed("trust", "https://127.0.0.1/")(s); s["trust-ca"] = file("text") }, "--trust-ca"},
		"a staleness of 0":            {listed("max-staleness", "0s"), "--max-staleness"},
		"a staleness under 1s":        {listed("max-staleness", "999ms"), "--max-staleness"},
		"a staleness over a day":      {listed("max-staleness", "25h"), "--max-staleness"},
		"a negative staleness":        {listed("max-staleness", "-10s"), "--max-staleness"},
		"a followed bad issuer":       {listed("issuer", "https://a.example\n"), "--issuer"},
		"a followed negative skew":    {listed("skew", "-1s"), "--skew"},
		"keys that are missing":       {set("keys", "/nowhere/server1.jwks"), "--keys"},
		"a folder for keys":           {set("keys", t.TempDir()), "--keys"},
		"an empty file of keys":       {set("keys", file("")), "--keys"},
		"no key in the set":           {set("keys", file(`{"keys":[]}`)), "--keys"},
		"a private key, PEM":          {set("keys", file(privatePEM)), "--keys"},
		"a private key, JWK":          {set("keys", privateJWK), "--keys"},
		"a symmetric key":             {set("keys", file(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`)), "--keys"},
		"a certificate for keys":      {func(s settings) { s["keys"] = s["tls-cert"] }, "--keys"},
		"no database":                 {missing("database"), "--database"},
		"database without a name":     {set("database", ""), "--database"},
		"database in no folder":       {set("database", "/nowhere/server2.db"), "--database"},
		"a folder for a database":     {set("database", t.TempDir()), "--database"},
		"text for a database":         {set("database", file(strings.Repeat("no database ", 100))), "--database"},
		"others' database":            {func(s settings) { s["database"] = file(""); mode("database", 0o644)(s) }, "--database"},
		"a database by MySQL":         {set("database", "mysql://127.0.0.1/server2"), "--database"},
		"a PostgreSQL, one slash":     {set("database", "postgres:/server2:c2VjcmV0@127.0.0.1/server2"), "--database must"},
		"a PostgreSQL, no scheme":     {set("database", "server2:c2VjcmV0@127.0.0.1/server2"), "--database must"},
		"a PostgreSQL in capitals":    {set("database", "POSTGRES://server2:c2VjcmV0@127.0.0.1/server2"), "--database must"},
		"a PostgreSQL after a space":  {set("database", " postgres://server2:c2VjcmV0@127.0.0.1/server2"), "--database must"},
		"a PostgreSQL by SQLAlchemy":  {set("database", "postgresql+psycopg://server2:c2VjcmV0@127.0.0.1/server2"), "--database must"},
		"a database with two slashes": {set("database", "/"+filepath.Join(t.TempDir(), "c2VjcmV0.db")), "--database must"},
		"no root certificate":         {set("database", "postgres://server2:c2VjcmV0@192.0.2.1/server2?sslmode=verify-full&sslrootcert=/nowhere"), "--database has a URL whose sslrootcert cannot be read: no such file"},
		"no connections":              {set("database-connections", "1"), "--database-connections must be at least 2"},
		"a Redis in capitals":         {set("replay", "REDIS://:c2VjcmV0@127.0.0.1:6379"), "--replay must"},
		"a Redis after a space":       {set("replay", " redis://:c2VjcmV0@127.0.0.1:6379"), "--replay must"},
		"a Redis in words":            {set("replay", "host=127.0.0.1 password=c2VjcmV0"), "--replay must"},
		"a journal with two slashes":  {set("replay", "//c2VjcmV0/journal"), "--replay must"},
		"a list in capitals":          {listed("trust", "GRPC://me:c2VjcmV0@127.0.0.1:8441"), "--trust must"},
		"a list after a space":        {listed("trust", " grpc://127.0.0.1:8441"), "--trust must"},
		"a PostgreSQL in words":       {set("database", "host=127.0.0.1 password=c2VjcmV0"), "--database must"},
		"plain PostgreSQL":            {set("database", "postgres://server2:c2VjcmV0@192.0.2.1/server2"), "--database"},
		"no PostgreSQL there":         {set("database", "postgres://server2:c2VjcmV0@127.0.0.1:1/server2"), "--database: no connection to PostgreSQL: dial tcp 127.0.0.1:1: connect: connection refused"},
		"not a PostgreSQL URL":        {set("database", "postgres://server2:c2VjcmV0@[::1/server2"), "--database"},
		"no replay":                   {set("replay", ""), "--replay"},
		"a journal not made":          {set("replay", filepath.Join(t.TempDir(), "journal")), program + " init --replay"},
		"a folder, not a journal":     {set("replay", t.TempDir()), program + " init --replay"},
		"a file, not a journal":       {set("replay", file("text")), "--replay"},
		"a Redis time, no Redis":      {set("redis-timeout", "100ms"), "--redis-timeout"},
		"a Redis CA, no Redis":        {func(s settings) { s["redis-ca"] = s["tls-cert"] }, "--redis-ca"},
		"a Redis wait, no Redis":      {set("redis-wait", "1"), "--redis-wait"},
		"a Redis fsync, no Redis":     {set("redis-appendfsync", "always"), "--redis-appendfsync"},
		"a Redis loss, no Redis":      {set("redis-accept-last-second-loss", "true"), "--redis-accept-last-second-loss"},
		"a Redis, one slash":          {set("replay", "redis:/:c2VjcmV0@127.0.0.1:6379"), "--replay must"},
		"a Redis without a scheme":    {set("replay", ":c2VjcmV0@127.0.0.1:6379"), "--replay must"},
		"a Redis by its address":      {set("replay", "localhost:6379"), "--replay must"},
		"a Redis that is not there":   {set("replay", "redis://:c2VjcmV0@127.0.0.1:1"), "--replay: "},
		"replay over HTTP":            {set("replay", "https://127.0.0.1/"), "--replay"},
		"no address":                  {set("listen", ""), "--listen"},
		"an address without a port":   {set("listen", "127.0.0.1"), "--listen"},
		"a port out of range":         {set("listen", "127.0.0.1:99999"), "--listen"},
		"a port that is taken":        {set("listen", busy.Addr().String()), "--listen"},
		"no certificate":              {missing("tls-cert"), "--tls-cert"},
		"certificate missing":         {set("tls-cert", "/nowhere/server2.crt"), "--tls-cert"},
		"certificate is text":         {set("tls-cert", file("text")), "--tls-cert"},
		"no key":                      {missing("tls-key"), "--tls-key"},
		"key missing":                 {set("tls-key", "/nowhere/server2.key"), "--tls-key"},
		"key of another":              {func(s settings) { other, _ := goodSettings(t); s["tls-key"] = other["tls-key"] }, "--tls-key"},
		"H11 world-readable key":      {mode("tls-key", 0o644), "--tls-key"},
		"H11 group-readable key":      {mode("tls-key", 0o640), "--tls-key"},
		"lifetime over 300 s":         {set("max-lifetime", "301s"), "--max-lifetime"},
		"lifetime 0":                  {set("max-lifetime", "0s"), "--max-lifetime"},
		"lifetime negative":           {set("max-lifetime", "-60s"), "--max-lifetime"},
		"lifetime in milliseconds":    {set("max-lifetime", "1500ms"), "--max-lifetime"},
		"lifetime without a unit":     {set("max-lifetime", "60"), "--max-lifetime"},
		"skew over 60 s":              {set("skew", "61s"), "--skew"},
		"skew 0":                      {set("skew", "0s"), "--skew"},
		"skew negative":               {set("skew", "-1s"), "--skew"},
		"skew is text":                {set("skew", "much"), "--skew"},
		"metrics off loopback":        {set("metrics", "0.0.0.0:9100"), "--metrics"},
		"metrics on any address":      {set("metrics", ":9100"), "--metrics"},
		"log level":                   {set("log-level", "loud"), "--log-level: must be debug, info, warn or error"},
		"negative delay":              {set("shutdown-delay", "-1s"), "--shutdown-delay"},
		"negative grace":              {set("shutdown-grace", "-1s"), "--shutdown-grace"},
		"an unknown flag":             {set("insecure", "true"), "--insecure"},
		"half a flag":                 {set("audienc", "x"), "--audienc"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := goodSettings(t)
			c.change(s)
			refused(t, s.args(), c.names)
			if strings.HasPrefix(c.names, "--database") || name == "a port that is taken" {
				return // there is one already, or there had to be
			}
			if _, err := os.Stat(s["database"]); err == nil {
				t.Error("a database was made")
			}
		})
	}
}

// refused runs the program with a mistake.
func refused(t *testing.T, args []string, names string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // it started
	defer cancel()
	var stdout, stderr servingtest.Log
	code := run(ctx, args, &stdout, &stderr)
	line, more, _ := strings.Cut(stderr.String(), "\n")
	if code != 2 || !strings.Contains(line, names) || !strings.HasPrefix(line, program+": ") || more != "" {
		t.Errorf("status %d, want 2; want one line with %s:\n%s", code, names, &stderr)
	}
	if stdout.String() != "" {
		t.Errorf("on stdout: %s", &stdout)
	}
	if _, rest, dialed := strings.Cut(line, "dial tcp "); dialed && strings.Contains(rest, "dial tcp ") {
		t.Errorf("the line says it twice: %s", line)
	}
	for _, private := range []string{"PRIVATE", `"d"`, "c2VjcmV0"} {
		if strings.Contains(stderr.String(), private) {
			t.Errorf("the line tells a key: %s", &stderr)
		}
	}
}

// B15, G17: rules that this server could keep only by refusing each call stop the start,
// and name the setting that is missing. With it, it starts; what SERVER1 sends otherwise
// is refused.
func TestRulesNeedSettings(t *testing.T) {
	for _, c := range []struct{ rules, names string }{
		{`{"rules": {"` + payMethod + `": {"certificate_bound": true}}}`, "--client-certificates must "},
		{`{"rules": {"` + payMethod + `": {"sealed": true}}}`, "--unseal-key is required"},
		{`{"rules": {"` + payMethod + `": {"reusable": true}}}`, "--rules"}, // loosens it
		{`{"rules": {"/a.B/C": {}}}`, "--rules"},
		{``, "--rules"},
	} {
		s, _ := goodSettings(t)
		s["rules"] = write(t, filepath.Join(t.TempDir(), "rules.json"), []byte(c.rules))
		refused(t, s.args(), c.names)
		if _, err := os.Stat(s["database"]); err == nil {
			t.Error("a database was made")
		}
	}
	s, _ := goodSettings(t)
	s["rules"] = "/nowhere/rules.json"
	refused(t, s.args(), "--rules")
}

// B15, G17: no downgrade: a token that is not as the stricter rules say is refused, and
// one that is runs.
func TestStricterRules(t *testing.T) {
	t.Parallel()
	key, err := sealed.Generate()
	if err != nil {
		t.Fatal(err)
	}
	unseal := filepath.Join(t.TempDir(), "unseal.key")
	if err := key.Save(unseal); err != nil {
		t.Fatal(err)
	}
	var certificate string
	r := startWith(t, func(s settings) {
		certificate = s["tls-cert"]
		s["rules"] = write(t, filepath.Join(t.TempDir(), "rules.json"),
			[]byte(`{"rules": {"`+payMethod+`": {"sealed": true}, "`+getMethod+`": {"certificate_bound": true}}}`))
		s["unseal-key"], s["client-certificates"] = unseal, "true"
	})
	req := payment("INV-42", 1200, 1)
	pay := func(change func(*handoff.IssueParams)) error {
		_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(token(t, r.issuer, payMethod, req, change)))
		return err
	}
	wantReason(t, "unsealed", pay(nil), handoff.ReasonTokenNotSealed)
	if err := pay(func(p *handoff.IssueParams) { p.Seal = key.Public().Seal }); err != nil {
		t.Errorf("sealed: %v", err)
	}
	look := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	client := r.client
	get := func(change func(*handoff.IssueParams)) error {
		_, err := client.GetInvoice(t.Context(), look, handoffgrpc.Token(token(t, r.issuer, getMethod, look, change)))
		return err
	}
	wantReason(t, "bound to none", get(nil), handoff.ReasonCertificateMismatch)
	boundTo := func(c *x509.Certificate) func(*handoff.IssueParams) {
		return func(p *handoff.IssueParams) { p.Certificate = c }
	}
	another := &x509.Certificate{Raw: []byte("another's")}
	wantReason(t, "bound to another's", get(boundTo(another)), handoff.ReasonCertificateMismatch)
	own := servingtest.NewAuthority(t).Issue(t, filepath.Join(t.TempDir(), "alice"), "alice")
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: poolOf(t, certificate), Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client = server2v1.NewInvoiceServiceClient(conn)
	if err := get(boundTo(own.Leaf)); err != nil {
		t.Errorf("bound to her own: %v", err)
	}
	wantReason(t, "bound to another's, with a certificate", get(boundTo(another)), handoff.ReasonCertificateMismatch)
}

// A variable of the environment counts, and its mistakes too; a flag wins.
func TestVariables(t *testing.T) {
	s, _ := goodSettings(t)
	t.Setenv("HANDOFF_SERVER2_SKEW", "61s")
	delete(s, "skew")
	refused(t, s.args(), "(from $HANDOFF_SERVER2_SKEW)")
	t.Setenv("HANDOFF_SERVER2_TRUST_KEY", "trust.jwks")
	refused(t, s.args(), "--keys cannot be given together with --trust-key and --trust: the trust list names the keys (--trust-key from $HANDOFF_SERVER2_TRUST_KEY)")
	if err := os.Unsetenv("HANDOFF_SERVER2_TRUST_KEY"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HANDOFF_SERVER2_SKEW", "much")
	refused(t, s.args(), "HANDOFF_SERVER2_SKEW")
	s["skew"] = "50ms"
	t.Setenv("HANDOFF_SERVER2_SKEW", "50ms")
	refused(t, []string{"init", "--replay=postgres:///x"}, "--replay") // not --skew, which is serve's as well
	t.Setenv("HANDOFF_SERVER2_TRUSTKEY", "trust.jwks")
	refused(t, s.args(), "HANDOFF_SERVER2_TRUSTKEY")
	if err := os.Unsetenv("HANDOFF_SERVER2_TRUSTKEY"); err != nil {
		t.Fatal(err)
	}
	for flag, value := range s {
		t.Setenv("HANDOFF_SERVER2_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_")), value)
	}
	start(t, nil)
}

func TestOtherMistakes(t *testing.T) {
	t.Parallel()
	refused(t, nil, "--audience")
	refused(t, []string{"sevre"}, "sevre")
	refused(t, []string{"serve", "now"}, "serve: unexpected argument")
	refused(t, []string{"--database", "postgres://me:hun", "c2VjcmV0@h/x"}, "unexpected argument")
	refused(t, []string{"init", "--replay", "postgres://me:hun", "c2VjcmV0@h/x"}, "init: unexpected argument")
	refused(t, []string{"init"}, "--replay")
	refused(t, []string{"init", "--replay="}, "--replay")
	refused(t, []string{"init", "--replay=memory"}, "--replay")
	refused(t, []string{"init", "--replay=redis://127.0.0.1"}, "--replay")
	refused(t, []string{"init", "--replay=redis:/:c2VjcmV0@127.0.0.1"}, "--replay must")
	refused(t, []string{"init", "--replay=" + t.TempDir()}, "a journal is made once")
	for _, skew := range []string{"0s", "-1s", "61s", "9999h"} { // what serve refuses
		journal := filepath.Join(t.TempDir(), "journal")
		refused(t, []string{"init", "--replay=" + journal, "--skew=" + skew}, "--skew must be more than 0 and at most 1m0s")
		if _, err := os.Stat(journal); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("--skew=%s leaves a journal: %v", skew, err)
		}
	}
	refused(t, []string{"init", "--replay=/nowhere/journal"}, "--replay")
	refused(t, []string{"init", "--if-missing", "--replay=/nowhere/journal"}, "--replay")
	refused(t, []string{"init", "--if-missing", "--replay=" + write(t, filepath.Join(t.TempDir(), "file"), nil)}, "a journal is made once")
	refused(t, []string{"init", "--if-missing", "--replay=" + t.TempDir()}, "the folder has no journal in it")
	refused(t, []string{"init", "--skew=5s", "--replay=postgres://127.0.0.1/x"}, "--skew is for a journal")
	refused(t, []string{"seed"}, "--database")
	db := "--database=" + filepath.Join(t.TempDir(), "server2.db")
	refused(t, []string{"seed", db}, "invoices")
	refused(t, []string{"seed", db, "/nowhere/invoices.json"}, "/nowhere/invoices.json")
	refused(t, []string{"seed", db, write(t, filepath.Join(t.TempDir(), "bad.json"), []byte(`[{"invoice":1}]`))}, `[0]."invoice"`)
	refused(t, []string{"seed", "--database=/nowhere/x.db", write(t, filepath.Join(t.TempDir(), "good.json"), []byte(seed))}, "--database")
}

// The help names every flag with its variable, and its default where it has one.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"-h"}} {
		var stdout, stderr servingtest.Log
		if code := run(t.Context(), args, &stdout, &stderr); code != 0 || stderr.String() != "" {
			t.Fatalf("%v: status %d: %s", args, code, &stderr)
		}
		text := strings.Join(strings.Fields(stdout.String()), " ")
		s, _ := goodSettings(t)
		for _, flag := range []string{
			"metrics", "reflection", "log-level", "max-lifetime", "shutdown-grace", "trust-key", "trust", "trust-ca", "max-staleness",
			"replay", "redis-timeout", "redis-ca", "redis-wait", "redis-appendfsync", "redis-accept-last-second-loss",
		} {
			s[flag] = ""
		}
		for flag := range s {
			variable := "$HANDOFF_SERVER2_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
			if !strings.Contains(text, "--"+flag) || !strings.Contains(text, variable+")") {
				t.Errorf("%v: --%s or %s is not in the help", args, flag, variable)
			}
		}
		if !strings.Contains(text, "--database=FILE|URL") {
			t.Errorf("%v: the help does not say that --database takes a URL", args)
		}
		for _, value := range []string{"127.0.0.1:8442", "300s", "5s", "info", "250ms", "10s"} {
			if !strings.Contains(text, "(default "+value) {
				t.Errorf("%v: the default %s is not in the help", args, value)
			}
		}
	}
}
