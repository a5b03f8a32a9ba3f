package handoff

// Verify is the signature check that tokens go through.
func (k Key) Verify(input, signature []byte) bool { return k.verify(input, signature) }

// VerifyCompact takes raw through all that Open does, but for what ties a token to
// this project: its length, our typ, and a kid that is a thumbprint. Other
// people's vectors cannot have those.
func VerifyCompact(raw string, key Key) (payload string, err error) {
	jws, err := split(raw)
	if err != nil {
		return "", err
	}
	text, err := jws.decodeHeader()
	if err != nil {
		return "", err
	}
	h, err := parseHeader(text)
	if err != nil {
		return "", err
	}
	if h.alg != key.algorithm {
		return "", invalid(CheckKeyAlg)
	}
	return jws.verify(key)
}
