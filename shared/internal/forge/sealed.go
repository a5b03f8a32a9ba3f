package forge

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Recipient is an audience's public key for sealed tokens, on P-256, and its id.
type Recipient struct {
	ID     string
	Public *ecdh.PublicKey
}

// NewRecipient makes the recipient of a public key.
func NewRecipient(public *ecdh.PublicKey) Recipient {
	x, y := coordinates(public)
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`)) // RFC 7638 section 3.2
	return Recipient{ID: Encode(string(sum[:])), Public: public}
}

func coordinates(public *ecdh.PublicKey) (x, y string) {
	point := string(public.Bytes())
	return Encode(point[1:33]), Encode(point[33:65])
}

// JWE is a sealed token before it is made: RFC 7516 in compact form, with ECDH-ES over
// P-256 (RFC 7518 section 4.6), whose every byte can be chosen.
type JWE struct {
	Header Object
	shared []byte // what the key agreement yields
}

// Seal begins a sealed token that its recipient accepts.
func Seal(to Recipient) JWE {
	ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	shared, err := ephemeral.ECDH(to.Public)
	if err != nil {
		panic(err)
	}
	x, y := coordinates(ephemeral.PublicKey())
	return JWE{shared: shared, Header: Object{
		{"alg", `"ECDH-ES"`},
		{"cty", `"handoff+jwt"`},
		{"enc", `"A256GCM"`},
		{"epk", `{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`},
		{"kid", Quote(to.ID)},
		{"typ", `"handoff-sealed+jwt"`},
	}}
}

// With returns the JWE with a header member set.
func (j JWE) With(name, value string) JWE {
	j.Header = j.Header.Set(name, value)
	return j
}

// Without returns the JWE without a header member.
func (j JWE) Without(name string) JWE {
	j.Header = j.Header.Without(name)
	return j
}

// Around returns the JWE around a plaintext, under any header.
func (j JWE) Around(plaintext string) string { return strings.Join(j.parts(plaintext), ".") }

func (j JWE) parts(plaintext string) []string { return j.under(j.Header.String(), plaintext) }

// under is parts with a header of any text.
func (j JWE) under(text, plaintext string) []string {
	enc := strings.Trim(j.Header.Get("enc"), `"`)
	size := 32
	if enc == "A128GCM" {
		size = 16
	}
	// The Concat KDF (RFC 7518 section 4.6.2): one round, no apu and no apv.
	info := binary.BigEndian.AppendUint32(nil, 1)
	info = append(info, j.shared...)
	info = binary.BigEndian.AppendUint32(info, uint32(len(enc)))
	info = append(append(info, enc...), 0, 0, 0, 0, 0, 0, 0, 0)
	key := sha256.Sum256(binary.BigEndian.AppendUint32(info, uint32(8*size)))
	block, err := aes.NewCipher(key[:size])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		panic(err)
	}
	header := Encode(text)
	sealed := aead.Seal(nil, nonce, []byte(plaintext), []byte(header))
	at := len(sealed) - aead.Overhead()
	return []string{header, "", Encode(string(nonce)), Encode(string(sealed[:at])), Encode(string(sealed[at:]))}
}

// HostileSealed is a sealed token with one defect. Its control is Seal(to).Around(raw).
type HostileSealed struct {
	ID    string        // of the attack, in the project's table
	Name  string        // what is wrong, in words
	Check handoff.Check // which must refuse it; the caller is told TOKEN_INVALID
	Forge func(to Recipient, raw string) string
}

// SealedAttacks returns the hostile sealed tokens. What they hold is a good token,
// unless that is what is wrong.
func SealedAttacks() []HostileSealed {
	var all []HostileSealed
	add := func(id, name string, check handoff.Check, forge func(to Recipient, raw string) string) {
		all = append(all, HostileSealed{id, name, check, forge})
	}
	member := func(id, name, value string) {
		add(id, "header "+name+" "+value, "sealed.header", func(to Recipient, raw string) string { return Seal(to).With(name, value).Around(raw) })
	}
	part := func(id, name string, check handoff.Check, change func(parts []string)) {
		add(id, name, check, func(to Recipient, raw string) string {
			parts := Seal(to).parts(raw)
			change(parts)
			return strings.Join(parts, ".")
		})
	}
	within := func(id, name string, check handoff.Check, inner func(to Recipient, raw string) string) {
		add(id, name, check, func(to Recipient, raw string) string { return Seal(to).Around(inner(to, raw)) })
	}

	add("B13", "zip of a mebibyte", "sealed.header", func(to Recipient, _ string) string {
		return Seal(to).With("zip", `"DEF"`).Around(deflate(strings.Repeat("A", 1<<20)))
	})
	member("B13", "zip", `null`)
	member("B14", "p2c", `1000000000`)
	member("B14", "alg", `"PBES2-HS256+A128KW"`)
	for _, alg := range []string{"RSA1_5", "RSA-OAEP", "dir", "A256KW", "ECDH-ES+A256KW", "none", "ecdh-es", ""} {
		member("B15", "alg", Quote(alg))
	}
	for _, enc := range []string{"A128GCM", "A256CBC-HS512", "a256gcm", ""} {
		member("B15", "enc", Quote(enc))
	}
	for _, unknown := range []string{"apu", "apv", "iv", "tag"} {
		member("B15", unknown, `"QUFB"`)
	}
	point := func(name, x, y string, check handoff.Check) {
		add("B15", "epk "+name, check, func(to Recipient, raw string) string {
			return Seal(to).With("epk", `{"crv":"P-256","kty":"EC","x":"`+x+`","y":"`+y+`"}`).Around(raw)
		})
	}
	zero, one, ones := strings.Repeat("A", 43), strings.Repeat("A", 41)+"AE", strings.Repeat("_", 42)+"8"
	point("at zero", zero, zero, "sealed.open")
	point("off the curve", one, one, "sealed.open")
	point("beyond the field", ones, ones, "sealed.open")
	point("too short", zero[:42], zero, "sealed.header")
	point("empty", "", "", "sealed.header")
	add("B15", "epk on P-384", "sealed.header", func(to Recipient, raw string) string {
		j := Seal(to)
		return j.With("epk", strings.Replace(j.Header.Get("epk"), "P-256", "P-384", 1)).Around(raw)
	})
	add("B15", "epk with its private half", "sealed.header", func(to Recipient, raw string) string {
		j := Seal(to)
		return j.With("epk", strings.Replace(j.Header.Get("epk"), "{", `{"d":"`+zero+`",`, 1)).Around(raw)
	})
	member("B15", "epk", `null`)
	member("B15", "epk", `[]`)
	part("B15", "an encrypted key", "sealed.parts", func(p []string) { p[1] = "AAAA" })
	part("B15", "another tag", "sealed.open", func(p []string) { p[4] = strings.Repeat("A", 22) })
	part("B15", "a tag of four bytes", "sealed.base64url", func(p []string) { p[4] = p[4][:6] })
	part("B15", "no tag", "sealed.base64url", func(p []string) { p[4] = "" })
	part("B15", "another nonce", "sealed.open", func(p []string) { p[2] = strings.Repeat("A", 16) })
	part("B15", "a nonce of 16 bytes", "sealed.base64url", func(p []string) { p[2] = strings.Repeat("A", 22) })
	part("B15", "another ciphertext", "sealed.open", func(p []string) { p[3] = "AAAA" + p[3][4:] })
	part("B15", "no ciphertext", "sealed.parts", func(p []string) { p[3] = "" })
	part("B15", "the same header, spelled in another way", "sealed.open", func(p []string) {
		text, err := base64.RawURLEncoding.DecodeString(p[0])
		if err != nil {
			panic(err)
		}
		p[0] = Encode(" " + string(text))
	})
	add("B15", "sealed to another audience, under this one's kid", "sealed.open", func(to Recipient, raw string) string {
		return Seal(stranger()).With("kid", Quote(to.ID)).Around(raw)
	})
	add("B15", "sealed to another audience", "sealed.key", func(_ Recipient, raw string) string { return Seal(stranger()).Around(raw) })

	within("B16", "around an unsigned token", "token.parts", func(_ Recipient, raw string) string {
		return Encode(`{"alg":"none","typ":"handoff+jwt"}`) + "." + strings.Split(raw, ".")[1] + "."
	})
	within("B16", "around a sealed token", "sealed.inner", func(to Recipient, raw string) string { return Seal(to).Around(raw) })
	within("B16", "around nothing", "sealed.parts", func(Recipient, string) string { return "" })
	within("B16", "around claims", "token.parts", func(Recipient, string) string { return `{"sub":"mallory"}` })
	within("B16", "around a forged signature", "signature", func(_ Recipient, raw string) string {
		parts := strings.Split(raw, ".")
		return parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))
	})
	within("B16", "around a token with a line feed", "token.base64url", func(_ Recipient, raw string) string { return raw + "\n" })
	within("B09", "around a token of 4,097 bytes", "token.length", func(_ Recipient, raw string) string {
		return raw + strings.Repeat("A", max(0, 4097-len(raw)))
	})

	member("A05", "jwk", `{"kty":"EC"}`)
	member("A06", "jku", `"https://attacker.example/jwks.json"`)
	member("A12", "crit", `["exp"]`)
	member("A12", "crit", `[]`)
	for _, typ := range []string{"handoff+jwt", "handoff-visit+jwt", "JWT", ""} {
		member("A16", "typ", Quote(typ))
	}
	for _, cty := range []string{"JWT", "handoff-sealed+jwt", "handoff-trust+jwt", ""} {
		member("A17", "cty", Quote(cty))
	}
	for _, name := range []string{"alg", "enc", "epk", "kid", "typ", "cty"} {
		add("A16", "no "+name, "sealed.header", func(to Recipient, raw string) string { return Seal(to).Without(name).Around(raw) })
		add("B01", name+" twice", "sealed.header", func(to Recipient, raw string) string {
			j := Seal(to)
			j.Header = j.Header.Add(name, j.Header.Get(name))
			return j.Around(raw)
		})
	}
	member("A08", "kid", `"../../dev/null"`)
	member("A08", "kid", `7`)
	member("B03", "ALG", `"ECDH-ES"`)
	header := func(id, name string, check handoff.Check, change func(string) string) {
		add(id, name, check, func(to Recipient, raw string) string {
			j := Seal(to)
			return strings.Join(j.under(change(j.Header.String()), raw), ".")
		})
	}
	header("B01", "kid twice, once escaped", "sealed.header", func(s string) string { return `{"\u006bid":"a",` + s[1:] })
	header("B11", "invalid UTF-8 in the header", "sealed.header", func(s string) string { return strings.Replace(s, `"typ":"`, "\"typ\":\"\xff", 1) })
	header("B12", "a second header behind the first", "sealed.header", func(s string) string { return s + s })
	header("B12", "the header is a string", "sealed.header", strconv.Quote)
	header("B09", "a header of 1,025 bytes", "token.length", func(s string) string { return strings.Repeat(" ", 1000) + s })
	part("B04", "trailing bits", "sealed.base64url", func(p []string) { p[4] = p[4][:21] + "B" })
	part("B05", "a line feed", "sealed.base64url", func(p []string) { p[3] += "\n" })
	part("B06", "padding", "sealed.base64url", func(p []string) { p[2] = p[2][:15] + "=" })
	return all
}

// stranger is a recipient whose private key nobody has.
func stranger() Recipient {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return NewRecipient(private.PublicKey())
}

// deflate compresses (RFC 1951).
func deflate(text string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		panic(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}
