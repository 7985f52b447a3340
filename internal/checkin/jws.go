package checkin

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
)

// # Our own header
//
// All our programs write the same header, to the byte: headerBegin, the key, headerMiddle, the typ, headerEnd. A message
// that has it is read here, at little more than the cost of its signature: a manager reads one per check-in. One
// with any other header, an enrolling one among them, is read by go-jose, whose rules for headers are not repeated here.
const (
	headerBegin  = `{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"`
	headerMiddle = `"},"typ":"`
	headerEnd    = `"}`
)

var b64 = base64.RawURLEncoding.Strict()

// keyLength is how long an Ed25519 public key is in base64url.
const keyLength = 43

func sign(payload []byte, typ string, key ed25519.PrivateKey, extra map[jose.HeaderKey]any) (string, error) {
	if len(extra) == 0 && len(key) == ed25519.PrivateKeySize && !lowOrder(key[32:]) {
		header := make([]byte, 0, 192)
		header = append(header, headerBegin...)
		header = b64.AppendEncode(header, key[32:])
		header = append(append(append(header, headerMiddle...), typ...), headerEnd...)
		size := b64.EncodedLen(len(header)) + 1 + b64.EncodedLen(len(payload)) + 1 + b64.EncodedLen(ed25519.SignatureSize)
		jws := b64.AppendEncode(make([]byte, 0, size), header)
		jws = b64.AppendEncode(append(jws, '.'), payload)
		signature := ed25519.Sign(key, jws)
		return string(b64.AppendEncode(append(jws, '.'), signature)), nil
	}
	opts := (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ))
	for k, v := range extra {
		opts = opts.WithHeader(k, v)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, opts)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

var errNotPlain = errors.New("not a signed message: its parts are not plain base64url")

// verify reads a message of that typ: its payload, the key that signed it, and what its header holds besides.
func verify(raw, typ string) ([]byte, ed25519.PublicKey, map[jose.HeaderKey]any, error) {
	// A message has one spelling. The signature does not cover line ends and spare bits in the encoding, and a
	// report is known by the digest of its signed form: whoever passes it on could else make two of one.
	if strings.IndexByte(raw, '\n') >= 0 || strings.IndexByte(raw, '\r') >= 0 { // the decoder skips them
		return nil, nil, nil, errNotPlain
	}
	var parts [3][]byte
	n, signed := 0, 0
	for part := range strings.SplitSeq(raw, ".") {
		b, err := b64.DecodeString(part)
		if err != nil {
			return nil, nil, nil, errNotPlain
		}
		if n == len(parts) {
			return nil, nil, nil, errors.New("not a signed message: more than three parts")
		}
		parts[n] = b
		if n++; n == len(parts) {
			signed = len(raw) - len(part) - 1
		}
	}
	payload := parts[1]
	key, ours := ownHeader(parts[0], typ)
	var extra map[jose.HeaderKey]any
	var err error
	if ours && n == len(parts) {
		if !ed25519.Verify(key, []byte(raw[:signed]), parts[2]) {
			err = errors.New("the signature is wrong")
		}
	} else {
		payload, key, extra, err = verifyHeader(raw, parts[0], typ)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if !utf8.Valid(payload) {
		return nil, nil, nil, errors.New("the payload is not UTF-8")
	}
	if err := plainNames(payload); err != nil {
		return nil, nil, nil, fmt.Errorf("payload: %w", err)
	}
	return payload, key, extra, nil
}

// ownHeader is the key in a header that is ours to the byte; false for any other.
func ownHeader(header []byte, typ string) (ed25519.PublicKey, bool) {
	rest, ok := bytes.CutPrefix(header, []byte(headerBegin))
	if !ok || len(rest) != keyLength+len(headerMiddle)+len(typ)+len(headerEnd) {
		return nil, false
	}
	x, rest := rest[:keyLength], rest[keyLength:]
	if string(rest[:len(headerMiddle)]) != headerMiddle || string(rest[len(headerMiddle):len(rest)-len(headerEnd)]) != typ ||
		string(rest[len(rest)-len(headerEnd):]) != headerEnd || bytes.ContainsAny(x, "\r\n") {
		return nil, false
	}
	key, err := b64.AppendDecode(make([]byte, 0, ed25519.PublicKeySize), x)
	return key, err == nil && len(key) == ed25519.PublicKeySize && !lowOrder(key)
}

// lowOrderPoints are all encodings of the points whose order divides 8, without their sign bit: a "signature" by such a
// key fits any message. go-jose refuses them with its own words.
var lowOrderPoints = func() (all [7][32]byte) {
	for i, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		hex.Decode(all[i][:], []byte(s))
	}
	return all
}()

func lowOrder(key []byte) bool {
	point := [32]byte(key)
	point[31] &^= 0x80
	for i := range lowOrderPoints {
		if point == lowOrderPoints[i] {
			return true
		}
	}
	return false
}

// verifyHeader reads a message whatever its header.
func verifyHeader(raw string, header []byte, typ string) ([]byte, ed25519.PublicKey, map[jose.HeaderKey]any, error) {
	if err := plainNames(header); err != nil {
		return nil, nil, nil, fmt.Errorf("not a signed message: header: %w", err)
	}
	jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("not a signed message: %w", err)
	}
	head := jws.Signatures[0].Protected
	var members map[string]json.RawMessage // go-jose leaves out what is null
	if err := json.Unmarshal(header, &members); err != nil {
		return nil, nil, nil, fmt.Errorf("not a signed message: header: %w", err)
	}
	for _, name := range []string{"b64", "crit"} { // they change what is signed (RFC 7797); no message of ours has them
		if _, ok := members[name]; ok {
			return nil, nil, nil, fmt.Errorf("not a signed message: %q in its header", name)
		}
	}
	if got, _ := head.ExtraHeaders[jose.HeaderType].(string); got != typ {
		return nil, nil, nil, fmt.Errorf("typ is %.64q, want %q", got, typ)
	}
	if head.JSONWebKey == nil {
		return nil, nil, nil, errors.New("the header carries no key")
	}
	key, ok := head.JSONWebKey.Key.(ed25519.PublicKey)
	if !ok {
		return nil, nil, nil, errors.New("the header's key is not an Ed25519 public key")
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return nil, nil, nil, errors.New("the signature is wrong")
	}
	return payload, key, head.ExtraHeaders, nil
}

// maxNesting is how deep objects and lists may stand in one another; a report of version 1 goes to 4.
const maxNesting = 16

// compared is how many names of one object are compared one by one; with more, a map keeps a hostile one from costing
// the square of its length.
const compared = 32

// plainNames refuses JSON that two readers may read as two things: a member twice in one object, of which some take
// the first and some the last, and a name in other than lower-case letters, digits and '_', which encoding/json
// takes for the one that differs in case only, and others for an unknown one.
func plainNames(b []byte) error {
	if !json.Valid(b) {
		return errors.New("not JSON")
	}
	var (
		first [maxNesting]int             // where the names of an open object begin in names
		many  [maxNesting]map[string]bool // those of an object with more than compared
		room  [2 * compared][]byte
		names = room[:0] // of all open objects, those of the innermost last
		depth = 0        // open objects and lists
	)
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if depth == maxNesting {
				return errors.New("nested too deeply")
			}
			first[depth], many[depth] = len(names), nil
			depth++
		case '}', ']':
			depth--
			names = names[:first[depth]]
		case '"':
			start := i + 1
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			after := i + 1
			for after < len(b) && (b[after] == ' ' || b[after] == '\t' || b[after] == '\r' || b[after] == '\n') {
				after++
			}
			if after == len(b) || b[after] != ':' {
				continue // no name, but a value
			}
			name, twice := b[start:i], false
			if !plainName(name) {
				return fmt.Errorf("member %.64q: a name has lower-case letters, digits and _ only", name)
			}
			d := depth - 1
			siblings := names[first[d]:]
			if len(siblings) == compared && many[d] == nil {
				many[d] = make(map[string]bool)
				for _, s := range siblings {
					many[d][string(s)] = true
				}
			}
			if many[d] != nil {
				twice = many[d][string(name)]
				many[d][string(name)] = true
			} else {
				for _, s := range siblings {
					twice = twice || bytes.Equal(s, name)
				}
				names = append(names, name)
			}
			if twice {
				return fmt.Errorf("member %.64q stands there twice", name)
			}
		}
	}
	return nil
}

func plainName(name []byte) bool {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return len(name) > 0
}
