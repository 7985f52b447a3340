package intake

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"strconv"
	"time"
)

// tickets are the keys of TLS session tickets. They follow from a secret and the day, so that a session resumes at every
// process that has the secret, also after its restart, and nobody needs to store or send a key. A key that is used for a day
// is good for three: clocks differ. Whoever learns the secret can pass himself off as the server to those who resume, as he
// could with its certificate's key; what was said before stays secret, since TLS 1.3 agrees on new keys for every
// connection.
type tickets struct {
	secret []byte
	day    int64
}

const ticketInfo = "samehost/tls-ticket/1 "

func newTickets(secret []byte) *tickets {
	if secret == nil {
		secret = make([]byte, 32)
		rand.Read(secret)
	}
	return &tickets{secret: secret}
}

// renew sets the keys of that day.
func (t *tickets) renew(now time.Time, configs ...*tls.Config) {
	day := now.Unix() / (24 * 3600)
	if day == t.day {
		return
	}
	t.day = day
	for _, c := range configs {
		c.SetSessionTicketKeys([][32]byte{t.key(day), t.key(day + 1), t.key(day - 1)}) // the first one encrypts
	}
}

func (t *tickets) key(day int64) (key [32]byte) {
	b, err := hkdf.Key(sha256.New, t.secret, nil, ticketInfo+strconv.FormatInt(day, 10), len(key))
	if err != nil {
		panic(err) // only for lengths beyond reason
	}
	copy(key[:], b)
	return key
}
