package amtsim

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// account is a digest user. The firmware keeps no passwords, only digests over user, realm and password.
type account struct {
	Handle  uint32   `json:"handle"`
	Name    string   `json:"name"`
	MD5     []byte   `json:"md5"`              // 16 bytes
	SHA256  []byte   `json:"sha256,omitempty"` // only where the password was known here
	Access  int      `json:"access_permission"`
	Realms  []uint32 `json:"realms"`
	Enabled bool     `json:"enabled"`

	failures    int // in a row
	lockedUntil time.Time
	lastLock    time.Duration
	lastFailure time.Time
}

// AccessPermission values of AMT_AuthorizationService.
const (
	AccessLocal   = 0
	AccessNetwork = 1
	AccessAny     = 2
)

func (a *account) setPassword(realm, password string) {
	m := md5.Sum([]byte(a.Name + ":" + realm + ":" + password))
	s := sha256.Sum256([]byte(a.Name + ":" + realm + ":" + password))
	a.MD5, a.SHA256 = m[:], s[:]
}

func (a *account) may(realm uint32) bool {
	return slices.Contains(a.Realms, realmAdministration) || slices.Contains(a.Realms, realm)
}

// authorization is an Authorization header's content.
type authorization struct {
	username, realm, nonce, uri, response, qop, cnonce, algorithm string

	nc      uint32
	ncWords string // as sent: it goes into the digest so
}

var errAuthorization = errors.New("malformed Authorization")

// parseAuthorization reads a Digest Authorization value. Values may be quoted or bare, in any order; names that it does
// not know are passed over, doubled ones refused.
func parseAuthorization(s string) (authorization, error) {
	var a authorization
	if len(s) < 7 || !strings.EqualFold(s[:6], "digest") || s[6] != ' ' && s[6] != '\t' {
		return a, errAuthorization
	}
	s = s[7:]
	known := []struct {
		name string
		to   *string
	}{{"username", &a.username}, {"realm", &a.realm}, {"nonce", &a.nonce}, {"uri", &a.uri}, {"response", &a.response},
		{"qop", &a.qop}, {"cnonce", &a.cnonce}, {"algorithm", &a.algorithm}, {"nc", &a.ncWords}}
	var seen uint
	for n := 0; ; n++ {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			break
		}
		eq := strings.IndexByte(s, '=')
		if eq <= 0 || n >= maxAttributes {
			return a, errAuthorization
		}
		name := strings.TrimRight(s[:eq], " \t")
		if name == "" || strings.ContainsAny(name, " \t,\"") {
			return a, errAuthorization
		}
		s = strings.TrimLeft(s[eq+1:], " \t")
		var value string
		if strings.HasPrefix(s, `"`) {
			end, escaped := 1, false
			for ; end < len(s) && s[end] != '"'; end++ {
				if s[end] == '\\' {
					escaped = true
					end++
				}
			}
			if end >= len(s) {
				return a, errAuthorization
			}
			value, s = s[1:end], s[end+1:]
			if escaped {
				var b strings.Builder
				for i := 0; i < len(value); i++ {
					if value[i] == '\\' {
						i++
					}
					b.WriteByte(value[i])
				}
				value = b.String()
			}
			if s = strings.TrimLeft(s, " \t"); s != "" && s[0] != ',' {
				return a, errAuthorization
			}
		} else {
			end := strings.IndexByte(s, ',')
			if end < 0 {
				end = len(s)
			}
			value, s = strings.TrimRight(s[:end], " \t"), s[end:]
			if strings.ContainsAny(value, " \t\"") {
				return a, errAuthorization
			}
		}
		for i, k := range known {
			if strings.EqualFold(name, k.name) {
				if seen&(1<<i) != 0 {
					return a, errAuthorization
				}
				seen |= 1 << i
				*k.to = value
			}
		}
	}
	nc, err := strconv.ParseUint(a.ncWords, 16, 32)
	if err != nil || nc == 0 || len(a.ncWords) > 8 {
		return a, errAuthorization
	}
	a.nc = uint32(nc)
	if a.username == "" || a.nonce == "" || a.uri == "" || a.cnonce == "" || a.response == "" {
		return a, errAuthorization
	}
	return a, nil
}

// guard is what a device remembers of log-ons. A restart forgets it.
type guard struct {
	key       [32]byte // authenticates nonces, so that a challenge costs no memory
	lastClock uint64
	used      []nonceUse // in the order of first use
	floor     uint64     // clock of the latest nonce that was dropped from used
}

type nonceUse struct {
	nonce string
	high  uint32 // the highest nc seen
	seen  uint64 // bit i: high-i was seen
	count int
}

func (g *guard) reset() {
	rand.Read(g.key[:])
	g.used, g.floor = nil, 0
}

// nonceTick is the unit of the nonce's clock: it keeps the clock within six bytes, as captures show it.
const nonceTick = 100 * time.Microsecond

// newNonce makes 24 bytes in the form that captures show: a little-endian clock in twelve bytes, then twelve that nobody
// can guess. They make 32 base64 characters without "=".
func (g *guard) newNonce(now time.Time) string {
	g.lastClock = max(uint64(now.UnixNano()/int64(nonceTick)), g.lastClock+1)
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:8], g.lastClock)
	g.seal(&b)
	return base64.StdEncoding.EncodeToString(b[:])
}

func (g *guard) seal(b *[24]byte) {
	h := hmac.New(sha256.New, g.key[:])
	h.Write(b[:12])
	var sum [sha256.Size]byte
	copy(b[12:], h.Sum(sum[:0]))
}

// fresh reports whether a nonce is one of ours and young enough.
func (g *guard) fresh(nonce string, now time.Time, life time.Duration) bool {
	var b, want [24]byte
	if len(nonce) != 32 {
		return false
	}
	if n, err := base64.StdEncoding.Decode(b[:], []byte(nonce)); err != nil || n != 24 {
		return false
	}
	copy(want[:12], b[:12])
	g.seal(&want)
	if subtle.ConstantTimeCompare(b[:], want[:]) != 1 {
		return false
	}
	age := now.UnixNano()/int64(nonceTick) - int64(binary.LittleEndian.Uint64(b[:8]))
	return age < int64(life/nonceTick)
}

// use notes an answer on a nonce. It is false when that nc was used before, or the nonce was used up.
func (g *guard) use(nonce string, nc uint32, uses int) bool {
	i := slices.IndexFunc(g.used, func(u nonceUse) bool { return u.nonce == nonce })
	if i < 0 {
		if nonceClock(nonce) <= g.floor {
			return false // it may have been used and forgotten
		}
		if len(g.used) >= noncesInUse {
			g.floor = max(g.floor, nonceClock(g.used[0].nonce))
			g.used = slices.Delete(g.used, 0, 1)
		}
		g.used = append(g.used, nonceUse{nonce: strings.Clone(nonce)})
		i = len(g.used) - 1
	}
	u := &g.used[i]
	if uses > 0 && u.count >= uses {
		return false
	}
	switch {
	case nc > u.high:
		if shift := nc - u.high; shift < ncWindow {
			u.seen <<= shift
		} else {
			u.seen = 0
		}
		u.seen |= 1
		u.high = nc
	case u.high-nc >= ncWindow || u.seen&(1<<(u.high-nc)) != 0:
		return false
	default:
		u.seen |= 1 << (u.high - nc)
	}
	u.count++
	return true
}

// nonceClock reads the clock of a nonce that fresh has checked.
func nonceClock(nonce string) uint64 {
	var b [24]byte
	base64.StdEncoding.Decode(b[:], []byte(nonce))
	return binary.LittleEndian.Uint64(b[:8])
}

// refusal says why a request was not let in.
type refusal int

const (
	admitted      refusal = iota
	noCredentials         // none, or malformed
	staleNonce
	wrongCredentials
)

// logOn checks the credentials of a request, under the device's lock.
func (d *Device) logOn(header, method, target string, body []byte, from side) (*account, refusal) {
	if header == "" {
		return nil, noCredentials
	}
	a, err := parseAuthorization(header)
	if err != nil {
		return nil, noCredentials
	}
	now := d.now()
	life := time.Duration(d.faults.NonceLifeMS) * time.Millisecond
	if life == 0 {
		life = nonceLife
	}
	if !d.guard.fresh(a.nonce, now, life) {
		return nil, staleNonce
	}
	user := d.account(a.username)
	if user != nil && now.Sub(user.lastFailure) >= lockoutQuiet {
		user.failures, user.lastLock = 0, 0
	}
	if d.faults.LockedOut || user != nil && now.Before(user.lockedUntil) {
		d.count.failedLogons++
		return nil, wrongCredentials
	}
	if !d.answers(user, &a, method, target, body) || user.Access != AccessAny && (user.Access == AccessLocal) != (from == localSide) {
		d.count.failedLogons++
		if user != nil {
			user.lastFailure = now
			if user.failures++; user.failures >= lockoutFailures {
				user.lastLock = min(max(2*user.lastLock, lockoutFirst), lockoutLongest)
				user.lockedUntil = now.Add(user.lastLock)
			}
		}
		return nil, wrongCredentials
	}
	if !d.guard.use(a.nonce, a.nc, d.faults.NonceUses) {
		return nil, staleNonce
	}
	user.failures, user.lastLock = 0, 0
	return user, admitted
}

// answers checks the response against RFC 7616 3.4.1 with the account's stored digest.
func (d *Device) answers(user *account, a *authorization, method, target string, body []byte) bool {
	if user == nil || !user.Enabled || a.realm != d.mem.Realm || !sameTarget(a.uri, target) {
		return false
	}
	var sum func([]byte) []byte
	var ha1 []byte
	switch {
	case strings.EqualFold(a.algorithm, "SHA-256") && d.faults.offers("sha-256"):
		sum = func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
		ha1 = user.SHA256
	case (a.algorithm == "" || strings.EqualFold(a.algorithm, "MD5")) && d.faults.offers("md5"):
		sum = func(b []byte) []byte { s := md5.Sum(b); return s[:] }
		ha1 = user.MD5
	default:
		return false
	}
	if len(ha1) == 0 {
		return false
	}
	var space [512]byte
	b := append(space[:0], method...)
	b = append(append(b, ':'), a.uri...)
	switch {
	case a.qop == "auth":
	case a.qop == "auth-int" && d.faults.offers("auth-int"):
		b = hex.AppendEncode(append(b, ':'), sum(body))
	default:
		return false
	}
	ha2 := sum(b)
	b = hex.AppendEncode(b[:0], ha1)
	b = append(append(b, ':'), a.nonce...)
	b = append(append(b, ':'), a.ncWords...)
	b = append(append(b, ':'), a.cnonce...)
	b = append(append(b, ':'), a.qop...)
	b = hex.AppendEncode(append(b, ':'), ha2)
	want := hex.AppendEncode(b[len(b):], sum(b))
	return subtle.ConstantTimeCompare(want, []byte(strings.ToLower(a.response))) == 1
}

// sameTarget compares a digest uri, which some clients send as a whole URL, with the request target.
func sameTarget(uri, target string) bool {
	return path(uri) == path(target)
}

func path(target string) string {
	if _, rest, found := strings.Cut(target, "://"); found {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
		return "/"
	}
	return target
}

// account finds a user by name, the administrator among them.
func (d *Device) account(name string) *account {
	if name == d.admin.Name {
		return d.admin
	}
	for _, u := range d.mem.Users {
		if u.Name == name {
			return u
		}
	}
	return nil
}
