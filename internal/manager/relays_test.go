package manager

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// A relay's certificate is for what its token allows, and never for a name of the manager's own.
func TestCertificatesOfRelays(t *testing.T) {
	t.Parallel()
	dir, made := initialized(t)
	reg, err := OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	defer reg.Close()
	certs, err := loadCertificates(dir, "192.0.2.1", []string{"manager.example"}, time.Now)
	must(t, err)
	client, err := checkin.ParseToken(made.Token)
	must(t, err)
	for name, c := range map[string]struct {
		allowed, wanted, want []string // want nil: refused
	}{
		"all that is allowed":         {[]string{"relay1.example", "192.0.2.9"}, nil, []string{"relay1.example", "192.0.2.9"}},
		"one of them":                 {[]string{"relay1.example", "192.0.2.9"}, []string{"RELAY1.example"}, []string{"RELAY1.example"}},
		"more than is allowed":        {[]string{"relay1.example"}, []string{"relay1.example", "bank.example"}, []string{"relay1.example"}},
		"nothing that is allowed":     {[]string{"relay1.example"}, []string{"bank.example", "192.0.2.10"}, nil},
		"the manager's name":          {[]string{"Manager.Example"}, nil, nil},
		"its address, and its own":    {[]string{"192.0.2.1", "::1", "relay1.example"}, nil, []string{"relay1.example"}},
		"localhost":                   {[]string{"localhost", "127.0.0.1"}, []string{"localhost", "127.0.0.1"}, nil},
		"by what it calls itself":     {nil, []string{"pc", "pc.example", "bank.example"}, []string{"pc", "pc.example"}},
		"by all that it calls itself": {nil, nil, []string{"pd", "pd.example", "192.0.2.78"}},
	} {
		own := checkin.Report{Names: checkin.Names{Host: "pc", FQDN: "pc.example"}, Addresses: []string{"192.0.2.77"}}
		if slices.Contains(c.want, "pd") { // two that call themselves alike are not certified for it
			own = checkin.Report{Names: checkin.Names{Host: "pd", FQDN: "pd.example"}, Addresses: []string{"192.0.2.78"}}
		}
		seed := hostid.NewSeed()
		report := checkin.Report{Audience: client.Manager, HostID: hostid.NewID(), SealKey: seed.SealingKey().PublicKey().Bytes(), Counter: 1,
			Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated,
			Names: own.Names, Addresses: own.Addresses}
		tok, err := MakeRelayToken(t.Context(), reg, c.allowed, time.Time{}, "", "")
		must(t, err)
		token, err := checkin.ParseToken(tok.Token)
		must(t, err)
		s, err := checkin.Sign(report, seed.SigningKey(), &token)
		must(t, err)
		_, err = reg.CheckIn(t.Context(), s)
		must(t, err)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		template := &x509.CertificateRequest{}
		for _, n := range c.wanted {
			if ip := net.ParseIP(n); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else {
				template.DNSNames = append(template.DNSNames, n)
			}
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		must(t, err)
		request, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: client.Manager, HostID: report.HostID, CSR: csr}, seed.SigningKey(), &token)
		must(t, err)
		issued, err := certs.forRelay(t.Context(), reg, request)
		var refusal *checkin.Refusal
		if c.want == nil {
			if !errors.As(err, &refusal) || refusal.Code != checkin.NotRelay {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		leaf, ca, err := checkin.VerifyIssuedCertificate(issued, client.Manager, request)
		must(t, err)
		got := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			got = append(got, ip.String())
		}
		if !slices.Equal(got, c.want) || !ca.Equal(certs.ca) || leaf.URIs[0].String() != checkin.RelayURI(report.HostID) {
			t.Errorf("%s: for %q, %s; want %q", name, got, leaf.URIs, c.want)
		}
		roots := x509.NewCertPool()
		roots.AddCert(certs.ca)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: c.want[0]}); err != nil {
			t.Errorf("%s: a client would say: %v", name, err)
		}
	}
	if _, err := certs.forRelay(t.Context(), reg, "no request"); err == nil {
		t.Error("anything is a request")
	}
}

// The API tells of relays what the command prints.
func TestRelaysThroughTheAPI(t *testing.T) {
	t.Parallel()
	s := serving(t)
	if a := s.do("GET", "/api/v1/relays", "", 200, nil); a.body != "{\"relays\":[]}\n" {
		t.Errorf("before there is any: %s", a.body)
	}
	made, err := MakeRelayToken(t.Context(), s.reg, []string{"relay1.example"}, time.Time{}, "", "")
	must(t, err)
	token, err := checkin.ParseToken(made.Token)
	must(t, err)
	seed := hostid.NewSeed()
	report := checkin.Report{Audience: token.Manager, HostID: hostid.NewID(), SealKey: seed.SealingKey().PublicKey().Bytes(), Counter: 1,
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated, Names: checkin.Names{Host: "site1"}}
	r, err := checkin.Sign(report, seed.SigningKey(), &token)
	must(t, err)
	_, err = s.reg.CheckIn(t.Context(), r)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	request, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: token.Manager, HostID: report.HostID, CSR: csr}, seed.SigningKey(), &token)
	must(t, err)
	v, err := checkin.VerifyCertificateRequest(request)
	must(t, err)
	_, err = s.reg.AdmitRelay(t.Context(), v)
	must(t, err)
	var got struct{ Relays []registry.Relay }
	s.do("GET", "/api/v1/relays", "", 200, &got)
	want, err := s.reg.Relays(t.Context())
	must(t, err)
	if d := cmp.Diff(want, got.Relays); d != "" || len(want) != 1 || want[0].HostID != report.HostID || want[0].Name != "site1" || want[0].State != "active" {
		t.Errorf("%+v (-want +got):\n%s", want, d)
	}
}

// A relay gets its own work, and that of relays whose own reports come through it; of no others, whatever it asks for.
func TestWorkOfOtherRelays(t *testing.T) {
	t.Parallel()
	dir, made := initialized(t)
	reg, err := OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	defer reg.Close()
	certs, err := loadCertificates(dir, "192.0.2.1", nil, time.Now)
	must(t, err)
	client, err := checkin.ParseToken(made.Token)
	must(t, err)
	admit := func(name string, through ...hostid.ID) hostid.ID {
		seed := hostid.NewSeed()
		report := checkin.Report{Audience: client.Manager, HostID: hostid.NewID(), SealKey: seed.SealingKey().PublicKey().Bytes(), Counter: 1,
			Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated, Names: checkin.Names{Host: name}}
		tok, err := MakeRelayToken(t.Context(), reg, nil, time.Time{}, "", "")
		must(t, err)
		token, err := checkin.ParseToken(tok.Token)
		must(t, err)
		s, err := checkin.Sign(report, seed.SigningKey(), &token)
		must(t, err)
		for _, id := range through {
			s.Hops = append(s.Hops, checkin.Hop{Relay: id})
		}
		_, err = reg.CheckIn(t.Context(), s)
		must(t, err)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		must(t, err)
		request, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: client.Manager, HostID: report.HostID, CSR: csr}, seed.SigningKey(), &token)
		must(t, err)
		_, err = certs.forRelay(t.Context(), reg, request)
		must(t, err)
		must(t, reg.PostWork(t.Context(), checkin.Work{ID: name, To: report.HostID, Kind: "test", Made: time.Now(), Body: []byte(`{}`)}))
		return report.HostID
	}
	upper := admit("upper")
	lower := admit("lower", upper)
	lowest := admit("lowest", lower, upper)
	beside := admit("beside")
	for _, c := range []struct {
		from hostid.ID
		asks []hostid.ID
		want []string
	}{
		{upper, []hostid.ID{upper, beside, lower, lowest}, []string{"lower", "lowest", "upper"}},
		{lower, []hostid.ID{lower, upper, beside, lowest}, []string{"lower", "lowest"}},
		{beside, []hostid.ID{beside, upper, lower, lowest}, []string{"beside"}},
		{upper, []hostid.ID{upper}, []string{"upper"}},
	} {
		a, err := waitForWork(t.Context(), t.Context(), reg, c.from, checkin.WorkQuery{Relays: c.asks})
		must(t, err)
		var got []string
		for _, jws := range a.Work {
			w, err := checkin.VerifyWork(jws, client.Manager)
			must(t, err)
			got = append(got, w.ID)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) || len(a.Revoked) > 0 {
			t.Errorf("%q, and %v are revoked; want %q", got, a.Revoked, c.want)
		}
	}
}
