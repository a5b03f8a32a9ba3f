package handoff

// UnverifiedClaims returns what a token of either kind says, without knowing who
// wrote it: nothing may be decided in its favour. The token's form, its header and its
// claims are checked; its signature, issuer and times are not. It is for those
// who pass a token on and must see what it names. The error is a *Refusal.
func UnverifiedClaims(raw string) (Claims, error) {
	if len(raw) > maxToken {
		return Claims{}, invalid("token.length")
	}
	jws, err := split(raw)
	if err != nil {
		return Claims{}, err
	}
	h, err := anyKind.readHeader(jws)
	if err != nil {
		return Claims{}, err
	}
	payload, err := base64url.DecodeString(jws.payload)
	if err != nil {
		return Claims{}, invalid("token.base64url")
	}
	claims, err := decodeClaims(Kind(h.typ), string(payload))
	if err != nil {
		return Claims{}, err
	}
	return *claims, nil
}
