package wsman

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// challenge is one digest challenge that this client can answer (RFC 7616 section 3.3, RFC 2617 3.2.1). Its texts
// are those inside the quotes, with the quotes' escapes undone: so they are hashed, and escaped again when sent.
type challenge struct {
	realm, nonce, opaque string
	hasOpaque            bool
	algorithm            string // as the server spelled it, to be repeated so; "" where it named none, which means MD5
	sha256, session      bool   // what algorithm means; session is the suffix -sess
	qopAuth              bool   // false: no qop was offered, and RFC 2069's shorter digest is the answer
}

// maxChallenges bounds how many challenges of one reply are looked at. Two are usual: one per algorithm.
const maxChallenges = 16

// chooseChallenge picks the strongest digest challenge among the WWW-Authenticate values of one 401: SHA-256 before
// MD5, then the server's order. Schemes that show the password to the peer, or that are not ours, are passed
// over, whatever the server prefers. A challenge that offers auth-int only cannot be answered.
func chooseChallenge(headers []string) (best challenge, ok bool) {
	for _, ch := range parseChallenges(headers) {
		if !ok || ch.sha256 && !best.sha256 {
			best, ok = ch, true
		}
	}
	return best, ok
}

// parseChallenges finds the answerable digest challenges. Several may stand in one value or in several (RFC 9110
// section 11.6.1).
func parseChallenges(headers []string) []challenge {
	var found []challenge
	for _, header := range headers {
		items := authItems{rest: header}
		var c collector
		for {
			item, more := items.next()
			if !more || item.scheme {
				if ch, ok := c.challenge(); ok && len(found) < maxChallenges {
					found = append(found, ch)
				}
				c = collector{digest: strings.EqualFold(item.name, "Digest")}
			}
			if !more {
				break
			}
			if !item.scheme {
				c.add(item)
			}
		}
	}
	return found
}

// collector gathers one challenge's parameters.
type collector struct {
	digest             bool
	ch                 challenge
	hasRealm, hasNonce bool
	hasAlgorithm       bool
	hasQop             bool
}

func (c *collector) add(p authItem) {
	// A parameter that comes twice counts the first time, as most servers and clients have it; qop lists add up.
	switch {
	case strings.EqualFold(p.name, "realm") && !c.hasRealm:
		c.ch.realm, c.hasRealm = p.value, true
	case strings.EqualFold(p.name, "nonce") && !c.hasNonce:
		c.ch.nonce, c.hasNonce = p.value, true
	case strings.EqualFold(p.name, "opaque") && !c.ch.hasOpaque:
		c.ch.opaque, c.ch.hasOpaque = p.value, true
	case strings.EqualFold(p.name, "algorithm") && !c.hasAlgorithm:
		c.ch.algorithm, c.hasAlgorithm = p.value, true
	case strings.EqualFold(p.name, "qop"):
		for _, option := range strings.FieldsFunc(p.value, isListSeparator) {
			c.hasQop = true
			if strings.EqualFold(option, "auth") {
				c.ch.qopAuth = true
			}
		}
	}
}

// isListSeparator parts a qop list in every spelling that was met: "auth,auth-int", "auth-int, auth", "auth auth-int".
func isListSeparator(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '"' }

func (c *collector) challenge() (challenge, bool) {
	if !c.digest || !c.hasRealm || !c.hasNonce || c.hasQop && !c.ch.qopAuth {
		return challenge{}, false
	}
	name := strings.ToUpper(c.ch.algorithm)
	name, c.ch.session = strings.CutSuffix(name, "-SESS")
	switch name {
	case "SHA-256":
		c.ch.sha256 = true
	case "MD5", "":
		if c.ch.session && name == "" {
			return challenge{}, false
		}
	default:
		return challenge{}, false
	}
	return c.ch, true
}

// authItem is a scheme name or one name=value.
type authItem struct {
	name, value string
	scheme      bool
}

// authItems reads the list in a WWW-Authenticate or Authentication-Info value. It never fails: what cannot be read
// is passed over up to the next comma, and a challenge that lacks what it needs is then no challenge.
type authItems struct{ rest string }

func (a *authItems) next() (item authItem, ok bool) {
	for {
		a.rest = strings.TrimLeft(a.rest, " \t,")
		if a.rest == "" {
			return authItem{}, false
		}
		n := tokenLen(a.rest)
		if n == 0 {
			a.skipBad()
			continue
		}
		item.name, a.rest = a.rest[:n], a.rest[n:]
		after := strings.TrimLeft(a.rest, " \t")
		if !strings.HasPrefix(after, "=") {
			item.scheme = true
			a.skipToken68()
			return item, true
		}
		a.rest = strings.TrimLeft(after[1:], " \t")
		item.value = a.value()
		return item, true
	}
}

// value reads a quoted string, or anything up to a space or comma: an unquoted nonce may end in =, which is no token
// character.
func (a *authItems) value() string {
	if !strings.HasPrefix(a.rest, `"`) {
		n := strings.IndexAny(a.rest, " \t,")
		if n < 0 {
			n = len(a.rest)
		}
		v := a.rest[:n]
		a.rest = a.rest[n:]
		return v
	}
	s := a.rest[1:]
	var b []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			a.rest = s[i+1:]
			if b == nil {
				return s[:i]
			}
			return string(b)
		case s[i] == '\\' && i+1 < len(s):
			if b == nil {
				b = append(make([]byte, 0, len(s)), s[:i]...)
			}
			i++
			b = append(b, s[i])
		case b != nil:
			b = append(b, s[i])
		}
	}
	a.rest = "" // the string does not end: whatever it was, it is the last item
	if b == nil {
		return s
	}
	return string(b)
}

// skipBad passes over what is no item, up to the next comma outside quotes.
func (a *authItems) skipBad() {
	for a.rest != "" && a.rest[0] != ',' {
		if a.rest[0] == '"' {
			a.value()
			continue
		}
		a.rest = a.rest[1:]
	}
}

// skipToken68 passes over the credentials-like blob that schemes such as Negotiate send in the place of
// parameters.
func (a *authItems) skipToken68() {
	s := strings.TrimLeft(a.rest, " \t")
	n := 0
	for n < len(s) && (isTokenChar(s[n]) || s[n] == '/') {
		n++
	}
	name := n
	for n < len(s) && s[n] == '=' {
		n++
	}
	if end := strings.TrimLeft(s[n:], " \t"); name > 0 && (end == "" || end[0] == ',') {
		a.rest = end
	}
}

func tokenLen(s string) int {
	n := 0
	for n < len(s) && isTokenChar(s[n]) {
		n++
	}
	return n
}

// isTokenChar is tchar of RFC 9110 section 5.6.2.
func isTokenChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// digest answers challenges for one user. One nonce serves many requests, each with a higher count.
type digest struct {
	user     string
	password Secret

	ready  bool // there is a challenge to answer
	ch     challenge
	nc     uint32
	cnonce string
	ha1    []byte // H(A1) in hex; it depends on the challenge only, so it is computed once for each
	buf    []byte
}

// accept takes a new challenge. The cnonce lasts as long as the challenge: the -sess algorithms demand that, and for
// the others the rising count makes each answer new.
func (d *digest) accept(ch challenge) {
	var random [16]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	d.acceptWith(ch, hex.EncodeToString(random[:]))
}

func (d *digest) acceptWith(ch challenge, cnonce string) {
	d.ready, d.ch, d.nc, d.cnonce = true, ch, 0, cnonce
	b := append(d.buf[:0], d.user...)
	b = append(append(b, ':'), ch.realm...)
	b = append(append(b, ':'), d.password...)
	d.ha1 = ch.appendHash(d.ha1[:0], b)
	clear(b)
	if ch.session {
		b = append(append(b[:0], d.ha1...), ':')
		b = append(append(b, ch.nonce...), ':')
		b = append(b, cnonce...)
		d.ha1 = ch.appendHash(d.ha1[:0], b)
	}
	d.buf = b[:0]
}

// renew takes the nonce that the server announced for the next request (Authentication-Info). A session key stays: it
// is made once per challenge (RFC 7616 section 3.4.2).
func (d *digest) renew(nonce string) { d.ch.nonce, d.nc = nonce, 0 }

// forget drops the challenge, so that the next request goes out without an answer.
func (d *digest) forget() {
	clear(d.ha1)
	d.ready, d.ch, d.ha1 = false, challenge{}, d.ha1[:0]
}

// appendHeader appends an Authorization header that answers the challenge for the next request. The quoting is that of
// RFC 7616 section 3.4: nc, qop and algorithm bare.
func (d *digest) appendHeader(h []byte, method, uri string) []byte {
	d.nc++
	if d.nc == 0 { // 2^32 requests on one nonce; the server refuses the count and sends a fresh challenge
		d.nc = 1
	}
	ch := &d.ch
	var nc [8]byte
	for i, v := len(nc)-1, d.nc; i >= 0; i, v = i-1, v>>4 {
		nc[i] = "0123456789abcdef"[v&15]
	}

	b := append(d.buf[:0], method...)
	b = append(append(b, ':'), uri...)
	var ha2, response [2 * sha256.Size]byte
	hashedURI := ch.appendHash(ha2[:0], b)
	b = append(append(b[:0], d.ha1...), ':')
	b = append(append(b, ch.nonce...), ':')
	if ch.qopAuth {
		b = append(append(b, nc[:]...), ':')
		b = append(append(b, d.cnonce...), ":auth:"...)
	}
	b = append(b, hashedURI...)
	answer := ch.appendHash(response[:0], b)
	d.buf = b[:0]

	h = append(h, "Authorization: Digest username="...)
	h = appendQuoted(h, d.user)
	h = appendQuoted(append(h, ", realm="...), ch.realm)
	h = appendQuoted(append(h, ", nonce="...), ch.nonce)
	h = appendQuoted(append(h, ", uri="...), uri)
	h = append(append(append(h, `, response="`...), answer...), '"')
	if ch.algorithm != "" {
		h = append(append(h, ", algorithm="...), ch.algorithm...)
	}
	if ch.hasOpaque {
		h = appendQuoted(append(h, ", opaque="...), ch.opaque)
	}
	if ch.qopAuth {
		h = append(append(h, ", qop=auth, nc="...), nc[:]...)
	}
	if ch.qopAuth || ch.session {
		h = appendQuoted(append(h, ", cnonce="...), d.cnonce)
	}
	return append(h, "\r\n"...)
}

func (ch *challenge) appendHash(dst, data []byte) []byte {
	if ch.sha256 {
		sum := sha256.Sum256(data)
		return hex.AppendEncode(dst, sum[:])
	}
	sum := md5.Sum(data)
	return hex.AppendEncode(dst, sum[:])
}

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// nextNonce finds nextnonce in an Authentication-Info value (RFC 7616 section 3.5).
func nextNonce(header string) string {
	items := authItems{rest: header}
	for {
		item, ok := items.next()
		if !ok {
			return ""
		}
		if !item.scheme && strings.EqualFold(item.name, "nextnonce") {
			return item.value
		}
	}
}
