package registry

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// relayInForce is the condition under which relays r, joined with hosts h, counts: neither retired, deleted nor succeeded,
// and not deleted since the token that admitted it was made, even if it came back by a check-in, which a stolen disk does.
const relayInForce = `h.retired IS NULL AND h.deleted IS NULL AND h.succeeded IS NULL AND NOT EXISTS
	(SELECT 1 FROM maintenance m WHERE m.kind = 'delete' AND m.ended_cause = 'check-in' AND m.made >= r.admitted
	AND m.host_ids LIKE '%"' || r.host_id || '"%')`

// contactEvery is how often contact with a relay is noted: the database need not be written for every batch.
const contactEvery = 10 * time.Second

// maxCertificates is how many a relay is given in 24 hours. An honest one takes one in three weeks, and one when its names
// change; but whoever passed a request on can send it again, and each certificate is an event in the relay's history.
const maxCertificates = 100

// isRelay fails with ErrNotRelay unless the host is a relay, and still one.
func (t *transaction) isRelay(id hostid.ID) error {
	is, err := t.get(`SELECT 1 FROM relays r JOIN hosts h ON h.host_id = r.host_id WHERE r.host_id = $1 AND `+relayInForce,
		[]any{id.String()}, []any{new(int)})
	if err == nil && !is {
		err = fmt.Errorf("host ID %s: %w", id, ErrNotRelay)
	}
	return err
}

// RelaysInForce says which of those host IDs are relays, and still are: not retired, deleted or succeeded.
func (r *Registry) RelaysInForce(ctx context.Context, ids []hostid.ID) (map[hostid.ID]bool, error) {
	in := make(map[hostid.ID]bool, len(ids))
	for _, id := range ids {
		if _, done := in[id]; done {
			continue
		}
		var one int
		err := r.readers.QueryRowContext(ctx, `SELECT 1 FROM relays r JOIN hosts h ON h.host_id = r.host_id WHERE r.host_id = $1 AND `+relayInForce, id.String()).Scan(&one)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		in[id] = err == nil
	}
	return in, nil
}

// through reports whether a route leads through a relay.
func through(route string, relay hostid.ID) bool {
	return strings.Contains(route+`\`, `\`+relay.String()+`\`)
}

// ComeThrough are those of the host IDs whose latest report came through that relay: of them it may be told.
func (r *Registry) ComeThrough(ctx context.Context, relay hostid.ID, ids []hostid.ID) ([]hostid.ID, error) {
	var those []hostid.ID
	for _, id := range ids {
		var route string
		err := r.readers.QueryRowContext(ctx, `SELECT route FROM hosts WHERE host_id = $1`, id.String()).Scan(&route)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		if err == nil && through(route, relay) {
			those = append(those, id)
		}
	}
	return those, nil
}

// CreateRelayToken makes an enrolment token that admits one relay. names are the DNS names and IP addresses that its
// certificate may be for; without any, those by which it calls itself in its reports and that are no other relay's. The rest is as in CreateToken.
func (r *Registry) CreateRelayToken(ctx context.Context, names []string, expires time.Time, note, who string) (checkin.EnrolmentToken, error) {
	return r.createToken(ctx, expires, note, who, true, names)
}

// AdmitRelay judges a request for a certificate, and returns what it may be for. A relay is admitted by its token, which
// serves for one host ID; afterwards its key suffices. It fails with a checkin.Refusal where there is nothing for this host
// ID.
func (r *Registry) AdmitRelay(ctx context.Context, v checkin.VerifiedCertificateRequest) (names []string, err error) {
	if v.Audience != r.audience {
		return nil, &checkin.Refusal{Code: checkin.WrongAudience, Detail: "the request is made for another manager; give this relay a token of this one"}
	}
	// Anybody may ask, and what is written waits for its turn among the check-ins: strangers are sent away before.
	keys, err := scanAll(ctx, r.readers, func(scan func(...any) error) (key ed25519.PublicKey, err error) { return key, scan((*[]byte)(&key)) },
		`SELECT key FROM hosts WHERE host_id = $1`, v.HostID.String())
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 || !keys[0].Equal(v.Key) {
		return nil, strangeRelay(v.HostID)
	}
	before, err := scanAll(ctx, r.readers, scanText, certifiedSince, v.HostID.String(), millis(r.now().Add(-certificatesOf)))
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(before, func(evidence string) bool { return strings.Contains(evidence, v.Digest.String()) }) {
		return nil, answeredBefore(v.HostID)
	}
	err = r.write(ctx, func(t *transaction) error {
		names, err = t.admitRelay(v)
		return err
	})
	return names, err
}

// certificatesOf is the time in which a relay is given maxCertificates.
const certificatesOf = 24 * time.Hour

// certifiedSince are the certificates that a relay was given.
const certifiedSince = `SELECT evidence FROM history WHERE host_id = $1 AND at > $2 AND kind = 'relay-certified'`

// answeredBefore is the answer to a request that was answered: a relay makes another one each time. Who repeats it has seen it on
// its way, and would use up what the relay may be given.
func answeredBefore(id hostid.ID) error {
	return &checkin.Busy{After: time.Hour, Reason: "this request of the relay " + id.String() + " was answered; another one is needed for another certificate"}
}

// strangeRelay refuses a host ID that is not known under the key that signs for it.
func strangeRelay(id hostid.ID) error {
	return &checkin.Refusal{Code: checkin.NeedsEnrolment,
		Detail: "this manager does not know the host ID " + id.String() + " under this key: the relay's own check-in comes first"}
}

func (t *transaction) admitRelay(v checkin.VerifiedCertificateRequest) (names []string, err error) {
	h, known, err := t.host(v.HostID)
	if err != nil {
		return nil, err
	}
	if !known || !h.key.Equal(v.Key) {
		return nil, strangeRelay(v.HostID)
	}
	if v.Enrol != nil {
		if err := t.showRelayToken(v); err != nil {
			return nil, err
		}
	}
	var list string
	admitted, err := t.get(`SELECT names FROM relays WHERE host_id = $1`, []any{v.HostID.String()}, []any{&list})
	switch {
	case err != nil:
		return nil, err
	case !admitted:
		return nil, &checkin.Refusal{Code: checkin.BadToken,
			Detail: "host ID " + v.HostID.String() + " is no relay: make a token with samehost-manager token create --relay and put it into the file that enrolment_token_file names"}
	}
	err = t.isRelay(v.HostID)
	if errors.Is(err, ErrNotRelay) {
		return nil, &checkin.Refusal{Code: checkin.NotRelay,
			Detail: "host ID " + v.HostID.String() + " was retired, replaced or deleted; take that back, or, where it was deleted, give the relay a new token (samehost-manager token create --relay)"}
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(list), &names); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = append([]string{h.seen.Name, h.seen.FQDN}, h.seen.Addresses...)
		others, err := t.namesOfOthers(v.HostID)
		if err != nil {
			return nil, err
		}
		var withheld []string
		names = slices.DeleteFunc(names, func(n string) bool {
			whose, is := others[plainName(n)]
			if is && n != "" {
				withheld = append(withheld, n+" ("+whose+")")
			}
			return is || n == ""
		})
		if len(names) == 0 && len(withheld) > 0 {
			return nil, &checkin.Refusal{Code: checkin.NotRelay, Detail: "all by which host ID " + v.HostID.String() + " calls itself is another relay's: " + strings.Join(withheld, ", ") +
				"; retire that one where this takes its place, or name what clients call this relay with samehost-manager token create --relay --name"}
		}
	}
	return names, nil
}

// namesOfOthers are names that another relay has, and whose they are; who merely calls himself so is not believed. It has one if an
// administrator called it so, also by a token that waits for its relay, or if it was certified for it and that certificate is valid yet. Of
// two that call themselves alike the first one has the name, and keeps it.
func (t *transaction) namesOfOthers(id hostid.ID) (map[string]string, error) {
	type named struct{ whose, list string }
	scan := func(scan func(...any) error) (n named, err error) { return n, scan(&n.whose, &n.list) }
	tokens, err := collect(t, scan, `SELECT id, relay_names FROM tokens k WHERE relay AND revoked IS NULL AND (expires IS NULL OR expires > $1)
		AND NOT EXISTS (SELECT 1 FROM relays r WHERE r.token_id = k.id)`, millis(t.now))
	if err != nil {
		return nil, err
	}
	relays, err := collect(t, scan, `SELECT r.host_id, r.names FROM relays r JOIN hosts h ON h.host_id = r.host_id WHERE `+relayInForce+` ORDER BY r.host_id`)
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	add := func(whose, list string) error {
		var names []string
		err := json.Unmarshal([]byte(list), &names)
		for _, n := range names {
			all[plainName(n)] = whose
		}
		return err
	}
	certified := func(relay string, each func(name string)) error {
		events, err := collect(t, scanText, certifiedSince, relay, millis(t.now.Add(-certificateAge)))
		for _, e := range events {
			var c struct {
				Names []string  `json:"names"`
				Until time.Time `json:"until"`
			}
			if wrong := json.Unmarshal([]byte(e), &c); wrong != nil {
				return wrong
			}
			if c.Until.After(t.now) {
				for _, n := range c.Names {
					each(plainName(n))
				}
			}
		}
		return err
	}
	for _, r := range relays {
		if r.whose != id.String() {
			if err := certified(r.whose, func(n string) { all[n] = "relay " + r.whose }); err != nil {
				return nil, err
			}
		}
	}
	if err := certified(id.String(), func(n string) { delete(all, n) }); err != nil { // both had it before
		return nil, err
	}
	for _, k := range tokens {
		if err := add("token "+k.whose, k.list); err != nil {
			return nil, err
		}
	}
	for _, r := range relays {
		if r.whose != id.String() {
			if err := add("relay "+r.whose, r.list); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// stillFree fails with a checkin.Busy where another relay was certified for one of those names since this one was admitted, unless it has
// them by its token.
func (t *transaction) stillFree(id hostid.ID, names []string) error {
	list := ""
	if _, err := t.get(`SELECT names FROM relays WHERE host_id = $1`, []any{id.String()}, []any{&list}); err != nil || list != "[]" {
		return err
	}
	others, err := t.namesOfOthers(id)
	if err != nil {
		return err
	}
	for _, n := range names {
		if whose, is := others[plainName(n)]; is {
			return &checkin.Busy{After: time.Second, Reason: n + " has become another's at this moment (" + whose + ")"}
		}
	}
	return nil
}

// certificateAge is beyond the age of any certificate that is valid.
const certificateAge = 60 * 24 * time.Hour

// plainName is a DNS name or an address in the one spelling by which those are compared.
func plainName(n string) string {
	if a, err := netip.ParseAddr(n); err == nil {
		return a.Unmap().String()
	}
	return strings.TrimSuffix(strings.ToLower(n), ".")
}

// showRelayToken takes note of the token that a relay shows. The token's own age counts, so that what was deleted after it
// was made stays out.
func (t *transaction) showRelayToken(v checkin.VerifiedCertificateRequest) error {
	tok, known, err := t.token(v.Enrol.TokenID)
	if err != nil {
		return err
	}
	var verifier [32]byte
	copy(verifier[:], tok.verifier)
	var by string
	admitted, err := t.get(`SELECT token_id FROM relays WHERE host_id = $1`, []any{v.HostID.String()}, []any{&by})
	if err != nil {
		return err
	}
	if admitted && by == v.Enrol.TokenID {
		return nil // it has served, whatever became of it since
	}
	other := ""
	if _, err := t.get(`SELECT host_id FROM relays WHERE token_id = $1`, []any{v.Enrol.TokenID}, []any{&other}); err != nil {
		return err
	}
	why := ""
	switch {
	case !known:
		why = "is not known here"
	case !v.Proves(verifier):
		why = "does not fit its proof: the token was altered or cut"
	case !tok.Relay:
		why = "is a client's, not a relay's"
	case !tok.Revoked.IsZero():
		why = "was revoked"
	case !tok.Expires.IsZero() && !t.now.Before(tok.Expires):
		why = "has expired"
	case other != "":
		why = "has admitted another relay, host ID " + other
	}
	if why != "" {
		if admitted {
			return nil // it needs none any more
		}
		return &checkin.Refusal{Code: checkin.BadToken,
			Detail: "the token " + v.Enrol.TokenID + " " + why + "; make another with samehost-manager token create --relay and put it into the file that enrolment_token_file names"}
	}
	_, err = t.exec(`INSERT INTO relays (host_id, token_id, names, admitted, via, state) VALUES ($1, $2, $3, $4, '[]', '{}')
		ON CONFLICT (host_id) DO UPDATE SET token_id = excluded.token_id, names = excluded.names, admitted = excluded.admitted`,
		v.HostID.String(), tok.ID, toJSON(append([]string{}, tok.RelayNames...)), millis(tok.Created))
	if err != nil {
		return err
	}
	return t.record(v.HostID, "relay-admitted", map[string]any{"token": tok.ID, "names": tok.RelayNames})
}

// CertifyRelay notes which certificate a relay was given, and signs the answer to its request. ca is the authority that
// issued it. It fails with a checkin.Busy where the relay was given too many, or one for this very request, or another relay one for such a name.
func (r *Registry) CertifyRelay(ctx context.Context, id hostid.ID, request string, certificate, ca *x509.Certificate) (string, error) {
	names := slices.Clone(certificate.DNSNames)
	for _, ip := range certificate.IPAddresses {
		names = append(names, ip.String())
	}
	digest := checkin.SignedReport{JWS: request}.Digest()
	issued, err := checkin.SignIssuedCertificate(checkin.IssuedCertificate{
		Request: digest, Certificates: [][]byte{certificate.Raw, ca.Raw},
	}, r.key)
	if err != nil {
		return "", err
	}
	err = r.write(ctx, func(t *transaction) error {
		given, err := collect(t, scanText, certifiedSince, id.String(), millis(t.now.Add(-certificatesOf)))
		if err != nil {
			return err
		}
		switch {
		case slices.ContainsFunc(given, func(evidence string) bool { return strings.Contains(evidence, digest.String()) }):
			return answeredBefore(id)
		case len(given) >= maxCertificates:
			return &checkin.Busy{After: time.Hour, Reason: fmt.Sprintf("%d certificates were issued to the relay %s within 24 hours", len(given), id)}
		}
		if err := t.stillFree(id, names); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE relays SET expires = $1 WHERE host_id = $2`, millis(certificate.NotAfter), id.String()); err != nil {
			return err
		}
		return t.record(id, "relay-certified", map[string]any{"names": names, "until": certificate.NotAfter.UTC().Format(time.RFC3339), "request": digest})
	})
	if err != nil {
		return "", err
	}
	return issued, nil
}

// RelayHeard notes contact with a relay, every ten seconds at most.
func (r *Registry) RelayHeard(ctx context.Context, id hostid.ID) error {
	now := r.now()
	var heard sql.NullInt64
	err := r.readers.QueryRowContext(ctx, `SELECT heard FROM relays WHERE host_id = $1`, id.String()).Scan(&heard)
	if errors.Is(err, sql.ErrNoRows) || err == nil && heard.Valid && heard.Int64 > millis(now.Add(-contactEvery)) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.write(ctx, func(t *transaction) error {
		_, err := t.exec(`UPDATE relays SET heard = $1 WHERE host_id = $2`, millis(t.now), id.String())
		return err
	})
}

// relayReported keeps what a relay's own report says of it as a relay, and the way that the report took.
func (t *transaction) relayReported(s checkin.SignedReport, v checkin.VerifiedReport) error {
	if v.Report.Relay == nil {
		return nil
	}
	via := []hostid.ID{}
	for _, h := range s.Hops {
		via = append(via, h.Relay)
	}
	// What is no relay says so in vain: it has no row.
	_, err := t.exec(`UPDATE relays SET via = $1, state = $2 WHERE host_id = $3`, toJSON(via), toJSON(v.Report.Relay), v.Report.HostID.String())
	return err
}

// Relay is what the manager knows of a relay. Its JSON names never change their meaning.
type Relay struct {
	HostID      hostid.ID           `json:"host_id"`
	Name        string              `json:"name"`
	State       string              `json:"state"` // active; revoked: retired, deleted or succeeded
	Via         []hostid.ID         `json:"via"`   // the relays between it and the manager, its own higher system first
	Names       []string            `json:"names"` // what its certificate may be for; none: what it calls itself
	Expires     time.Time           `json:"certificate_expires,omitzero"`
	LastContact time.Time           `json:"last_contact,omitzero"` // the latest of its check-ins, batches and polls
	Reported    *checkin.RelayState `json:"reported,omitempty"`    // what it last said of itself; nil before
	OpenWork    int                 `json:"open_work"`
}

// Relays returns all relays that were ever admitted, by name.
func (r *Registry) Relays(ctx context.Context) ([]Relay, error) {
	return scanAll(ctx, r.readers, func(scan func(...any) error) (l Relay, err error) {
		var id, seen, via, names, state string
		var expires, heard, last sql.NullInt64
		var in bool
		if err := scan(&id, &seen, &via, &names, &state, &expires, &heard, &last, &in, &l.OpenWork); err != nil {
			return l, err
		}
		if l.HostID, err = hostid.ParseID(id); err != nil {
			return l, err
		}
		var s Seen
		if err := errors.Join(json.Unmarshal([]byte(seen), &s), json.Unmarshal([]byte(via), &l.Via), json.Unmarshal([]byte(names), &l.Names)); err != nil {
			return l, err
		}
		if state != "{}" {
			if err := json.Unmarshal([]byte(state), &l.Reported); err != nil {
				return l, err
			}
		}
		l.Name, l.State = s.Name, "revoked"
		if in {
			l.State = "active"
		}
		l.Expires, l.LastContact = fromNullTime(expires), fromNullTime(last)
		if h := fromNullTime(heard); h.After(l.LastContact) {
			l.LastContact = h
		}
		return l, nil
	}, `SELECT r.host_id, h.seen, r.via, r.names, r.state, r.expires, r.heard, h.last_checkin, `+relayInForce+`,
		(SELECT COUNT(*) FROM work w WHERE w.relay = r.host_id AND w.ended IS NULL) FROM relays r JOIN hosts_now h ON h.host_id = r.host_id ORDER BY r.host_id`)
}
