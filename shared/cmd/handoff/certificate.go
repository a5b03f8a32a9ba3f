package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// readCertificate returns the first certificate of a file in PEM, or nil where no file
// is named.
func readCertificate(path string) (*x509.Certificate, error) {
	if path == "" {
		return nil, nil
	}
	text, err := vetted.File{Path: path, Max: 1 << 20}.Read()
	if err != nil {
		return nil, fmt.Errorf("--certificate: %w", err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("--certificate: %s: %w", path, err)
		}
		return certificate, nil
	}
	return nil, fmt.Errorf("--certificate: %s: %w", path, errors.New("no certificate in PEM"))
}
