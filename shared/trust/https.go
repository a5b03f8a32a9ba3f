package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
// redirect.
func (f *HTTPSFeed) Follow(ctx context.Context, deliver func(raw string) error) error {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: f.tls, ForceAttemptHTTP2: true,
		DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	tag := ""
	for {
		next, err := f.get(ctx, client, tag, deliver)
		if err != nil {
			return err
		}
		tag = next
		if !pause(ctx, f.poll, nil) {
			return ctx.Err()
		}
	}
}

// get asks once and delivers what is not the one with the tag. It returns the tag
// of what the URL has.
func (f *HTTPSFeed) get(ctx context.Context, client *http.Client, tag string, deliver func(string) error) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return "", err
	}
	if tag != "" {
		request.Header.Set("If-None-Match", tag)
	}
	response, err := client.Do(request)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) { // it repeats the URL, whose query may be a secret
			err = of.Err
		}
		return "", fmt.Errorf("the trust list's URL: %w", err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotModified && tag != "":
		return tag, nil
	case response.StatusCode != http.StatusOK:
		return "", fmt.Errorf("the trust list's URL answers %d", response.StatusCode)
	}
	raw, err := readList(response.Body)
	if err != nil {
		return "", fmt.Errorf("the trust list's URL: %w", err)
	}
	return response.Header.Get("ETag"), deliver(raw)
}
