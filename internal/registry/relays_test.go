package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// asks is a relay's request for a certificate.
func (p *pc) asks(token *checkin.EnrolmentToken) checkin.VerifiedCertificateRequest {
	p.m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.m.t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(p.m.t, err)
	jws, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: p.m.audience, HostID: p.report.HostID, CSR: csr}, p.seed.SigningKey(), token)
	must(p.m.t, err)
	v, err := checkin.VerifyCertificateRequest(jws)
	must(p.m.t, err)
	return v
}

// newRelay is a relay that was admitted.
func newRelay(m *manager, name string) *pc {
	m.t.Helper()
	token, err := m.CreateRelayToken(m.t.Context(), []string{name + ".example"}, time.Time{}, "", "")
	must(m.t, err)
	p := newPC(m, name)
	p.enrol = &token
	p.checkIn()
	_, err = m.AdmitRelay(m.t.Context(), p.asks(&token))
	must(m.t, err)
	return p
}

func refusal(err error) checkin.RefusalCode {
	var r *checkin.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

func TestRelayIsAdmittedByItsToken(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	token, err := m.CreateRelayToken(ctx, []string{"relay1.example", "192.0.2.9"}, time.Time{}, "site 1", "sato")
	must(t, err)
	p := newPC(m, "relay1")
	p.enrol = &token
	if _, err := m.AdmitRelay(ctx, p.asks(&token)); refusal(err) != checkin.NeedsEnrolment {
		t.Errorf("before its check-in: %v", err)
	}
	p.checkIn()
	if _, err := m.AdmitRelay(ctx, p.asks(nil)); refusal(err) != checkin.BadToken {
		t.Errorf("without a token: %v", err)
	}
	if _, err := m.AdmitRelay(ctx, p.asks(&m.token)); refusal(err) != checkin.BadToken {
		t.Errorf("with a client's token: %v", err)
	}
	wrong := token
	wrong.Secret[0]++
	if _, err := m.AdmitRelay(ctx, p.asks(&wrong)); refusal(err) != checkin.BadToken {
		t.Errorf("with another secret: %v", err)
	}
	names, err := m.AdmitRelay(ctx, p.asks(&token))
	must(t, err)
	if diff := cmp.Diff([]string{"relay1.example", "192.0.2.9"}, names); diff != "" {
		t.Error(diff)
	}
	if _, err := m.AdmitRelay(ctx, p.asks(nil)); err != nil {
		t.Errorf("its key suffices from then on: %v", err)
	}
	forged := p.clone()
	forged.seed = hostid.NewSeed()
	if _, err := m.AdmitRelay(ctx, forged.asks(&token)); refusal(err) != checkin.NeedsEnrolment {
		t.Errorf("by another key: %v", err)
	}
	second := newPC(m, "relay2")
	second.checkIn()
	if _, err := m.AdmitRelay(ctx, second.asks(&token)); refusal(err) != checkin.BadToken || !strings.Contains(err.Error(), p.report.HostID.String()) {
		t.Errorf("another relay by the same token: %v", err)
	}
	must(t, m.RevokeToken(ctx, token.ID, ""))
	if _, err := m.AdmitRelay(ctx, p.asks(&token)); err != nil {
		t.Errorf("the token has served: %v", err)
	}

	// Without names: by what it calls itself.
	unnamed, err := m.CreateRelayToken(ctx, nil, time.Time{}, "", "")
	must(t, err)
	second.report.Names = checkin.Names{Host: "relay2", FQDN: "relay2.example"}
	second.checkIn()
	names, err = m.AdmitRelay(ctx, second.asks(&unnamed))
	must(t, err)
	if diff := cmp.Diff([]string{"relay2", "relay2.example", "192.0.2.7"}, names); diff != "" {
		t.Error(diff)
	}
}

// Who was retired, succeeded or deleted is no relay; who was deleted and comes back is none before it gets a new token.
func TestRelayIsRevoked(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	in := func(p *pc) bool {
		t.Helper()
		all, err := m.RelaysInForce(ctx, []hostid.ID{p.report.HostID})
		must(t, err)
		return all[p.report.HostID]
	}
	p := newRelay(m, "relay1")
	if !in(p) || in(newPC(m, "other")) {
		t.Fatal("who is a relay?")
	}
	_, err := m.Retire(ctx, p.report.HostID, Actor{Trigger: ByCommand})
	must(t, err)
	if in(p) {
		t.Error("retired, and still a relay")
	}
	if _, err := m.AdmitRelay(ctx, p.asks(nil)); refusal(err) != checkin.NotRelay {
		t.Errorf("a certificate for a retired relay: %v", err)
	}
	p.checkIn()
	if in(p) {
		t.Error("heard again, and a relay")
	}
	_, err = m.Unretire(ctx, p.report.HostID, Actor{Trigger: ByCommand})
	must(t, err)
	if !in(p) {
		t.Error("no relay after that was taken back")
	}
	m.pass(time.Hour)
	_, err = m.Delete(ctx, p.report.HostID, Actor{Trigger: ByCommand})
	must(t, err)
	if in(p) {
		t.Error("deleted, and still a relay")
	}
	m.pass(time.Hour)
	p.checkIn() // it comes back as an asset
	if in(p) {
		t.Error("came back by a check-in, and a relay")
	}
	m.pass(time.Hour)
	token, err := m.CreateRelayToken(ctx, nil, time.Time{}, "", "")
	must(t, err)
	if _, err := m.AdmitRelay(ctx, p.asks(&token)); err != nil || !in(p) {
		t.Errorf("with a new token: %v", err)
	}
}

func TestRelaysTell(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	upper, lower := newRelay(m, "upper"), newRelay(m, "lower")
	m.pass(time.Minute)
	lower.report.Relay = &checkin.RelayState{Reports: 7, Bytes: 9000, Bound: 1 << 30, OldestS: 60}
	s := lower.next()
	s.Hops = []checkin.Hop{{Relay: upper.report.HostID}}
	lower.send(s)
	m.pass(time.Minute)
	must(t, m.RelayHeard(ctx, upper.report.HostID))
	m.pass(time.Second)
	must(t, m.RelayHeard(ctx, upper.report.HostID)) // too soon to be noted
	all, err := m.Relays(ctx)
	must(t, err)
	if len(all) != 2 {
		t.Fatalf("%d relays", len(all))
	}
	for _, r := range all {
		switch r.HostID {
		case lower.report.HostID:
			if r.Name != "lower" || r.State != "active" || len(r.Via) != 1 || r.Via[0] != upper.report.HostID || *r.Reported != *lower.report.Relay ||
				!r.LastContact.Equal(testEpoch.Add(time.Minute)) || r.Names[0] != "lower.example" {
				t.Errorf("%+v", r)
			}
		case upper.report.HostID:
			if r.Reported != nil || len(r.Via) != 0 || !r.LastContact.Equal(testEpoch.Add(2*time.Minute)) {
				t.Errorf("%+v", r)
			}
		}
	}
}

func (p *pc) progress(work string, sequence uint64, done bool) string {
	p.m.t.Helper()
	jws, err := checkin.SignProgress(checkin.Progress{Work: work, From: p.report.HostID, Sequence: sequence, Done: done,
		Body: json.RawMessage(fmt.Sprintf(`{"n":%d}`, sequence))}, p.seed.SigningKey())
	must(p.m.t, err)
	return jws
}

func TestWork(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	a, b := newRelay(m, "a"), newRelay(m, "b")
	plain := newPC(m, "plain")
	plain.checkIn()
	work := func(id string, to *pc) checkin.Work {
		return checkin.Work{ID: id, To: to.report.HostID, Kind: "initialize", Made: m.clock(), Body: json.RawMessage(`{"targets":["pc1"]}`)}
	}
	posted := m.WorkPosted()
	first := work("w-1", a)
	must(t, m.PostWork(ctx, first))
	select {
	case <-posted:
	default:
		t.Error("nobody was woken")
	}
	must(t, m.PostWork(ctx, first)) // again
	m.pass(time.Second)
	if err := m.PostWork(ctx, work("w-1", a)); err == nil {
		t.Error("another work under the same ID")
	}
	must(t, m.PostWork(ctx, work("w-2", b)))
	must(t, m.PostWork(ctx, work("w-3", a)))
	if err := m.PostWork(ctx, work("w-4", plain)); !errors.Is(err, ErrNotRelay) {
		t.Errorf("work for a client: %v", err)
	}
	relays := []hostid.ID{a.report.HostID, plain.report.HostID}
	ids := func(have ...string) (list []string) {
		t.Helper()
		texts, err := m.WorkFor(ctx, relays, have)
		must(t, err)
		for _, text := range texts {
			w, err := checkin.VerifyWork(text, m.audience)
			must(t, err)
			list = append(list, w.ID)
		}
		return list
	}
	if diff := cmp.Diff([]string{"w-1", "w-3"}, ids()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"w-3"}, ids("w-1", "w-9")); diff != "" {
		t.Error(diff)
	}

	taken := m.ProgressTaken()
	if busy := (*checkin.Busy)(nil); !errors.As(m.TakeProgress(ctx, a.progress("w-1", 2, false)), &busy) {
		t.Error("the second before the first")
	}
	must(t, m.TakeProgress(ctx, a.progress("w-1", 1, false)))
	select {
	case <-taken:
	default:
		t.Error("nobody was woken")
	}
	must(t, m.TakeProgress(ctx, a.progress("w-1", 1, false)))
	if err := m.TakeProgress(ctx, b.progress("w-1", 2, true)); refusal(err) != checkin.UnknownWork {
		t.Errorf("another relay's: %v", err)
	}
	forged := a.clone()
	forged.seed = hostid.NewSeed()
	if err := m.TakeProgress(ctx, forged.progress("w-1", 2, true)); refusal(err) != checkin.Malformed {
		t.Errorf("by another key: %v", err)
	}
	if err := m.TakeProgress(ctx, a.progress("w-9", 1, true)); refusal(err) != checkin.UnknownWork {
		t.Errorf("of no work: %v", err)
	}
	must(t, m.TakeProgress(ctx, a.progress("w-1", 2, true)))
	must(t, m.TakeProgress(ctx, a.progress("w-1", 2, true)))
	if err := m.TakeProgress(ctx, a.progress("w-1", 3, true)); refusal(err) != checkin.UnknownWork {
		t.Errorf("after the end: %v", err)
	}
	if diff := cmp.Diff([]string{"w-3"}, ids()); diff != "" {
		t.Error(diff)
	}
	got, err := m.ProgressOf(ctx, "w-1", 0)
	must(t, err)
	want := []checkin.Progress{{Work: "w-1", From: a.report.HostID, Sequence: 1, Body: json.RawMessage(`{"n":1}`)},
		{Work: "w-1", From: a.report.HostID, Sequence: 2, Done: true, Body: json.RawMessage(`{"n":2}`)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := m.ProgressOf(ctx, "w-1", 1); err != nil || len(got) != 1 || got[0].Sequence != 2 {
		t.Errorf("after the first: %+v, %v", got, err)
	}
	must(t, m.EndWork(ctx, "w-3"))
	if got := ids(); got != nil {
		t.Errorf("called off, and handed out: %q", got)
	}
	if err := m.TakeProgress(ctx, a.progress("w-3", 1, false)); refusal(err) != checkin.UnknownWork {
		t.Errorf("of what was called off: %v", err)
	}
	// A relay that does not know any more how far it was says all again; of what was called off it is not to begin.
	must(t, m.PostWork(ctx, work("w-5", a)))
	must(t, m.TakeProgress(ctx, a.progress("w-5", 1, false)))
	must(t, m.EndWork(ctx, "w-5"))
	if err := m.TakeProgress(ctx, a.progress("w-5", 1, false)); refusal(err) != checkin.UnknownWork {
		t.Errorf("the beginning again of what was called off: %v", err)
	}
	for i := range maxOpenWork {
		must(t, m.PostWork(ctx, work(fmt.Sprintf("many-%d", i), a)))
	}
	if err := m.PostWork(ctx, work("one-more", a)); !errors.Is(err, ErrTooMuchWork) {
		t.Errorf("%v", err)
	}
	m.pass(keepWork + time.Hour)
	must(t, m.Trim(ctx))
	if got, err := m.ProgressOf(ctx, "w-1", 0); err != nil || len(got) != 0 {
		t.Errorf("after a month: %+v, %v", got, err)
	}
}

// What a relay says of one work takes a bounded part of the disk, however long it goes on.
func TestProgressOfOneWork(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	a := newRelay(m, "a")
	for _, id := range []string{"long", "short"} {
		must(t, m.PostWork(ctx, checkin.Work{ID: id, To: a.report.HostID, Kind: "initialize", Made: m.clock(), Body: json.RawMessage(`{}`)}))
	}
	for i := range uint64(progressesAtOnce - 1) {
		must(t, m.takeProgress(ctx, a.progress("long", i+1, false), 1000))
	}
	if err := m.takeProgress(ctx, a.progress("long", progressesAtOnce, false), 1000); refusal(err) != checkin.Malformed {
		t.Errorf("%v", err)
	}
	must(t, m.takeProgress(ctx, a.progress("short", 1, false), 1000))
}

// Anybody may ask for a certificate. Who is unknown has nothing written, or he would make check-ins wait.
func TestStrangersAskForCertificates(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	known := newPC(m, "relay1")
	known.checkIn()
	stranger, thief := newPC(m, "stranger"), known.clone()
	thief.seed = hostid.NewSeed()
	before := m.Figures().Writes
	for _, p := range []*pc{stranger, thief} {
		if _, err := m.AdmitRelay(t.Context(), p.asks(&m.token)); refusal(err) != checkin.NeedsEnrolment {
			t.Errorf("%s: %v", p.report.Names.Host, err)
		}
	}
	expect(t, "transactions that wrote", m.Figures().Writes, before)
}

// What an administrator called one relay by its token, no other one is certified for because it calls itself so.
func TestRelayCallsItselfAsAnother(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	token, err := m.CreateRelayToken(ctx, []string{"relay1.example", "192.0.2.9", "2001:db8::9"}, time.Time{}, "", "")
	must(t, err)
	first := newPC(m, "relay1")
	first.checkIn()
	_, err = m.AdmitRelay(ctx, first.asks(&token))
	must(t, err)
	unnamed, err := m.CreateRelayToken(ctx, nil, time.Time{}, "", "")
	must(t, err)
	second := newPC(m, "relay2")
	second.report.Names = checkin.Names{Host: "relay2", FQDN: "Relay1.Example."}
	second.report.Addresses = []string{"::ffff:192.0.2.9", "2001:0db8::0009", "192.0.2.8"}
	second.checkIn()
	names, err := m.AdmitRelay(ctx, second.asks(&unnamed))
	must(t, err)
	if diff := cmp.Diff([]string{"relay2", "192.0.2.8"}, names); diff != "" {
		t.Error(diff)
	}
	// Its own token's names are its own, also where another one has them, as behind one address.
	both, err := m.CreateRelayToken(ctx, []string{"relay1.example"}, time.Time{}, "", "")
	must(t, err)
	names, err = m.AdmitRelay(ctx, second.asks(&both))
	must(t, err)
	if diff := cmp.Diff([]string{"relay1.example"}, names); diff != "" {
		t.Error(diff)
	}
}

// Of relays whose tokens have no names the first one that was certified for a name keeps it; and a name that a token is made for waits for
// the relay that shows it.
func TestRelayTakesTheNameOfAnother(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	of := make(map[*pc]*checkin.EnrolmentToken)
	relay := func(name, address string, names ...string) *pc {
		t.Helper()
		p := newPC(m, name)
		p.report.Addresses = []string{address}
		p.checkIn()
		token, err := m.CreateRelayToken(ctx, names, time.Time{}, "", "")
		must(t, err)
		of[p] = &token
		return p
	}
	requests := 0
	certify := func(p *pc, names ...string) {
		t.Helper()
		requests++
		certificate := &x509.Certificate{Raw: []byte{1}, DNSNames: names, NotAfter: m.now.Add(30 * 24 * time.Hour)}
		_, err := m.CertifyRelay(ctx, p.report.HostID, fmt.Sprint("request ", requests), certificate, certificate)
		must(t, err)
	}
	allowed := func(when string, p *pc, want ...string) {
		t.Helper()
		got, err := m.AdmitRelay(ctx, p.asks(of[p]))
		must(t, err)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	first, bad := relay("relay1", "192.0.2.9"), relay("bad", "192.0.2.66")
	allowed("the first one", first, "relay1", "192.0.2.9")
	certify(first, "relay1", "192.0.2.9")
	allowed("another one", bad, "bad", "192.0.2.66")
	certify(bad, "bad", "192.0.2.66")

	bad.report.Names = checkin.Names{Host: "RELAY1.", FQDN: "relay9.example"}
	bad.report.Addresses = []string{"::ffff:192.0.2.9", "192.0.2.67"}
	bad.checkIn()
	later, err := m.CreateRelayToken(ctx, []string{"relay9.example"}, time.Time{}, "", "")
	must(t, err)
	allowed("with another's names", bad, "192.0.2.67")
	must(t, m.RevokeToken(ctx, later.ID, ""))
	allowed("with a name of a token that was revoked", bad, "relay9.example", "192.0.2.67")
	bad.report.Names, bad.report.Addresses = checkin.Names{Host: "relay1"}, []string{"192.0.2.9"}
	bad.checkIn()
	_, err = m.AdmitRelay(ctx, bad.asks(of[bad]))
	if refusal(err) != checkin.NotRelay || !strings.Contains(err.Error(), "relay1 (relay "+first.report.HostID.String()+")") {
		t.Errorf("with nothing but another's names: %v", err)
	}
	first.checkIn()
	allowed("whose names they are", first, "relay1", "192.0.2.9")

	// Two that had a name before both keep it.
	certificate := &x509.Certificate{Raw: []byte{1}, DNSNames: []string{"relay1"}, NotAfter: m.now.Add(time.Hour)}
	_, err = m.CertifyRelay(ctx, bad.report.HostID, "at the same moment", certificate, certificate)
	if busy := (*checkin.Busy)(nil); !errors.As(err, &busy) {
		t.Errorf("certified for what another one was certified for since: %v", err)
	}
	must(t, m.write(ctx, func(t *transaction) error {
		return t.record(bad.report.HostID, "relay-certified", map[string]any{"names": []string{"relay1", "192.0.2.9"}, "until": t.now.Add(30 * 24 * time.Hour)})
	}))
	allowed("the first of two", first, "relay1", "192.0.2.9")
	allowed("the second of two", bad, "relay1", "192.0.2.9")
	// Names of what is no relay any more, and of certificates that are over, are free.
	third := relay("relay1", "192.0.2.99")
	allowed("while the others are there", third, "192.0.2.99")
	_, err = m.Retire(ctx, first.report.HostID, alice)
	must(t, err)
	allowed("while one is there", third, "192.0.2.99")
	m.pass(31 * 24 * time.Hour)
	third.checkIn()
	allowed("after the last certificate", third, "relay1", "192.0.2.99")
	// An administrator's word stands above all.
	certify(third, "relay1")
	fourth := relay("relay4", "192.0.2.9", "relay1")
	allowed("by its token", fourth, "relay1")
	allowed("what a token gave to another", third, "192.0.2.99")
}

// A request for a certificate can be sent again by whoever passed it on. It makes no events without end: a host whose history is
// full has its check-ins turned away.
func TestCertificatesOfADay(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newRelay(m, "relay1")
	certificate := &x509.Certificate{Raw: []byte{1}, DNSNames: []string{"relay1.example"}, NotAfter: m.now.Add(time.Hour)}
	for i := range maxCertificates {
		_, err := m.CertifyRelay(t.Context(), p.report.HostID, fmt.Sprint("request ", i), certificate, certificate)
		must(t, err)
	}
	_, err := m.CertifyRelay(t.Context(), p.report.HostID, "one more", certificate, certificate)
	var busy *checkin.Busy
	if !errors.As(err, &busy) || busy.After < time.Minute {
		t.Errorf("%v", err)
	}
	m.pass(25 * time.Hour)
	_, err = m.CertifyRelay(t.Context(), p.report.HostID, "one more", certificate, certificate)
	must(t, err)
}

// A request is answered once: who has seen it on its way, and sends it again and again, uses up nothing that is the relay's.
func TestCertificateRequestsAgain(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newRelay(m, "relay1")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	request, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: m.audience, HostID: p.report.HostID, CSR: csr}, p.seed.SigningKey(), nil)
	must(t, err)
	seen, err := checkin.VerifyCertificateRequest(request)
	must(t, err)
	certificate := &x509.Certificate{Raw: []byte{1}, DNSNames: []string{"relay1.example"}, NotAfter: m.now.Add(time.Hour)}
	_, err = m.AdmitRelay(t.Context(), seen)
	must(t, err)
	_, err = m.CertifyRelay(t.Context(), p.report.HostID, request, certificate, certificate)
	must(t, err)
	var busy *checkin.Busy
	for range maxCertificates {
		if _, err := m.AdmitRelay(t.Context(), seen); !errors.As(err, &busy) || busy.After < time.Minute {
			t.Fatalf("admitted again: %v", err)
		}
		if _, err := m.CertifyRelay(t.Context(), p.report.HostID, request, certificate, certificate); !errors.As(err, &busy) { // two at the same moment
			t.Fatalf("certified again: %v", err)
		}
	}
	_, err = m.AdmitRelay(t.Context(), p.asks(nil))
	must(t, err)
	_, err = m.CertifyRelay(t.Context(), p.report.HostID, "the relay's next", certificate, certificate)
	must(t, err)
}
