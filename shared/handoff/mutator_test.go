package handoff_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// mutator changes good tokens of one algorithm, knowing how they are built: as
// compact text, as the lexemes of their JSON, as signatures. The same seed makes
// the same changes.
type mutator struct {
	*rand.Rand
	key      *forge.Key
	resigned int // how many of 1000 mutants are signed after the change
	goods    []forge.Token
	texts    []string // of the goods
	values   []string
	times    []string
}

func newMutator(key *forge.Key, seed uint64, resigned int) *mutator {
	m := &mutator{Rand: rand.New(rand.NewPCG(seed, 0)), key: key, resigned: resigned, values: interesting(), times: times()}
	good := forge.Good(forge.Params{
		Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Session: handoff.NewID(), Operation: operation, IssuedAt: now,
	})
	digest := forge.Details(operation).Without("fields").Set("fields_sha256", forge.Quote(strings.Repeat("A", 43)))
	fields := forge.Details(handoff.Operation{Method: pay, Bound: []handoff.Field{
		{Path: `labels["eu"]`, Value: "\u2028 \U0001f600"}, {Path: "lines[0].sku", Value: `"\`}, {Path: "note", Value: ""},
	}})
	m.goods = []forge.Token{
		good,
		good.WithClaim("nbf", fmt.Sprint(now.Unix())).WithDetails(fields).Fresh(),
		good.WithoutClaim("sid").WithDetails(digest).Fresh(),
		good.WithDetails(forge.Details(handoff.Operation{Method: pay})).Fresh(),
		good.WithClaim("iat", fmt.Sprint(now.Unix()-200)).Fresh(),
		bound(good).Fresh(),
		good.WithHeader("typ", `"handoff-visit+jwt"`).WithDetails(forge.VisitDetails(pay, "/billing.v1.Billing/Get")).Fresh(),
		good.WithHeader("typ", `"handoff-visit+jwt"`).WithDetails(forge.VisitDetails(pay)).WithClaim("exp", fmt.Sprint(now.Unix()+3600)).Fresh(),
	}
	for _, good := range m.goods {
		m.texts = append(m.texts, good.Compact())
	}
	return m
}

// mutant is a changed token.
type mutant struct {
	raw      string
	resigned bool // the signature is over what it now says
	twin     bool // it is the (r, n-s) form of an ECDSA signature
	original bool // it is what it was
}

func (m *mutator) next() mutant {
	i := m.IntN(len(m.goods))
	good, text := m.goods[i], m.texts[i]
	header, payload := good.Header.String(), good.Payload.String()
	if m.IntN(1000) < m.resigned {
		switch roll := m.IntN(24); {
		case roll < 8:
			header = m.json(header)
		case roll < 9: // a time by itself: few other changes leave all before it right
			payload = good.WithClaim(pick(m, []string{"iat", "nbf", "exp"}), pick(m, m.times)).Payload.String()
		case roll < 10:
			header = good.WithHeader("alg", strconv.Quote(string(pick(m, handoff.Algorithms())))).Header.String()
		default:
			payload = m.json(payload)
		}
		return mutant{raw: good.Text(header, payload), resigned: true}
	}
	parts := strings.Split(text, ".")
	twin := false
	switch roll := m.IntN(100); {
	case roll < 45:
		text = m.text(text)
	case roll < 65:
		text = forge.Encode(m.json(header)) + "." + parts[1] + "." + parts[2]
	case roll < 75:
		text = parts[0] + "." + forge.Encode(m.json(payload)) + "." + parts[2]
	case roll < 80: // one good token's parts under another's signature
		other := strings.Split(m.texts[m.IntN(len(m.texts))], ".")
		parts[m.IntN(3)] = other[m.IntN(3)]
		text = strings.Join(parts, ".")
	default:
		var signature string
		signature, twin = m.signature(parts[0]+"."+parts[1], parts[2])
		text = parts[0] + "." + parts[1] + "." + signature
	}
	return mutant{raw: text, twin: twin, original: slices.Contains(m.texts, text)}
}

func pick[T any](m *mutator, from []T) T { return from[m.IntN(len(from))] }

// text changes a compact form in one to three places.
func (m *mutator) text(s string) string {
	for range 1 + m.IntN(3) {
		i := m.IntN(len(s) + 1)
		j := min(len(s), i+1+m.IntN(8))
		inserted := pick(m, []string{
			"A", "_", "-", "+", "/", "=", "==", ".", "..", " ", "\n", "\r\n", "\t", "\x00", "\x7f", "\xff", "\u00e9", "%2e", "\ufeff", ",", `"`, "eyJ9",
			string(rune(m.IntN(256))), strings.Repeat("A", 1+m.IntN(4096)),
		})
		switch m.IntN(9) {
		case 0:
			s = s[:i] + inserted + s[i:]
		case 1:
			s = s[:i] + inserted + s[j:]
		case 2:
			s = s[:i] + s[j:]
		case 3:
			s = s[:i] + s[i:j] + s[i:]
		case 4:
			s = s[:i]
		case 5:
			s = s[i:]
		case 6: // one bit
			if i < len(s) {
				s = s[:i] + string([]byte{s[i] ^ 1<<m.IntN(8)}) + s[i+1:]
			}
		case 7: // the last character of a part, whose low bits may be no part of a byte
			parts := strings.Split(s, ".")
			part := &parts[m.IntN(len(parts))]
			if *part != "" {
				*part = (*part)[:len(*part)-1] + pick(m, strings.Split("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", ""))
			}
			s = strings.Join(parts, ".")
		case 8:
			parts := strings.Split(s, ".")
			m.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			s = strings.Join(parts, ".")
		}
	}
	return s
}

// json changes a JSON text in one to three places.
func (m *mutator) json(text string) string {
	lexemes := lex(text)
	for range 1 + m.IntN(3) {
		lexemes = slices.DeleteFunc(m.lexemes(lexemes), func(s string) bool { return s == "" })
		if len(lexemes) == 0 {
			break
		}
	}
	return strings.Join(lexemes, "")
}

func (m *mutator) lexemes(l []string) []string {
	l = slices.Clone(l)
	i := m.IntN(len(l))
	switch m.IntN(11) {
	case 0:
		return slices.Delete(l, i, i+1)
	case 1:
		return slices.Insert(l, i, pick(m, l))
	case 2:
		return slices.Insert(l, i, pick(m, m.values))
	case 3:
		l[i] = pick(m, m.values)
	case 4:
		return slices.Insert(l, i, pick(m, []string{" ", "\n", "\t", "\r", "\v", "\f", "\u00a0", "\ufeff", "\x00", "/**/", "//\n"}))
	case 5, 6:
		return m.member(l)
	case 7:
		if i, ok := m.one(l, func(s string) bool { return s[0] >= '0' && s[0] <= '9' }); ok {
			l[i] = pick(m, m.times)
		}
	case 8: // another thumbprint
		if i, ok := m.one(l, func(s string) bool { return len(s) == len(`""`)+43 && s[0] == '"' }); ok {
			at := 1 + m.IntN(42) // the last has bits to spare
			l[i] = l[i][:at] + pick(m, []string{"A", "_", "7"}) + l[i][at+1:]
		}
	default: // a value, not what separates values
		if i, ok := m.one(l, func(s string) bool { return !strings.Contains("{}[]:,", s) }); ok {
			l[i] = m.scalar(l[i])
		}
	}
	return l
}

// one picks one of the lexemes that are of a kind.
func (m *mutator) one(l []string, kind func(string) bool) (i int, ok bool) {
	var of []int
	for i, lexeme := range l {
		if kind(lexeme) {
			of = append(of, i)
		}
	}
	if len(of) == 0 {
		return 0, false
	}
	return pick(m, of), true
}

// interesting are values that a reader may take for others.
func interesting() []string {
	values := []string{
		"null", "true", "false", "0", "-0", "1", "-1", "1.0", "1e3", "1e400", "9007199254740993", "253402300799", "253402300800", "18446744073709551616",
		`""`, `" "`, `"\u0000"`, `"\ud800"`, "\"\xff\"", `"none"`, `"HS256"`, `"EdDSA"`, `"ES256"`, `"RS256"`, `"PS256"`, `"handoff+jwt"`, `"handoff-visit+jwt"`, `"grpc_call"`, `"grpc_visit"`, `"JWT"`,
		`"alg"`, `"kid"`, `"typ"`, `"crit"`, `"b64"`, `"jwk"`, `"iss"`, `"aud"`, `"sub"`, `"iat"`, `"nbf"`, `"exp"`, `"jti"`, `"sid"`, `"cnf"`, `"x5t#S256"`, `"fields"`, `"fields_sha256"`,
		`"` + shop + `"`, `"` + billing + `"`, `"https://other.example"`, `"` + pay + `"`, `"/a.v1.B/C"`, `"` + handoff.NewID() + `"`,
		`["` + billing + `"]`, "{}", "[]", "[[]]", "{", "}", "[", "]", ":", ",", strings.Repeat("[", 400), `"` + strings.Repeat("a", 255) + `"`, `"` + strings.Repeat("a", 256) + `"`,
	}
	return append(values, times()...)
}

// times are numbers around the edges of what is current.
func times() (values []string) {
	for _, offset := range []int64{-301, -300, -299, -61, -60, -59, -6, -5, -4, -1, 0, 1, 4, 5, 6, 59, 60, 61, 240, 299, 300, 301, 3599, 3600, 3601} {
		values = append(values, fmt.Sprint(now.Unix()+offset))
	}
	return values
}

// scalar changes a string, a number or a literal.
func (m *mutator) scalar(s string) string {
	if !strings.HasPrefix(s, `"`) || len(s) < 3 {
		return pick(m, []string{
			s + "0", "0" + s, "-" + s, s + ".0", s + "e0", `"` + s + `"`, "[" + s + "]", s[:len(s)-1],
			pick(m, m.values), pick(m, m.times),
		})
	}
	i := 1 + m.IntN(len(s)-2)
	for i > 1 && s[i] >= 0x80 && s[i] < 0xc0 {
		i-- // the first byte of a character
	}
	switch m.IntN(7) {
	case 0: // the same character, escaped
		if s[i] != '\\' && s[i-1] != '\\' && s[i] < 0x80 {
			return s[:i] + fmt.Sprintf(pick(m, []string{`\u%04x`, `\u%04X`}), s[i]) + s[i+1:]
		}
	case 1:
		return s[:i] + pick(m, []string{"a", ".", "/", " ", `\n`, `\"`, `\/`, `\u0061`, `\ud83d\ude00`, `\udead`, `\`, `"`, "\x00", "\n", "\x1f", "\u00e9", "\xff", "\xc0\xaf", "\ufffd"}) + s[i:]
	case 2:
		return s[:i] + s[i+1:]
	case 3:
		return strings.ToUpper(s)
	case 4:
		return s[:i] + string([]byte{s[i] ^ 1<<m.IntN(8)}) + s[i+1:]
	case 5:
		return pick(m, []string{"[" + s + "]", `{"a":` + s + "}", s + "," + s, s + ":" + s, "'" + s[1:len(s)-1] + "'"})
	case 6:
		return pick(m, m.values)
	}
	return s
}

// member takes a member of an object away, repeats it, moves it or renames it.
func (m *mutator) member(l []string) []string {
	type span struct{ from, to int } // from the name up to and including a comma
	var members []span
	for i := 1; i+1 < len(l); i++ {
		if l[i] != ":" {
			continue
		}
		depth, end := 0, i+1
		for ; end < len(l); end++ {
			if depth == 0 && strings.Contains("}],", l[end]) {
				break
			}
			if strings.Contains("{[", l[end]) {
				depth++
			} else if strings.Contains("}]", l[end]) {
				depth--
			}
		}
		members = append(members, span{i - 1, min(end+1, len(l))})
	}
	if len(members) == 0 {
		return l
	}
	one, other := pick(m, members), pick(m, members)
	text := slices.Clone(l[one.from:one.to])
	if text[len(text)-1] != "," {
		text = append(text[:len(text)-1], ",")
		one.to--
	}
	switch m.IntN(4) {
	case 0:
		return slices.Delete(l, one.from, one.to)
	case 1:
		return slices.Insert(l, other.from, text...)
	case 2:
		l = slices.Delete(l, one.from, one.to)
		return slices.Insert(l, min(other.from, len(l)), text...)
	}
	l[one.from] = pick(m, []string{m.scalar(l[one.from]), pick(m, m.values), l[other.from]})
	return l
}

// lex cuts a JSON text into its lexemes.
func lex(text string) (lexemes []string) {
	for text != "" {
		n := 1
		switch {
		case text[0] == '"':
			for n < len(text) && text[n] != '"' {
				if text[n] == '\\' {
					n++
				}
				n++
			}
			n = min(n+1, len(text))
		case !strings.ContainsRune("{}[]:,", rune(text[0])):
			for n < len(text) && !strings.ContainsRune("{}[]:,", rune(text[n])) {
				n++
			}
		}
		lexemes = append(lexemes, text[:n])
		text = text[n:]
	}
	return lexemes
}

// signature changes a signature's bytes. It says whether the result is the twin.
func (m *mutator) signature(input, encoded string) (changed string, twin bool) {
	s, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		panic(err)
	}
	half := len(s) / 2
	switch m.IntN(12) {
	case 0, 1:
		s[m.IntN(len(s))] ^= 1 << m.IntN(8)
	case 2:
		s = s[:m.IntN(len(s))]
	case 3:
		s = slices.Insert(s, pick(m, []int{0, half, len(s)}), make([]byte, 1+m.IntN(64))...)
	case 4:
		s = slices.Concat(s[half:], s[:half])
	case 5:
		clear(s[pick(m, []int{0, half}):pick(m, []int{half, len(s)})])
	case 6:
		slices.Reverse(s)
	case 7:
		for i := range s {
			s[i] = byte(m.Uint32())
		}
	case 8:
		s = slices.Concat(s, s)
	case 9: // another number that is the same modulo the order, or the modulus
		s = m.congruent(s)
	case 10:
		switch private := m.key.Private.(type) {
		case *ecdsa.PrivateKey:
			raw := forge.Twin(forge.Token{Key: m.key}, input+"."+encoded)
			return raw[len(input)+1:], true
		case *rsa.PrivateKey:
			s = new(big.Int).Sub(private.N, new(big.Int).SetBytes(s)).FillBytes(make([]byte, len(s)))
		}
	case 11:
		s, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s[:half]), new(big.Int).SetBytes(s[half:])})
		if err != nil {
			panic(err)
		}
	}
	return forge.Encode(string(s)), false
}

func (m *mutator) congruent(s []byte) []byte {
	half := len(s) / 2
	switch private := m.key.Private.(type) {
	case *ecdsa.PrivateKey:
		order := private.Curve.Params().N
		part := s[half*m.IntN(2):][:half]
		new(big.Int).Mod(new(big.Int).Add(new(big.Int).SetBytes(part), order), new(big.Int).Lsh(big.NewInt(1), uint(8*half))).FillBytes(part)
	case *rsa.PrivateKey:
		return new(big.Int).Add(new(big.Int).SetBytes(s), private.N).Bytes()
	default:
		order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
		slices.Reverse(s[half:]) // little-endian
		new(big.Int).Add(new(big.Int).SetBytes(s[half:]), order).FillBytes(s[half:])
		slices.Reverse(s[half:])
	}
	return s
}
