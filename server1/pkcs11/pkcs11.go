//go:build cgo

// Package pkcs11 loads signing keys whose private half stays in a PKCS#11 token: an
// HSM, a smart card, or SoftHSM. SERVER1 takes them for --key and --trust-key in the
// build that is in cmd; an issuer of your own takes them as any signing key:
//
//	key, err := pkcs11.Load("pkcs11:token=shop;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/shop/pin")
//	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key})
//
// # The key
//
// The URI (RFC 7512) names one token and in it one private key, on the curve P-256
// (ES256), P-384 (ES384) or Ed25519 (EdDSA), with its public key beside it under the
// same id. It is a module of its own, as it takes cgo: a PKCS#11 library is C, and runs
// in the process that loads it.
//
// # Invariants
//
// A PIN is read from a file, as the program starts, and is in no error. One that the
// token has refused is not tried again: tokens lock. A session that is lost is opened
// anew, once a signature; the key that is found then is the one that was loaded, or
// nothing is signed. Each signature is verified before anyone gets it. A token that does not
// answer holds nobody for longer than 5 s.
package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Those of PKCS#11 3.0, which the library does not name.
const (
	keyEdwards  = 0x40   // CKK_EC_EDWARDS
	signEdwards = 0x1057 // CKM_EDDSA
)

// Load returns the key that a URI names. It signs once to prove itself.
func Load(text string) (*signkey.Key, error) {
	k, err := load(text)
	if err != nil {
		return nil, err
	}
	key, err := signkey.New(k.algorithm, k)
	if err != nil {
		k.close()
		return nil, err
	}
	return key, nil
}

func load(text string) (*privateKey, error) {
	u, err := parse(text)
	if err != nil {
		return nil, err
	}
	pin, err := vetted.File{Path: u.pin, Secret: true, Max: 256}.Read()
	if err != nil {
		return nil, fmt.Errorf("pin-source: %w", err)
	}
	module := pkcs11.New(u.module)
	if module == nil {
		return nil, fmt.Errorf("%s cannot be loaded: there is no PKCS#11 library that this program can run", u.module)
	}
	k := &privateKey{uri: u, pin: strings.TrimRight(string(pin), "\r\n"), module: module, turn: make(chan struct{}, 1)}
	return k, k.open()
}

// privateKey is a crypto.Signer. It is safe for concurrent use: one signature at a time.
type privateKey struct {
	uri    *uri
	pin    string
	module *pkcs11.Ctx

	algorithm handoff.Algorithm
	public    crypto.PublicKey
	mechanism uint

	turn    chan struct{}         // full while somebody signs, who alone uses what follows
	session *pkcs11.SessionHandle // nil: it was lost
	object  pkcs11.ObjectHandle
	refused error // the PIN was
}

// Public implements crypto.Signer.
func (k *privateKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer: an ECDSA signature in ASN.1, of a digest, or an Ed25519
// signature, of a message.
func (k *privateKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if hash := opts.HashFunc(); k.algorithm == handoff.EdDSA && hash != 0 || k.algorithm != handoff.EdDSA && (hash == 0 || len(digest) != hash.Size()) {
		return nil, errors.New("the key does not sign that")
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case k.turn <- struct{}{}:
	case <-late.C:
		return nil, errLate
	}
	type answer struct {
		signature []byte
		err       error
	}
	answered := make(chan answer, 1)
	digest = slices.Clone(digest)
	go func() { // nothing ends a call of a library that does not return
		defer func() { <-k.turn }()
		signature, err := k.try(digest)
		if err != nil { // the session may be lost, or the token may have been away
			k.close()
			signature, err = k.try(digest)
		}
		answered <- answer{signature, err}
	}()
	select {
	case a := <-answered:
		return a.signature, a.err
	case <-late.C:
		return nil, errLate
	}
}

// patience is how long a caller waits for a signature, and for others' before it.
const patience = 5 * time.Second

var errLate = fmt.Errorf("signing: the token has not answered for %s", patience)

// try signs once, and verifies that: a library may have given the session to somebody
// else, and a signature that hardware has got wrong can tell the key.
func (k *privateKey) try(digest []byte) ([]byte, error) {
	if k.session == nil {
		if err := k.open(); err != nil {
			return nil, err
		}
	}
	if err := k.module.SignInit(*k.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(k.mechanism, nil)}, k.object); err != nil {
		return nil, failed("signing", err)
	}
	signature, err := k.module.Sign(*k.session, digest)
	if err != nil {
		return nil, failed("signing", err)
	}
	good := false
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(public, digest, signature)
	case *ecdsa.PublicKey:
		half := len(signature) / 2
		signature, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])})
		good = err == nil && ecdsa.VerifyASN1(public, digest, signature)
	}
	if !good {
		return nil, errors.New("signing: the token has made a signature that is not the key's")
	}
	return signature, nil
}

func (k *privateKey) close() {
	if k.session != nil {
		_ = k.module.CloseSession(*k.session) // it may be gone
		k.session = nil
	}
}

// open opens a session, and finds the key.
func (k *privateKey) open() (err error) {
	if k.refused != nil {
		return k.refused
	}
	if err := k.module.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return failed("the module "+k.uri.module, err)
	}
	slot, err := k.slot()
	if err != nil {
		return err
	}
	session, err := k.module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return failed("opening a session", err)
	}
	k.session = &session
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	err = k.module.Login(session, pkcs11.CKU_USER, k.pin)
	if is(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED) {
		k.refused = fmt.Errorf("the token does not take the PIN in %s (%w): it is not tried again until the program is started anew, as tokens lock", k.uri.pin, err)
		return k.refused
	}
	if err != nil && !is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return failed("logging in", err)
	}
	return k.find()
}

// slot returns where the token is.
func (k *privateKey) slot() (uint, error) {
	slots, err := k.module.GetSlotList(true)
	if err != nil {
		return 0, failed("looking for tokens", err)
	}
	var found []uint
	for _, slot := range slots {
		info, err := k.module.GetTokenInfo(slot)
		if err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 && k.uri.fits(slot, info) {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("the URI fits %d of the tokens in %d slots: it must fit one (token, serial, slot-id)", len(found), len(slots))
	}
	return found[0], nil
}

func (u *uri) fits(slot uint, info pkcs11.TokenInfo) bool {
	fits := func(want, is string) bool { return want == "" || want == is }
	return fits(u.token, info.Label) && fits(u.serial, info.SerialNumber) && fits(u.manufacturer, info.ManufacturerID) && fits(u.model, info.Model) &&
		(u.slot == nil || *u.slot == slot)
}

// find finds the private key, and what its public one says of it.
func (k *privateKey) find() error {
	var template []*pkcs11.Attribute
	if k.uri.object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.uri.object))
	}
	if k.uri.id != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(k.uri.id)))
	}
	object, err := k.one("private", pkcs11.CKO_PRIVATE_KEY, template)
	if err != nil {
		return err
	}
	private, err := k.attributes(object, pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	if kind := private[1]; !isKeyType(kind, pkcs11.CKK_EC) && !isKeyType(kind, keyEdwards) {
		return errKind
	}
	beside, err := k.one("public", pkcs11.CKO_PUBLIC_KEY, // a key type is the same bytes there
		[]*pkcs11.Attribute{{Type: pkcs11.CKA_ID, Value: private[0]}, {Type: pkcs11.CKA_KEY_TYPE, Value: private[1]}})
	if err != nil {
		return err
	}
	public, err := k.attributes(beside, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
	if err != nil {
		return err
	}
	found, err := decode(public[0], public[1])
	if err != nil {
		return err
	}
	if k.public != nil && !k.public.(interface{ Equal(crypto.PublicKey) bool }).Equal(found.public) {
		return errors.New("the token has another key by that name than when the program started: nothing is signed with it")
	}
	k.public, k.algorithm, k.mechanism, k.object = found.public, found.algorithm, found.mechanism, object
	return nil
}

// one returns the only object of a class that is as the template says.
func (k *privateKey) one(what string, class uint, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	template = append(slices.Clip(template), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))
	if err := k.module.FindObjectsInit(*k.session, template); err != nil {
		return 0, failed("looking for the key", err)
	}
	objects, _, err := k.module.FindObjects(*k.session, 2)
	if err := errors.Join(err, k.module.FindObjectsFinal(*k.session)); err != nil {
		return 0, failed("looking for the key", err)
	}
	switch {
	case len(objects) > 1:
		return 0, fmt.Errorf("the token has several %s keys of that name: give the id as well", what)
	case len(objects) == 0 && class == pkcs11.CKO_PUBLIC_KEY:
		return 0, errors.New("the token has no public key with the id and the type of the private one: store it there, too")
	case len(objects) == 0:
		return 0, errors.New("the token has no private key of that name that its user may see (object, id)")
	}
	return objects[0], nil
}

func (k *privateKey) attributes(of pkcs11.ObjectHandle, types ...uint) (values [][]byte, err error) {
	var asked []*pkcs11.Attribute
	for _, t := range types {
		asked = append(asked, pkcs11.NewAttribute(t, nil))
	}
	got, err := k.module.GetAttributeValue(*k.session, of, asked)
	if err != nil {
		return nil, failed("reading the key's attributes", err)
	}
	for _, attribute := range got {
		values = append(values, attribute.Value)
	}
	return values, nil
}

func isKeyType(value []byte, of uint) bool {
	return bytes.Equal(value, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, of).Value)
}

var errKind = errors.New("the key is of another kind than those that sign here: on P-256 (ES256), P-384 (ES384) or Ed25519 (EdDSA)")

// kind is what a public key is for.
type kind struct {
	public    crypto.PublicKey
	algorithm handoff.Algorithm
	mechanism uint
}

// decode reads a public key as PKCS#11 has it: the curve as an OBJECT IDENTIFIER or a
// name, and the point in an OCTET STRING; some tokens leave that out.
func decode(params, point []byte) (kind, error) {
	var octets []byte
	if rest, err := asn1.Unmarshal(point, &octets); err != nil || len(rest) > 0 {
		octets = point
	}
	for _, curve := range []struct {
		oid       asn1.ObjectIdentifier
		curve     elliptic.Curve
		algorithm handoff.Algorithm
	}{
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, elliptic.P256(), handoff.ES256},
		{asn1.ObjectIdentifier{1, 3, 132, 0, 34}, elliptic.P384(), handoff.ES384},
	} {
		if named, err := asn1.Marshal(curve.oid); err != nil || !bytes.Equal(named, params) {
			continue
		}
		public, err := ecdsa.ParseUncompressedPublicKey(curve.curve, octets)
		if err != nil {
			return kind{}, errors.New("the token's public key is no point of its curve")
		}
		return kind{public, curve.algorithm, pkcs11.CKM_ECDSA}, nil
	}
	var name string
	var oid asn1.ObjectIdentifier
	_, noName := asn1.Unmarshal(params, &name)
	_, noOID := asn1.Unmarshal(params, &oid)
	if len(octets) == ed25519.PublicKeySize &&
		(noName == nil && name == "edwards25519" || noOID == nil && oid.Equal(asn1.ObjectIdentifier{1, 3, 101, 112})) {
		return kind{ed25519.PublicKey(octets), handoff.EdDSA, signEdwards}, nil
	}
	return kind{}, errKind
}

func is(err error, codes ...pkcs11.Error) bool {
	var code pkcs11.Error
	return errors.As(err, &code) && slices.Contains(codes, code)
}

func failed(at string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", at, err)
}
