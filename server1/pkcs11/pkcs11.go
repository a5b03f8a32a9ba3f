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
// A PIN is read from a file when the program starts, and is in no error. After a login that
// failed, the process never logs in to that token again, with any of its keys: tokens lock.
// Only errors that say that the token is away do not count. A lost session is opened again,
// once per signature and not within a second of a failure. Each signature is verified with the
// public key that was loaded. Who waits for a token that does not answer gets an error after
// 5 s, or 30 s in Load, and who calls after that gets it at once.
package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync/atomic"
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
	return signkey.New(k.algorithm, k)
}

func load(text string) (*privateKey, error) {
	u, err := parse(text)
	if err != nil {
		return nil, err
	}
	content, err := vetted.File{Path: u.pin, Secret: true, Max: 256}.Read()
	if err != nil {
		return nil, fmt.Errorf("pin-source: %w", err)
	}
	pin := strings.TrimRight(string(content), "\r\n")
	if pin == "" {
		return nil, fmt.Errorf("pin-source: %s: the PIN is empty", u.pin)
	}
	info, err := os.Stat(u.module)
	if err == nil {
		err = vetted.Kept(info, "run code in this program")
	}
	if err != nil {
		return nil, fmt.Errorf("the module %s cannot be loaded: %w", u.module, err)
	}
	module := pkcs11.New(u.module)
	if module == nil {
		return nil, fmt.Errorf("the module %s cannot be loaded: there is no PKCS#11 library that this program can run", u.module)
	}
	return use(module, u, pin)
}

// use finds the key of a URI.
func use(module module, u *uri, pin string) (*privateKey, error) {
	k := &privateKey{uri: u, pin: pin, module: module, turn: make(chan struct{}, 1)}
	if _, err := k.bounded(toLoad, func() ([]byte, error) { return nil, k.open() }); err != nil {
		return nil, err
	}
	return k, nil
}

// module is what is used of a PKCS#11 library.
type module interface {
	Initialize(...pkcs11.InitializeOption) error
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(pkcs11.SessionHandle) error
	Login(session pkcs11.SessionHandle, user uint, pin string) error
	FindObjectsInit(pkcs11.SessionHandle, []*pkcs11.Attribute) error
	FindObjects(session pkcs11.SessionHandle, limit int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(pkcs11.SessionHandle) error
	GetAttributeValue(pkcs11.SessionHandle, pkcs11.ObjectHandle, []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	SignInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Sign(pkcs11.SessionHandle, []byte) ([]byte, error)
}

// privateKey is a crypto.Signer. It is safe for concurrent use: one signature at a time.
type privateKey struct {
	uri    *uri
	pin    string
	module module
	kind   // does not change once the key is loaded

	began atomic.Pointer[time.Time] // when the token was last asked; nil: it has answered

	turn     chan struct{}         // full while somebody asks the token: nobody else uses what follows
	session  *pkcs11.SessionHandle // nil: it was lost
	object   pkcs11.ObjectHandle
	failed   error // at the time of failedAt
	failedAt time.Time
}

// Public implements crypto.Signer.
func (k *privateKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer: an ECDSA signature in ASN.1, of a digest, or an Ed25519
// signature, of a message.
func (k *privateKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if hash := opts.HashFunc(); k.algorithm == handoff.EdDSA && hash != 0 || k.algorithm != handoff.EdDSA && (hash == 0 || len(digest) != hash.Size()) {
		return nil, errors.New("the key does not sign that")
	}
	digest = slices.Clone(digest)
	return k.bounded(patience, func() ([]byte, error) {
		had := k.session != nil
		signature, err := k.try(digest)
		if err != nil && had { // the session may be lost
			k.close()
			signature, err = k.try(digest)
		}
		return signature, err
	})
}

const (
	patience = 5 * time.Second  // how long a caller waits for the token, and for others before it
	toLoad   = 30 * time.Second // as the library begins, and logs in
	pause    = time.Second      // how long the token is left alone after a failure
)

var errLate = errors.New("the token has not answered in time")

// bounded asks the token, in its turn. Nothing ends a call of a library that does not return,
// so callers end their wait.
func (k *privateKey) bounded(wait time.Duration, ask func() ([]byte, error)) ([]byte, error) {
	if began := k.began.Load(); began != nil && time.Since(*began) >= patience {
		return nil, errLate
	}
	late := time.NewTimer(wait)
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
	go func() {
		defer func() { <-k.turn }()
		if k.failed != nil && time.Since(k.failedAt) < pause {
			answered <- answer{nil, k.failed}
			return
		}
		now := time.Now()
		k.began.Store(&now)
		signature, err := ask()
		k.began.Store(nil)
		k.failed, k.failedAt = err, time.Now()
		answered <- answer{signature, err}
	}()
	select {
	case a := <-answered:
		return a.signature, a.err
	case <-late.C:
		return nil, errLate
	}
}

// try signs once, and verifies that: a library may have given the session to somebody
// else, and a signature that hardware has got wrong can tell the key.
func (k *privateKey) try(digest []byte) ([]byte, error) {
	if k.session == nil {
		if err := k.open(); err != nil {
			return nil, err
		}
	}
	return k.sign(digest)
}

func (k *privateKey) sign(digest []byte) ([]byte, error) {
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
	if err := k.module.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return failed("the module "+k.uri.module, err)
	}
	slot, info, err := k.slot()
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
	if err := loginOf(info).in(k.module, session, info.Flags, k.pin, k.uri.pin); err != nil {
		return err
	}
	return k.find()
}

// slot returns where the token is.
func (k *privateKey) slot() (slot uint, token pkcs11.TokenInfo, err error) {
	slots, err := k.module.GetSlotList(true)
	if err != nil {
		return 0, token, failed("looking for tokens", err)
	}
	found := 0
	for _, s := range slots {
		info, err := k.module.GetTokenInfo(s)
		if err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 && k.uri.fits(s, info) {
			slot, token = s, info
			found++
		}
	}
	if found != 1 {
		return 0, token, fmt.Errorf("the URI fits %d of the tokens in %d slots: it must fit one (token, serial, slot-id)", found, len(slots))
	}
	return slot, token, nil
}

func (u *uri) fits(slot uint, info pkcs11.TokenInfo) bool {
	fits := func(want, is string) bool { return want == "" || want == is }
	return fits(u.token, info.Label) && fits(u.serial, info.SerialNumber) && fits(u.manufacturer, info.ManufacturerID) && fits(u.model, info.Model) &&
		(u.slot == nil || *u.slot == slot)
}

// find finds the private key and, as it is loaded, the public one that verifies what it signs.
func (k *privateKey) find() error {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	if k.uri.object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.uri.object))
	}
	if k.uri.id != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(k.uri.id)))
	}
	objects, err := k.objects(template)
	switch {
	case err != nil:
		return err
	case len(objects) == 0:
		return errors.New("the token has no private key of that name that its user may see (object, id)")
	case len(objects) > 1:
		return errors.New("the token has several private keys of that name: give the id as well")
	}
	k.object = objects[0]
	if k.public != nil {
		return nil // each signature is verified with it
	}
	private, err := k.attributes(k.object, pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	if kind := private[1]; !isKeyType(kind, pkcs11.CKK_EC) && !isKeyType(kind, keyEdwards) {
		return errKind
	}
	beside, err := k.objects([]*pkcs11.Attribute{ // a key type is the same bytes there
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		{Type: pkcs11.CKA_ID, Value: private[0]},
		{Type: pkcs11.CKA_KEY_TYPE, Value: private[1]},
	})
	if err == nil && len(beside) == 0 {
		err = errors.New("the token has no public key with the id and the type of the private one: store it there, too")
	}
	for _, object := range beside {
		if err = k.take(object); err == nil {
			k.uri.id = string(private[0]) // a key that is made later by the same label is not it
			return nil
		}
	}
	k.kind = kind{}
	return err
}

// take takes a public key, if it verifies what the private one signs.
func (k *privateKey) take(object pkcs11.ObjectHandle) error {
	public, err := k.attributes(object, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
	if err != nil {
		return err
	}
	if k.kind, err = decode(public[0], public[1]); err != nil {
		return err
	}
	digest := sha512.Sum384([]byte("a proof of the private key"))
	if k.algorithm == handoff.ES256 {
		_, err = k.sign(digest[:32])
	} else {
		_, err = k.sign(digest[:])
	}
	return err
}

// objects returns what is as the template says, up to 16.
func (k *privateKey) objects(template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := k.module.FindObjectsInit(*k.session, template); err != nil {
		return nil, failed("looking for the key", err)
	}
	objects, _, err := k.module.FindObjects(*k.session, 16)
	return objects, failed("looking for the key", errors.Join(err, k.module.FindObjectsFinal(*k.session)))
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

// octets returns a point, which some tokens do not put into an OCTET STRING. Its length tells:
// the coordinates of a bare one may look like the head of such a string.
func octets(point []byte, size int) (inner []byte) {
	if len(point) == size {
		return point
	}
	if rest, err := asn1.Unmarshal(point, &inner); err != nil || len(rest) > 0 {
		return nil
	}
	return inner
}

// decode reads a public key as PKCS#11 has it: the curve as an OBJECT IDENTIFIER or a
// name, and the point.
func decode(params, point []byte) (kind, error) {
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
		public, err := ecdsa.ParseUncompressedPublicKey(curve.curve, octets(point, 1+2*((curve.curve.Params().BitSize+7)/8)))
		if err != nil {
			return kind{}, errors.New("the token's public key is no point of its curve")
		}
		return kind{public, curve.algorithm, pkcs11.CKM_ECDSA}, nil
	}
	var name string
	var oid asn1.ObjectIdentifier
	_, noName := asn1.Unmarshal(params, &name)
	_, noOID := asn1.Unmarshal(params, &oid)
	if public := octets(point, ed25519.PublicKeySize); len(public) == ed25519.PublicKeySize &&
		(noName == nil && name == "edwards25519" || noOID == nil && oid.Equal(asn1.ObjectIdentifier{1, 3, 101, 112})) {
		return kind{ed25519.PublicKey(public), handoff.EdDSA, signEdwards}, nil
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
