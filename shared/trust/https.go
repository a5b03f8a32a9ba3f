package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// HTTPSFeed reads the list by conditional GET. It is safe for concurrent use.
type HTTPSFeed struct {
	url  string
	tls  *tls.Config
	poll time.Duration
}

// NewHTTPSFeed returns a feed of the URL, which is asked every poll; zero:
// 500 ms. Its scheme must be https: the list is signed, but over plain HTTP
// anybody on the way could hold back the newest. config may name other roots than
// the system's, or a client certificate; nil: the default, with TLS 1.3.
func NewHTTPSFeed(rawURL string, config *tls.Config, poll time.Duration) (*HTTPSFeed, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("the trust list's URL must be https://HOST/PATH, without user or fragment")
	}
	poll, err = checkPoll(poll)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	if config == nil {
		config = &tls.Config{}
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS13)
	return &HTTPSFeed{url: u.String(), tls: config, poll: poll}, nil
}

// Follow delivers what the URL has now and whenever it has changed. It follows no
// redirect. The entries are below the URL's path (SPEC.md section 6), or come along
// on the line after the statement.
func (f *HTTPSFeed) Follow(ctx context.Context, _ string, deliver func(statement string, fetch Fetch) error) error {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: f.tls, ForceAttemptHTTP2: true,
		DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	c := &https{f.url, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	tag := ""
	for {
		statement, entries, next, err := c.statement(ctx, tag)
		if err == nil && (next != tag || tag == "") {
			fetch := c.fetch
			if entries != "" {
				fetch = Given(entries)
			}
			err = deliver(statement, fetch)
		}
		if err != nil {
			return err
		}
		tag = next
		if !pause(ctx, f.poll, nil) {
			return ctx.Err()
		}
	}
}

// https asks for a list at a URL.
type https struct {
	url    string
	client *http.Client
}

// statement returns an empty one where the URL still has the one with the tag, and
// the tag of what it has.
func (c *https) statement(ctx context.Context, tag string) (statement, entries, next string, err error) {
	response, err := c.get(ctx, c.url, tag)
	if err != nil {
		return "", "", "", err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotModified && tag != "":
		return "", "", tag, nil
	case response.StatusCode != http.StatusOK:
		return "", "", "", fmt.Errorf("the trust list's URL answers %d", response.StatusCode)
	}
	if statement, entries, err = ReadList(response.Body); err != nil {
		return "", "", "", fmt.Errorf("the trust list's URL: %w", err)
	}
	return statement, entries, response.Header.Get("ETag"), nil
}

// fetch asks for what the entries differ by from those that the follower has, and
// where nobody knows, for all of them.
func (c *https) fetch(ctx context.Context, digest, have string) (string, error) {
	u, err := url.Parse(c.url)
	if err != nil {
		return "", err
	}
	u = u.JoinPath(digest)
	if have != "" {
		u = u.JoinPath(have)
	}
	response, err := c.get(ctx, u.String(), "")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound && have != "":
		return c.fetch(ctx, digest, "")
	case response.StatusCode != http.StatusOK:
		return "", fmt.Errorf("the trust list's URL answers %d for the entries", response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxText+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("the trust list's URL: %w", err)
	case len(text) > maxText:
		return "", errTooLong
	}
	return string(text), nil
}

func (c *https) get(ctx context.Context, at, tag string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	if tag != "" {
		request.Header.Set("If-None-Match", tag)
	}
	response, err := c.client.Do(request)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok { // it repeats the URL, whose query may be a secret
			err = of.Err
		}
		return nil, fmt.Errorf("the trust list's URL: %w", err)
	}
	return response, nil
}
