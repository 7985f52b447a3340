package manager

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

const (
	// relayDays: a relay renews its certificate when a third of this is left, so it may be cut off for ten days.
	relayDays = 30
	// askAgain is how often work that another manager process posted is looked for.
	askAgain = 2 * time.Second
	// trustRelay is how long a relay that was retired or deleted may go on.
	trustRelay = 5 * time.Second
	// MaxRelayNames is how many names the token of a relay may have.
	MaxRelayNames = 100
	// maxTrusted bounds what is remembered of relays.
	maxTrusted = 10_000
)

// withRelays puts what relays need before the handler for everybody else. serving ends polls when the server stops.
func withRelays(serving context.Context, other http.Handler, reg *registry.Registry, gate checkin.HigherSystem, certs *certificates, log *slog.Logger) http.Handler {
	t := &trustedRelays{reg: reg, known: map[hostid.ID]trusted{}}
	relays := checkin.RelayHandler(throughRelays{gate, t}, checkin.ForRelays{
		Who: func(req *http.Request) (hostid.ID, error) {
			id, err := checkin.RelayOf(req.TLS, certs.ca, time.Now())
			if err != nil {
				return id, err
			}
			in, err := t.inForce(req.Context(), id)
			if err == nil && !in {
				err = fmt.Errorf("%w; host ID %s is no relay any more: it was retired, replaced or deleted", checkin.ErrNoRelay, id)
			}
			if err == nil {
				err = reg.RelayHeard(req.Context(), id)
			}
			return id, err
		},
		Work: func(ctx context.Context, from hostid.ID, q checkin.WorkQuery) (checkin.WorkAnswer, error) {
			return waitForWork(ctx, serving, reg, from, q)
		},
		Progress:    func(ctx context.Context, _ hostid.ID, jws string) error { return takeProgress(ctx, reg, jws, log) },
		Certificate: func(ctx context.Context, request string) (string, error) { return certs.forRelay(ctx, reg, request) },
	}, log)
	mux := http.NewServeMux()
	mux.Handle(checkin.RelayPath, relays)
	mux.Handle("/", other)
	return mux
}

// waitForWork answers when there is work that the relays do not have, when one of them is none any more, or when the
// context or the server ends. The relay that asks is told what there is for itself, and for those whose own latest report came
// through it: others' PCs are none of its business.
func waitForWork(ctx, serving context.Context, reg *registry.Registry, from hostid.ID, q checkin.WorkQuery) (checkin.WorkAnswer, error) {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		posted := reg.WorkPosted()
		in, err := reg.RelaysInForce(ctx, q.Relays)
		if err != nil {
			return checkin.WorkAnswer{}, err
		}
		a := checkin.WorkAnswer{Work: []string{}, Revoked: []hostid.ID{}}
		var active, below []hostid.ID
		for _, id := range q.Relays {
			switch {
			case !in[id]:
				a.Revoked = append(a.Revoked, id)
			case id == from:
				active = append(active, id)
			default:
				below = append(below, id)
			}
		}
		if below, err = reg.ComeThrough(ctx, from, below); err != nil {
			return checkin.WorkAnswer{}, err
		}
		active = append(active, below...)
		work, err := reg.WorkFor(ctx, active, q.Have)
		if err != nil {
			return checkin.WorkAnswer{}, err
		}
		if a.Work = append(a.Work, work...); len(a.Work)+len(a.Revoked) > 0 {
			return a, nil
		}
		select {
		case <-posted:
		case <-again.C:
		case <-ctx.Done():
			return a, nil
		case <-serving.Done():
			return a, nil
		}
	}
}

// throughRelays takes reports from relays. A hop of what is no relay any more is nobody's word: the way begins behind it.
type throughRelays struct {
	checkin.HigherSystem
	trusted *trustedRelays
}

func (t throughRelays) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	for i := len(r.Hops) - 1; i >= 0; i-- {
		in, err := t.trusted.inForce(ctx, r.Hops[i].Relay)
		if err != nil {
			return checkin.Reply{}, err
		}
		if !in {
			r.Hops = r.Hops[i+1:]
			break
		}
	}
	return t.HigherSystem.CheckIn(ctx, r)
}

// trustedRelays remembers for seconds who is a relay: every report of every batch asks for each of its hops.
type trustedRelays struct {
	reg   *registry.Registry
	mu    sync.Mutex
	known map[hostid.ID]trusted
}

type trusted struct {
	in bool
	at time.Time
}

func (t *trustedRelays) inForce(ctx context.Context, id hostid.ID) (bool, error) {
	t.mu.Lock()
	k, ok := t.known[id]
	t.mu.Unlock()
	if ok && time.Since(k.at) < trustRelay {
		return k.in, nil
	}
	in, err := t.reg.RelaysInForce(ctx, []hostid.ID{id})
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxTrusted {
		clear(t.known)
	}
	t.known[id] = trusted{in[id], time.Now()}
	return in[id], nil
}

// forRelay issues a relay's certificate: for those of the names it asks for, or all if it asks for none, that its token
// allows it and that are not this manager's own.
func (c *certificates) forRelay(ctx context.Context, reg *registry.Registry, request string) (string, error) {
	v, err := checkin.VerifyCertificateRequest(request)
	if err != nil {
		return "", err
	}
	allowed, err := reg.AdmitRelay(ctx, v)
	if err != nil {
		return "", err
	}
	own := c.goodFor()
	allowed = slices.DeleteFunc(allowed, func(n string) bool { return !issuable(n) || hasName(own, n) })
	wanted := v.Names()
	names := allowed
	if len(wanted) > 0 {
		names = slices.DeleteFunc(wanted, func(n string) bool { return !hasName(allowed, n) })
	}
	if len(names) == 0 {
		return "", &checkin.Refusal{Code: checkin.NotRelay, Detail: fmt.Sprintf(
			"no name is left that a certificate may be for: wanted %s; allowed %s, and none of the manager's own; name what clients call this relay with samehost-manager token create --relay --name",
			list(v.Names()), list(allowed))}
	}
	now := c.now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "samehost relay " + v.HostID.String()}, // for people; the names count
		NotBefore:    now.Add(-backdated),
		NotAfter:     now.AddDate(0, 0, relayDays),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	uri, err := url.Parse(checkin.RelayURI(v.HostID))
	if err != nil {
		return "", err
	}
	template.URIs = []*url.URL{uri}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, v.CSR.PublicKey, c.caKey)
	if err != nil {
		return "", err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	return reg.CertifyRelay(ctx, v.HostID, request, leaf, c.ca)
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	const most = 10
	text := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}

// hasName compares as DNS does, addresses by what they are.
func hasName(names []string, n string) bool {
	ip := net.ParseIP(n)
	return slices.ContainsFunc(names, func(o string) bool {
		if ip != nil {
			return ip.Equal(net.ParseIP(o))
		}
		return strings.EqualFold(strings.TrimSuffix(o, "."), strings.TrimSuffix(n, "."))
	})
}

// issuable accepts an IP address or a DNS name written out: what a relay calls itself is its own word.
func issuable(n string) bool {
	if ip := net.ParseIP(n); ip != nil {
		return !ip.IsUnspecified() && !ip.IsMulticast()
	}
	const in = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(n) > 253 {
		return false
	}
	labels := strings.Split(n, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, in) != "" || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// MakeRelayToken makes a token that admits one relay, whose certificate may be for those names; without any for those by
// which it calls itself. It is shown only in what this returns.
func MakeRelayToken(ctx context.Context, reg *registry.Registry, names []string, expires time.Time, note, who string) (MadeToken, error) {
	tok, err := reg.CreateRelayToken(ctx, names, expires, note, who)
	if err != nil {
		return MadeToken{}, err
	}
	if !expires.IsZero() {
		expires = expires.UTC().Truncate(time.Millisecond)
	}
	return MadeToken{tok.ID, tok.Text(), expires}, nil
}
