package manager

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

const goodPassword = "correct horse secret staple"

// server is a manager that serves, and a client of its API.
type server struct {
	t      *testing.T
	url    string
	reg    *registry.Registry
	http   *http.Client
	roots  *x509.CertPool
	token  checkin.EnrolmentToken
	admin  string // the password of admin
	log    *lockedBuffer
	secret []string // what no log may hold
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var apiAddresses atomic.Int32

func serving(t *testing.T, options ...func(*Options)) *server {
	t.Helper()
	dir, made := initialized(t)
	s := &server{t: t, log: &lockedBuffer{}}
	ctx, stop := context.WithCancel(context.Background())
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	o := Options{DataDir: dir, Database: database(dir), Listen: fmt.Sprintf("127.132.%d.1:0", apiAddresses.Add(1)),
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Listening: func(a net.Addr) { listening <- a }}
	for _, set := range options {
		set(&o)
	}
	go func() { ended <- Serve(ctx, o) }()
	select {
	case a := <-listening:
		s.url = "https://" + a.String()
	case err := <-ended:
		t.Fatal(err)
	}
	pem, err := os.ReadFile(made.CAFile)
	must(t, err)
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, ForceAttemptHTTP2: true}
	s.http = &http.Client{Transport: transport}
	s.reg, err = OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	s.token, err = checkin.ParseToken(made.Token)
	must(t, err)
	password, err := os.ReadFile(made.PasswordFile)
	must(t, err)
	s.admin = strings.TrimSpace(string(password))
	s.secret = append(s.secret, s.admin, made.Token)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.reg.Close()
		for _, secret := range s.secret {
			if strings.Contains(s.log.String(), secret) {
				t.Errorf("the log holds a secret:\n%s", s.log)
			}
		}
	})
	return s
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(a.body))
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%v: %d %s", err, a.status, a.body)
	}
}

// request sends one as somebody; name "" for nobody. Headers are pairs.
func (s *server) request(name, password, method, path, body string, header ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	must(s.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if name != "" {
		req.SetBasicAuth(name, password)
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	res, err := s.http.Do(req)
	must(s.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(s.t, err)
	return answer{res.StatusCode, res.Header, string(b)}
}

// do sends one as admin, and decodes what comes back with the wanted status.
func (s *server) do(method, path, body string, want int, into any) answer {
	s.t.Helper()
	a := s.request(Administrator, s.admin, method, path, body)
	if a.status != want {
		s.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, want, a.body)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/json" {
		s.t.Errorf("%s %s: Content-Type %q", method, path, ct)
	}
	if into != nil {
		a.decode(s.t, into)
	}
	return a
}

// problem wants an error as RFC 9457 has it, whose detail holds a text.
func (s *server) problem(a answer, status int, detail string) {
	s.t.Helper()
	var p struct {
		Title  string
		Status int
		Detail string
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		s.t.Errorf("Content-Type %q, want a problem: %d %s", ct, a.status, a.body)
		return
	}
	a.decode(s.t, &p)
	if a.status != status || p.Status != status || p.Title != http.StatusText(status) || !strings.Contains(a.body, detail) {
		s.t.Errorf("got %d %s, want %d with %q", a.status, a.body, status, detail)
	}
}

// station is a PC that reports.
type station struct {
	seed   hostid.Seed
	report checkin.Report
	orders []checkin.Order
	client *checkin.Client
	token  checkin.EnrolmentToken
}

func (s *server) pc(name, board string) *station {
	s.t.Helper()
	c, err := checkin.NewClient(checkin.ClientOptions{URL: s.url, RootCAs: s.roots, Manager: s.token.Manager})
	must(s.t, err)
	s.t.Cleanup(c.Close)
	p := &station{seed: hostid.NewSeed(), client: c, token: s.token, report: checkin.Report{
		Audience: s.token.Manager, HostID: hostid.NewID(), SealKey: make([]byte, 32),
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall,
		Facts:     hardware.Facts{BoardSerial: board, SystemSerial: "S-" + board, Disks: []hardware.Disk{{Serial: "D-" + name, System: true}}},
		Names:     checkin.Names{Host: name},
		Addresses: []string{"192.0.2.10"}, Versions: checkin.Versions{Client: "1.0", OS: "TestOS 1"},
		Stores: []checkin.StoreState{{Name: "file", State: "stored"}, {Name: "amt", State: "not-initialized"}}, Origin: hostid.Generated,
	}}
	s.checkIn(p)
	return p
}

func (s *server) checkIn(p *station) {
	s.t.Helper()
	p.report.Counter++
	for _, o := range p.orders {
		p.report.Done = append(p.report.Done, o.ID)
	}
	signed, err := checkin.Sign(p.report, p.seed.SigningKey(), &p.token)
	must(s.t, err)
	p.report.Previous, p.report.Done = signed.Digest(), nil
	reply, err := p.client.CheckIn(s.t.Context(), signed)
	must(s.t, err)
	p.orders = reply.Orders
}

func TestAPI(t *testing.T) {
	t.Parallel()
	s := serving(t)
	alpha, beta := s.pc("alpha<b>", "B-1"), s.pc("beta", "B-2")

	// Assets, in pages.
	var page struct {
		Assets []struct {
			HostID      string `json:"host_id"`
			Name        string `json:"name"`
			State       string `json:"state"`
			Initialized *bool  `json:"initialized"`
		}
		Next int64
	}
	var names []string
	for next := int64(0); ; {
		page.Assets = nil
		s.do("GET", fmt.Sprint("/api/v1/assets?limit=1&after=", next), "", 200, &page)
		for _, a := range page.Assets {
			names = append(names, a.Name)
		}
		if next = page.Next; next == 0 {
			break
		}
	}
	if d := cmp.Diff([]string{"alpha<b>", "beta"}, names); d != "" {
		t.Errorf("pages (-want +got):\n%s", d)
	}
	for query, want := range map[string]int{"name=BETA": 1, "name=gamma": 0, "state=live": 2, "state=silent": 0, "not_initialized=true": 2, "": 2} {
		page.Assets = nil
		if s.do("GET", "/api/v1/assets?"+query, "", 200, &page); len(page.Assets) != want {
			t.Errorf("%s: %d assets, want %d", query, len(page.Assets), want)
		}
	}
	one := s.do("GET", "/api/v1/assets/"+alpha.report.HostID.String(), "", 200, nil)
	for _, want := range []string{`"host_id":"` + alpha.report.HostID.String() + `"`, `"board_serial":"B-1"`, `"open_conflicts":[]`, `"orders":[]`, `"name":"alpha\u003cb\u003e"`} {
		if !strings.Contains(one.body, want) {
			t.Errorf("asset: no %s in %s", want, one.body)
		}
	}

	// A conflict: seen, previewed, decided, carried out, undone.
	alpha.report.Facts.BoardSerial, alpha.report.Facts.SystemSerial = "B-9", "S-9"
	s.checkIn(alpha)
	type conflict struct {
		ID          int64
		Kind        string
		Status      string
		Verbs       []string
		Sentence    string
		Resolutions []struct {
			Who      string
			Verb     string
			UndoneBy string `json:"undone_by"`
		}
	}
	var list struct{ Conflicts []conflict }
	s.do("GET", "/api/v1/conflicts?lang=ja", "", 200, &list)
	if len(list.Conflicts) != 1 || list.Conflicts[0].Kind != "other-board" || !strings.Contains(list.Conflicts[0].Sentence, "別の基板") {
		t.Fatalf("conflicts %+v", list)
	}
	var preview struct {
		Verb      string
		Orders    []struct{ Kind string }
		Sentences []string
	}
	s.do("GET", "/api/v1/conflicts/1/preview?verb=merge", "", 200, &preview)
	if preview.Verb != "merge" || len(preview.Orders) != 1 || preview.Orders[0].Kind != "rebind" || len(preview.Sentences) == 0 {
		t.Errorf("preview %+v", preview)
	}
	var c conflict
	s.do("GET", "/api/v1/conflicts/1", "", 200, &c)
	if d := cmp.Diff([]string{"merge", "keep-both", "block"}, c.Verbs); d != "" || c.Status != "open" {
		t.Errorf("%s, verbs %s", c.Status, d)
	}
	s.problem(s.request(Administrator, s.admin, "POST", "/api/v1/conflicts/1/undo", ""), 409, "nobody has decided it")
	s.do("POST", "/api/v1/conflicts/1/resolve", `{"verb":"merge"}`, 200, &c)
	if c.Status != "ordered" || len(c.Resolutions) != 1 || c.Resolutions[0].Who != Administrator {
		t.Errorf("resolved: %+v", c)
	}
	s.problem(s.request(Administrator, s.admin, "POST", "/api/v1/conflicts/1/resolve", `{"verb":"block"}`), 409, "admin decided merge on")
	s.checkIn(alpha) // is told
	s.checkIn(alpha) // has done it
	s.do("GET", "/api/v1/conflicts/1", "", 200, &c)
	if c.Status != "closed" {
		t.Errorf("acknowledged, and %s", c.Status)
	}
	s.problem(s.request(Administrator, s.admin, "GET", "/api/v1/conflicts/1/preview?verb=merge", ""), 409, "undo that first")
	list.Conflicts = nil
	if s.do("GET", "/api/v1/conflicts?closed=true", "", 200, &list); len(list.Conflicts) != 1 {
		t.Errorf("closed: %+v", list)
	}
	var orders struct {
		Orders []struct{ Kind, Acknowledged, Why string }
	}
	s.do("GET", "/api/v1/assets/"+alpha.report.HostID.String()+"/orders", "", 200, &orders)
	if len(orders.Orders) != 1 || orders.Orders[0].Kind != "rebind" || orders.Orders[0].Acknowledged == "" || orders.Orders[0].Why != Administrator {
		t.Errorf("orders %+v", orders)
	}
	s.do("POST", "/api/v1/conflicts/1/undo", "", 200, &c)
	if c.Status != "open" || c.Resolutions[0].UndoneBy != Administrator {
		t.Errorf("undone: %+v", c)
	}
	s.problem(s.request(Administrator, s.admin, "POST", "/api/v1/conflicts/1/undo", ""), 409, "in force")

	// A value that is declared, and taken back.
	var rule struct{ Name, Mode, Who string }
	s.do("PUT", "/api/v1/rules/same-board", `{"mode":"enforce"}`, 200, &rule)
	if rule.Mode != "enforce" || rule.Who != Administrator {
		t.Errorf("rule %+v", rule)
	}
	var rules struct {
		Rules []struct{ Name, Mode string }
	}
	if s.do("GET", "/api/v1/rules", "", 200, &rules); len(rules.Rules) != 3 {
		t.Errorf("rules %+v", rules)
	}
	var placeholder struct{ Kind, Pattern, Who string }
	s.do("POST", "/api/v1/placeholders", `{"kind":"serial","pattern":"b-2"}`, 200, &placeholder)
	if placeholder.Pattern != "B-2" || placeholder.Who != Administrator {
		t.Errorf("placeholder %+v", placeholder)
	}
	var placeholders struct{ Placeholders []struct{ Pattern string } }
	if s.do("GET", "/api/v1/placeholders", "", 200, &placeholders); len(placeholders.Placeholders) != 1 {
		t.Errorf("placeholders %+v", placeholders)
	}
	s.do("DELETE", "/api/v1/placeholders?kind=serial&pattern=B-2", "", 200, nil)
	s.problem(s.request(Administrator, s.admin, "DELETE", "/api/v1/placeholders?kind=serial&pattern=B-2", ""), 404, "unknown")
	s.problem(s.request(Administrator, s.admin, "POST", "/api/v1/placeholders", `{"kind":"serial","pattern":"*"}`), 422, "no placeholder")
	if a := s.do("GET", "/api/v1/placeholders/suggestions", "", 200, nil); a.body != "{\"suggestions\":[]}\n" {
		t.Errorf("suggestions %s", a.body)
	}

	// A token: its secret stands in one answer only.
	var made struct{ ID, Token string }
	a := s.do("POST", "/api/v1/tokens", `{"note":"floor 3","expires":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`, 201, &made)
	s.secret = append(s.secret, made.Token)
	if a.header.Get("Cache-Control") != "no-store" {
		t.Error("the answer with the token may be stored")
	}
	_, err := checkin.ParseToken(made.Token)
	must(t, err)
	s.problem(s.request(Administrator, s.admin, "POST", "/api/v1/tokens", `{"expires":"2001-01-01T00:00:00Z"}`), 422, "this moment is over")
	var relays struct{ Token string }
	s.do("POST", "/api/v1/tokens", `{"note":"site 7","relay":true,"names":["relay7.example","192.0.2.7"]}`, 201, &relays)
	s.secret = append(s.secret, relays.Token)
	for body, says := range map[string]string{
		`{"names":["relay7.example"]}`:                                                  "only a relay's token has names",
		`{"relay":true,"names":["relay7.example","no,name"]}`:                           "names[1]",
		`{"relay":true,"names":["0.0.0.0"]}`:                                            "names[0]",
		`{"relay":true,"names":"relay7.example"}`:                                       "body.names",
		`{"relay":true,"names":[` + strings.Repeat(`"a.b",`, MaxRelayNames) + `"a.b"]}`: "body.names",
	} {
		s.problem(s.request(Administrator, s.admin, "POST", "/api/v1/tokens", body), 422, says)
	}
	of, err := s.reg.Tokens(t.Context())
	must(t, err)
	if last := of[len(of)-1]; !last.Relay || !slices.Equal(last.RelayNames, []string{"relay7.example", "192.0.2.7"}) || last.Note != "site 7" || of[len(of)-2].Relay {
		t.Errorf("the relay's token is %+v", last)
	}
	var tokens struct {
		Tokens []struct{ ID, State, Note string }
	}
	tokensOf := func() string {
		a := s.do("GET", "/api/v1/tokens", "", 200, &tokens)
		if strings.Contains(a.body, made.Token) || strings.Contains(a.body, "verifier") {
			t.Error("a list of tokens holds secrets")
		}
		return tokens.Tokens[1].State
	}
	if got := tokensOf(); got != "valid" {
		t.Errorf("state %s", got)
	}
	s.do("DELETE", "/api/v1/tokens/"+made.ID, "", 200, nil)
	if got := tokensOf(); got != "revoked" {
		t.Errorf("state %s", got)
	}
	s.problem(s.request(Administrator, s.admin, "DELETE", "/api/v1/tokens/0123456789abcdef", ""), 404, "unknown")

	// All of it stands in the history, under the name.
	type events struct {
		Events []struct {
			ID       int64
			Kind     string
			Sentence string
		}
		Next int64
	}
	var all, newest, mine events
	s.do("GET", "/api/v1/history?limit=500", "", 200, &all)
	for _, want := range []string{"resolved", "undone", "rule-set", "placeholder-added", "placeholder-removed", "token-created-by", "token-revoked-by"} {
		i := slices.IndexFunc(all.Events, func(e struct {
			ID       int64
			Kind     string
			Sentence string
		}) bool {
			return e.Kind == want
		})
		if i < 0 || !strings.HasPrefix(all.Events[i].Sentence, "admin ") {
			t.Errorf("history: no %s by admin", want)
		}
	}
	s.do("GET", "/api/v1/history?limit=2&newest=true", "", 200, &newest)
	last := all.Events[len(all.Events)-1].ID
	if len(newest.Events) != 2 || newest.Events[0].ID != last || newest.Next != newest.Events[1].ID || all.Next != 0 {
		t.Errorf("newest %+v", newest)
	}
	s.do("GET", "/api/v1/assets/"+beta.report.HostID.String()+"/history?lang=ja", "", 200, &mine)
	if len(mine.Events) != 2 || !strings.Contains(mine.Events[1].Sentence, "beta をホスト識別子") {
		t.Errorf("history of beta: %+v", mine)
	}

	// What is wrong is told as a problem.
	for _, tt := range []struct {
		method, path, body string
		status             int
		detail             string
	}{
		{"GET", "/api/v1/assets/" + strings.Repeat("0", 31) + "1", "", 404, "unknown"},
		{"GET", "/api/v1/assets/" + strings.Repeat("0", 31) + "1/history", "", 404, "unknown"},
		{"GET", "/api/v1/assets/" + strings.Repeat("0", 31) + "1/orders", "", 404, "unknown"},
		{"GET", "/api/v1/assets/XYZ", "", 422, "path.host_id"},
		{"GET", "/api/v1/assets/" + strings.Repeat("1", 33), "", 422, "path.host_id"},
		{"GET", "/api/v1/assets/" + strings.Repeat("0", 32), "", 422, "path.host_id"}, // which nobody has
		{"POST", "/api/v1/assets/" + strings.Repeat("1", 32) + "/replace", `{"successor":"` + strings.Repeat("0", 32) + `"}`, 422, "body.successor"},
		{"DELETE", "/api/v1/amt-settings?for=" + strings.Repeat("0", 32), "", 422, "query.for"},
		{"GET", "/api/v1/assets?limit=501", "", 422, "query.limit"},
		{"GET", "/api/v1/assets?nonsense=1", "", 422, "nonsense"},
		{"GET", "/api/v1/history?lang=fr", "", 422, "query.lang"},
		{"GET", "/api/v1/conflicts/99", "", 404, "conflict 99"},
		{"GET", "/api/v1/conflicts/99/preview?verb=merge", "", 404, "conflict 99"},
		{"GET", "/api/v1/conflicts/1/preview", "", 422, "query.verb"},
		{"POST", "/api/v1/conflicts/99/resolve", `{"verb":"merge"}`, 404, "conflict 99"},
		{"POST", "/api/v1/conflicts/1/resolve", `{"verb":"join"}`, 422, "body.verb"},
		{"POST", "/api/v1/conflicts/1/resolve", `{"verb":"merge","more":1}`, 422, "more"},
		{"POST", "/api/v1/conflicts/1/resolve", `{`, 400, "unexpected end"},
		{"POST", "/api/v1/conflicts/1/resolve", ``, 400, "body"},
		{"POST", "/api/v1/conflicts/99/undo", ``, 404, "conflict 99"},
		{"PUT", "/api/v1/rules/nonsense", `{"mode":"off"}`, 422, "path.name"},
		{"PUT", "/api/v1/rules/same-board", `{"mode":"maybe"}`, 422, "body.mode"},
		{"DELETE", "/api/v1/placeholders", "", 422, "query.kind"},
		{"DELETE", "/api/v1/tokens/nonsense", "", 422, "path.id"},
		{"POST", "/api/v1/tokens", `{"note":"` + strings.Repeat("x", 20<<10) + `"}`, 413, "too large"},
		{"GET", "/api/v1/nonsense", "", 404, "/openapi.json"},
		{"GET", "/api/", "", 404, "/openapi.json"},
		{"DELETE", "/api/v1/assets", "", 405, "GET"},
	} {
		a := s.request(Administrator, s.admin, tt.method, tt.path, tt.body)
		s.problem(a, tt.status, tt.detail)
		if tt.status == 405 && !strings.Contains(a.header.Get("Allow"), "GET") {
			t.Errorf("%s %s: Allow %q", tt.method, tt.path, a.header.Get("Allow"))
		}
	}
}

// Two administrators decide one conflict at once: one of them does, the other is told who.
func TestAPIDecidesOnce(t *testing.T) {
	t.Parallel()
	s := serving(t)
	must(t, s.reg.CreateAdministrator(t.Context(), "sato", goodPassword, "test"))
	alpha := s.pc("alpha", "B-1")
	alpha.report.Facts.BoardSerial, alpha.report.Facts.SystemSerial = "B-9", "S-9"
	s.checkIn(alpha)
	passwords := map[string]string{Administrator: s.admin, "sato": goodPassword}
	verbs := map[string]string{Administrator: "merge", "sato": "keep-both"}
	for name, password := range passwords { // so that both are known, and meet
		if a := s.request(name, password, "GET", "/api/v1/rules", ""); a.status != 200 {
			t.Fatalf("%s: %d", name, a.status)
		}
	}
	answers := map[string]answer{}
	var mu sync.Mutex
	var both sync.WaitGroup
	for name, password := range passwords {
		both.Go(func() {
			a := s.request(name, password, "POST", "/api/v1/conflicts/1/resolve", `{"verb":"`+verbs[name]+`"}`)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = a
		})
	}
	both.Wait()
	winner, loser := Administrator, "sato"
	if answers[winner].status != 200 {
		winner, loser = loser, winner
	}
	if answers[winner].status != 200 {
		t.Fatalf("nobody won: %+v", answers)
	}
	s.problem(answers[loser], 409, winner+" decided "+verbs[winner])
	c, err := s.reg.Conflict(t.Context(), 1)
	must(t, err)
	if len(c.Decided) != 1 || c.Decided[0].Who != winner {
		t.Errorf("decided %+v", c.Decided)
	}
}

func TestAPIKeepsStrangersOut(t *testing.T) {
	t.Parallel()
	s := serving(t)
	spec := s.request("", "", "GET", "/openapi.json", "")
	if spec.status != 200 || spec.header.Get("Content-Type") != "application/openapi+json" {
		t.Errorf("/openapi.json: %d %s", spec.status, spec.header)
	}
	for _, path := range []string{"/docs", "/schemas/Asset.json", "/openapi.yaml", "/openapi-3.0.json", "/openapi"} {
		if a := s.request("", "", "GET", path, ""); a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	// Nothing is served, or told to be there, without a log-on.
	var doc struct {
		Paths map[string]map[string]any
	}
	spec.decode(t, &doc)
	braces := regexp.MustCompile(`\{\w+\}`)
	for path, operations := range doc.Paths {
		for method := range operations {
			a := s.request("", "", strings.ToUpper(method), braces.ReplaceAllString(path, "1"), "")
			s.problem(a, 401, "log on")
			if got := a.header.Get("WWW-Authenticate"); got != `Basic realm="samehost-manager", charset="UTF-8"` {
				t.Errorf("%s %s: WWW-Authenticate %q", method, path, got)
			}
		}
	}
	s.problem(s.request("", "", "GET", "/api/v1/nonsense", ""), 401, "log on")
	s.problem(s.request("", "", "GET", "/api/v1/rules", "", "Authorization", "Bearer x"), 401, "log on")
	s.problem(s.request("a b", "x", "GET", "/api/v1/rules", ""), 401, "no administrator")
	s.problem(s.request(Administrator, strings.Repeat("x", 2000), "GET", "/api/v1/rules", ""), 401, "no administrator")
	s.problem(s.request(Administrator, "wrong", "GET", "/api/v1/rules", ""), 401, "no administrator")
	s.problem(s.request("nobody", "wrong", "GET", "/api/v1/rules", ""), 401, "no administrator")

	// A browser that knows the password sends it for other sites' pages too.
	for _, h := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
		{"Sec-Fetch-Site", "cross-site", "Origin", s.url}, {"Origin", strings.Replace(s.url, "https", "http", 1)},
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			a := s.request(Administrator, s.admin, method, "/api/v1/tokens", "", h...)
			s.problem(a, 403, "other web sites")
			for name := range a.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %v: %s is set", method, h, name)
				}
			}
		}
	}
	for _, h := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", s.url}, nil} {
		if a := s.request(Administrator, s.admin, "GET", "/api/v1/rules", "", h...); a.status != 200 {
			t.Errorf("%v: %d %s", h, a.status, a.body)
		}
	}

	// A password that is changed, or an administrator that is removed, is void at once, though it was just checked.
	must(t, s.reg.CreateAdministrator(t.Context(), "sato", goodPassword, "test"))
	as := func(password string) int { return s.request("sato", password, "GET", "/api/v1/rules", "").status }
	if got := as(goodPassword); got != 200 {
		t.Fatalf("sato: %d", got)
	}
	must(t, s.reg.ChangePassword(t.Context(), "sato", goodPassword+"2", "test"))
	if old, changed := as(goodPassword), as(goodPassword+"2"); old != 401 || changed != 200 {
		t.Errorf("after a change of password: %d with the old one, %d with the new one", old, changed)
	}
	must(t, s.reg.RemoveAdministrator(t.Context(), "sato", "test"))
	if got := as(goodPassword + "2"); got != 401 {
		t.Errorf("removed: %d", got)
	}
}

// Every operation stands in the document, with what it answers.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	reg := opened(t, bare(t))
	a := newAPI(reg, Options{Log: slog.New(slog.DiscardHandler)})
	var doc struct {
		OpenAPI  string
		Security []map[string][]string
		Paths    map[string]map[string]struct {
			OperationID string
			Responses   map[string]any
		}
	}
	must(t, json.Unmarshal(a.spec, &doc))
	if doc.OpenAPI != "3.1.0" || len(doc.Security) != 1 || doc.Security[0]["administrator"] == nil {
		t.Errorf("openapi %s, security %v", doc.OpenAPI, doc.Security)
	}
	var got []string
	for path, operations := range doc.Paths {
		for method, op := range operations {
			got = append(got, strings.ToUpper(method)+" "+path)
			for _, status := range []string{"401", "403", "429", "500", "503"} {
				if op.Responses[status] == nil {
					t.Errorf("%s %s: nothing about %s", method, path, status)
				}
			}
		}
	}
	slices.Sort(got)
	want := []string{
		"DELETE /api/v1/amt-settings", "DELETE /api/v1/assets/{host_id}", "DELETE /api/v1/placeholders", "DELETE /api/v1/tokens/{id}", "DELETE /api/v1/users/{name}",
		"GET /api/v1/amt-settings", "GET /api/v1/assets", "GET /api/v1/assets/{host_id}", "GET /api/v1/assets/{host_id}/history", "GET /api/v1/assets/{host_id}/orders",
		"GET /api/v1/conflicts", "GET /api/v1/conflicts/{id}", "GET /api/v1/conflicts/{id}/preview",
		"GET /api/v1/deletions", "GET /api/v1/duplicates", "GET /api/v1/history",
		"GET /api/v1/initializations", "GET /api/v1/initializations/{id}", "GET /api/v1/initializations/{id}/targets",
		"GET /api/v1/placeholders", "GET /api/v1/placeholders/suggestions", "GET /api/v1/relays", "GET /api/v1/rules", "GET /api/v1/tokens", "GET /api/v1/users",
		"POST /api/v1/archive", "POST /api/v1/assets/{host_id}/replace", "POST /api/v1/assets/{host_id}/restore", "POST /api/v1/assets/{host_id}/retire",
		"POST /api/v1/assets/{host_id}/undo-replace", "POST /api/v1/assets/{host_id}/unretire",
		"POST /api/v1/conflicts/{id}/resolve", "POST /api/v1/conflicts/{id}/undo", "POST /api/v1/deletions/{id}/restore", "POST /api/v1/duplicates/resolve",
		"POST /api/v1/initializations", "POST /api/v1/initializations/{id}/cancel",
		"POST /api/v1/placeholders", "POST /api/v1/tokens", "POST /api/v1/users",
		"PUT /api/v1/amt-settings", "PUT /api/v1/rules/{name}", "PUT /api/v1/users/{name}/password",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("paths (-want +got):\n%s", d)
	}
	page, err := os.ReadFile("../../docs/protocol/api.md")
	must(t, err)
	var told []string // the first cells of the table of all operations
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:GET|POST|PUT|DELETE) [^`?]+)").FindAllStringSubmatch(string(page), -1) {
		method, path, _ := strings.Cut(m[1], " ")
		told = append(told, method+" /api/v1/"+path)
	}
	slices.Sort(told)
	if d := cmp.Diff(got, told); d != "" {
		t.Errorf("docs/protocol/api.md (-served +told):\n%s", d)
	}
	for _, ref := range regexp.MustCompile(`"#/components/schemas/(\w+)"`).FindAllStringSubmatch(string(a.spec), -1) {
		if !strings.Contains(string(a.spec), strconv.Quote(ref[1])+":{") {
			t.Errorf("%s is named and not described", ref[1])
		}
	}
}
