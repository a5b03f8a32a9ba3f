package postgres

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// parameters are what the query of a URL may have: where the server is, and how to
// know it. Not among them is what changes how the driver works.
var parameters = []string{
	"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslsni", "sslnegotiation", "sslcertmode",
	"channel_binding", "require_auth", "connect_timeout", "target_session_attrs", "application_name", "search_path", "options",
}

// ignored are variables by which others tell libpq, and so the driver, of a server of
// theirs. They would add to a URL what it cannot have: another service's settings, a
// file that nobody has vetted, a mode that the driver does not know. What says who
// connects counts: PGUSER, PGPASSWORD and PGPASSFILE.
var ignored = []string{
	"PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS", "PGAPPNAME", "PGTZ", "PGCONNECT_TIMEOUT",
	"PGTARGETSESSIONATTRS", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLPASSWORD", "PGSSLCERTMODE", "PGSSLSNI",
	"PGSSLNEGOTIATION", "PGCHANNELBINDING", "PGREQUIREAUTH", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION",
}

// parse reads a URL. Its errors repeat no part of it. It takes the ignored variables out
// of the process's environment, as the driver cannot be told to leave them alone.
func parse(u *url.URL, program string) (*pgx.ConnConfig, error) {
	if strings.Count(u.Path, "/") != 1 || u.Path == "/" {
		return nil, errors.New("must be postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full")
	}
	if strings.ContainsAny(u.Host+u.EscapedPath(), "&=") {
		return nil, errors.New("has a URL with & or = before its parameters, which begin with a question mark")
	}
	query, ok := parametersOf(u.RawQuery)
	if !ok {
		return nil, errors.New("has a URL with a parameter that it cannot have, or one twice; it can have " + strings.Join(parameters, ", "))
	}
	if err := checkFiles(query); err != nil {
		return nil, err
	}
	for _, name := range ignored {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	config, err := pgx.ParseConfig(u.String())
	if err != nil { // its text can contain the password
		return nil, errors.New("must be postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, with values that PostgreSQL knows")
	}
	if query["sslmode"] != "verify-full" && !onThisMachine(config) {
		return nil, errors.New("is a PostgreSQL that is not on this machine: its URL must have sslmode=verify-full")
	}
	if query["connect_timeout"] == "" {
		config.ConnectTimeout = Patience
	}
	// A statement that the server gives up has a certain answer; one that we give up
	// has not. And a process that stops in the middle of a change does not stop the
	// others.
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt((Patience * 5 / 6).Milliseconds(), 10)
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "5000"
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = program
	}
	return config, nil
}

// parametersOf reads a URL's query as PostgreSQL does: a plus sign is a plus sign.
func parametersOf(raw string) (values map[string]string, ok bool) {
	values = map[string]string{}
	for parameter := range strings.SplitSeq(raw, "&") {
		name, text, _ := strings.Cut(parameter, "=")
		value, err := url.PathUnescape(text)
		if _, twice := values[name]; err != nil || twice || raw != "" && !slices.Contains(parameters, name) {
			return nil, false
		}
		values[name] = value
	}
	return values, true
}

// checkFiles says what is wrong with the files that a URL names.
func checkFiles(query map[string]string) error {
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey"} {
		file := query[name]
		if file == "" || name == "sslrootcert" && file == "system" {
			continue
		}
		text, err := vetted.File{Path: file, Secret: name == "sslkey", Max: 4 << 20}.Read()
		if err != nil {
			return errors.New("has a URL whose " + name + " cannot be read: " + reason(err).Error())
		}
		if name == "sslrootcert" && !x509.NewCertPool().AppendCertsFromPEM(text) {
			return errors.New("has a URL whose sslrootcert has no certificate in PEM")
		}
	}
	if (query["sslcert"] == "") != (query["sslkey"] == "") {
		return errors.New("has a URL with one of sslcert and sslkey: each needs the other")
	}
	return nil
}

// onThisMachine reports whether each host is a socket's folder or a loopback
// address.
func onThisMachine(config *pgx.ConnConfig) bool {
	hosts := []string{config.Host}
	for _, other := range config.Fallbacks {
		hosts = append(hosts, other.Host)
	}
	return !slices.ContainsFunc(hosts, func(host string) bool {
		address, err := netip.ParseAddr(host)
		return !strings.HasPrefix(host, "/") && host != "localhost" && (err != nil || !address.IsLoopback())
	})
}

// reason is an error of package vetted without the file's name.
func reason(err error) error {
	if named, ok := errors.AsType[*fs.PathError](err); ok {
		return named.Err
	}
	return errors.Unwrap(err)
}
