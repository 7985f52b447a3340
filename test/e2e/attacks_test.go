package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/test/play"
)

// The attacker is written from docs/protocol/checkin.md and shares no line with the product. He has a valid enrolment token,
// knows host IDs, and sits on the way: PCs that use his proxy trust it (a hostile relay, or a machine whose administrator
// looks on).

var b64 = base64.RawURLEncoding

// object is JSON.
type object = map[string]any

// attacker signs with one key.
type attacker struct {
	w   *world
	key ed25519.PrivateKey
	id  string // the host ID that he reports under
}

func hex16() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func newAttacker(w *world) *attacker {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	return &attacker{w, key, hex16()}
}

// token is the parts of the line that an administrator hands out.
func (w *world) token() (id string, secret []byte, manager string) {
	w.t.Helper()
	b, err := os.ReadFile(w.manager.TokenFile)
	w.must(err)
	return w.tokenParts(string(b))
}

func (w *world) tokenParts(line string) (id string, secret []byte, manager string) {
	w.t.Helper()
	p := strings.Split(strings.TrimSpace(line), ".")
	secret, err := b64.DecodeString(p[2])
	w.must(err)
	print, err := b64.DecodeString(p[3])
	w.must(err)
	return p[1], secret, "sha256:" + hex.EncodeToString(print)
}

// report is a whole report by the attacker, the first of an epoch; change alters it.
func (a *attacker) report(change object) object {
	_, _, manager := a.w.token()
	r := object{
		"aud": manager, "host_id": a.id, "sign_key": []byte(a.key.Public().(ed25519.PublicKey)), "seal_key": make([]byte, 32),
		"epoch": hex16(), "counter": 1, "previous": "", "run": hex16(), "age_ms": 0, "time": "2026-01-01T00:00:00Z",
		"facts": object{}, "names": object{"host": "attacker"}, "addresses": []string{}, "versions": object{"client": "", "os": ""},
		"stores": []string{}, "origin": "generated", "epoch_by": "install",
	}
	maps.Copy(r, change)
	return r
}

// sign makes a JWS. With a token line, the report also proves it.
func (a *attacker) sign(typ string, payload any, token string) string {
	a.w.t.Helper()
	p, err := json.Marshal(payload)
	a.w.must(err)
	head := object{"alg": "EdDSA", "typ": typ, "jwk": object{"kty": "OKP", "crv": "Ed25519", "x": b64.EncodeToString(a.key.Public().(ed25519.PublicKey))}}
	if token != "" {
		id, secret, _ := a.w.tokenParts(token)
		verifier := sha256.Sum256(secret)
		mac := hmac.New(sha256.New, verifier[:])
		mac.Write([]byte("samehost/report/1\x00" + id + "\x00"))
		mac.Write(p)
		head["enrol"] = object{"token": id, "mac": mac.Sum(nil)}
	}
	h, err := json.Marshal(head)
	a.w.must(err)
	text := b64.EncodeToString(h) + "." + b64.EncodeToString(p)
	return text + "." + b64.EncodeToString(ed25519.Sign(a.key, []byte(text)))
}

// enrols sends a report with the valid token, which has to be accepted.
func (a *attacker) enrols(change object) object {
	a.w.t.Helper()
	return a.w.accepted(a.sign("samehost/report/1", a.report(change), a.w.tokenLine()))
}

func (w *world) tokenLine() string {
	w.t.Helper()
	b, err := os.ReadFile(w.manager.TokenFile)
	w.must(err)
	return string(b)
}

// client trusts the manager's certificate.
func (w *world) client() *http.Client {
	w.t.Helper()
	ca, err := os.ReadFile(w.manager.CAFile)
	w.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// post sends a signed report to the manager.
func (w *world) post(jws string) (status int, body string) {
	w.t.Helper()
	res, err := w.client().Post("https://"+w.manager.Listen+"/checkin/v1", "application/jose", strings.NewReader(jws))
	w.must(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	w.must(err)
	return res.StatusCode, string(b)
}

// accepted posts a report, which has to be accepted, and returns the reply.
func (w *world) accepted(jws string) object {
	w.t.Helper()
	status, body := w.post(jws)
	if status != http.StatusOK {
		w.t.Fatalf("HTTP %d: %s", status, body)
	}
	return payloadOf(w.t, body)
}

// refused posts a report, which has to be refused with that code.
func (w *world) refused(code, what, jws string) {
	w.t.Helper()
	if status, body := w.post(jws); status < 400 || !strings.Contains(body, "urn:samehost:problem:"+code) {
		w.t.Errorf("%s: HTTP %d %s, want %s", what, status, body, code)
	}
}

func payloadOf(t *testing.T, jws string) object {
	t.Helper()
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		t.Fatalf("not signed: %.200s", jws)
	}
	b, err := b64.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// orders are those of a kind in a reply.
func orders(reply object, kind string) (list []object) {
	all, _ := reply["orders"].([]any)
	for _, o := range all {
		if o := o.(object); o["kind"] == kind {
			list = append(list, o)
		}
	}
	return list
}

// A proxy stands between PCs and the manager. What it does with a report is decided by do.
type proxy struct {
	w *world

	mu      sync.Mutex
	reports []string // as they came
	replies []string // of the manager, "" where it was not asked
	do      func(n int, jws string) answer
}

// answer says what the proxy does with a report.
type answer int

const (
	forward  answer = iota
	lose            // the manager has the report, the PC has no answer
	drop            // the manager has nothing, the PC has no answer
	withhold        // the manager has nothing, the PC is told that it is in safe keeping
	repeat          // the manager has nothing, the PC gets the manager's first reply again
)

// through puts a proxy between the PC and its manager.
func (w *world) through(pc *play.PC) *proxy {
	w.t.Helper()
	p := &proxy{w: w}
	host, _, err := net.SplitHostPort(w.stage.Service())
	w.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	w.must(err)
	pc.CAFile = filepath.Join(filepath.Dir(pc.Config), "proxy-ca.pem")
	w.must(os.WriteFile(pc.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	listener, err := tls.Listen("tcp", w.stage.Service(), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	w.must(err)
	server := &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(listener)
	w.t.Cleanup(func() { server.Close() })
	pc.HigherSystem = w.stage.Service()
	w.must(pc.Configure())
	return p
}

func (p *proxy) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mu.Lock()
	n := len(p.reports)
	p.reports, p.replies = append(p.reports, string(body)), append(p.replies, "")
	do := forward
	if p.do != nil {
		do = p.do(n, string(body))
	}
	p.mu.Unlock()
	if do == forward || do == lose {
		res, err := p.w.client().Post("https://"+p.w.manager.Listen+r.URL.Path, r.Header.Get("Content-Type"), bytes.NewReader(body))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer res.Body.Close()
		reply, err := io.ReadAll(res.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		p.mu.Lock()
		p.replies[n] = string(reply)
		p.mu.Unlock()
		if do == forward {
			rw.Header().Set("Content-Type", res.Header.Get("Content-Type"))
			rw.WriteHeader(res.StatusCode)
			rw.Write(reply)
			return
		}
	}
	if do == repeat {
		rw.Header().Set("Content-Type", "application/jose")
		io.WriteString(rw, p.replies[0])
		return
	}
	if do == withhold {
		sum := sha256.Sum256(body)
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(rw, `{"status":"deferred","report":"%x"}`, sum)
		return
	}
	panic(http.ErrAbortHandler)
}

// captured are the reports that passed, each once.
func (p *proxy) captured() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, r := range p.reports {
		if !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}

func (p *proxy) set(do func(n int, jws string) answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.do = do
}

func always(a answer) func(int, string) answer { return func(int, string) answer { return a } }

// shown is all that the manager shows of the asset of a host ID, its history included.
func (w *world) shown(hostID string) object {
	w.t.Helper()
	r, err := w.manager.Command("asset", hostID, "--json")
	w.must(err)
	var o object
	w.must(json.Unmarshal([]byte(r.Stdout), &o))
	return o
}

// untouched checks that what the manager shows is what it showed before, but for the members named.
func (w *world) untouched(before object, but ...string) {
	w.t.Helper()
	after := w.shown(before["host_id"].(string))
	for _, name := range but {
		if _, ok := before[name]; !ok {
			w.t.Fatalf("nothing is shown as %s", name)
		}
		delete(after, name)
	}
	was := maps.Clone(before)
	maps.DeleteFunc(was, func(name string, _ any) bool { return slices.Contains(but, name) })
	if diff := cmp.Diff(was, after); diff != "" {
		w.t.Errorf("the victim's asset changed:\n%s", diff)
	}
}

// unharmed checks that the victim's PC is what it was, and is served as before: no order, no question.
func (w *world) unharmed(pc *play.PC, id string) {
	w.t.Helper()
	r, err := pc.Command("checkin", "--json")
	w.must(err)
	var out struct {
		HostID    string `json:"host_id"`
		CheckedIn bool   `json:"checked_in"`
		Reply     string `json:"reply"`
	}
	w.must(json.Unmarshal([]byte(r.Stdout), &out))
	if out.HostID != id || !out.CheckedIn || out.Reply != "accepted" {
		w.t.Errorf("the victim has %+v, want its host ID %s and an accepted report", out, id)
	}
	r, err = pc.Command("status")
	w.must(err)
	if strings.Contains(r.Stdout, "order") {
		w.t.Errorf("the victim was ordered something:\n%s", r.Stdout)
	}
}

// opens are the members that show a conflict that an attempt opened, and that it is in the history.
var opens = []string{"state", "conflicts", "open_conflicts", "orders", "history"}

func TestAttacks(t *testing.T) {
	for _, attempt := range []struct {
		name string
		play func(t *testing.T, w *world)
	}{
		{"captured reports replayed", func(t *testing.T, w *world) {
			pc := w.pc(1)
			p := w.through(pc)
			id := w.enrol(pc)
			w.pass(time.Minute)
			w.checkIn(pc)
			before := w.shown(id)
			w.pass(time.Hour)
			for i, jws := range p.captured() {
				if _, body := w.post(jws); body != p.replies[i] {
					t.Errorf("report %d is answered anew: %s", i, body)
				}
			}
			before["state"] = "silent" // an hour has passed, and replayed reports do not count
			w.untouched(before)
			w.unharmed(pc, id)
		}},
		{"captured report altered", func(t *testing.T, w *world) {
			pc := w.pc(1)
			p := w.through(pc)
			id := w.enrol(pc)
			before := w.shown(id)
			a := newAttacker(w)
			captured := p.captured()[0]
			parts := strings.Split(captured, ".")
			payload := payloadOf(t, captured)
			payload["facts"] = object{"board_serial": "OTHER"}
			changed, err := json.Marshal(payload)
			w.must(err)
			w.refused("malformed", "another payload", parts[0]+"."+b64.EncodeToString(changed)+"."+parts[2])
			w.refused("malformed", "another spelling", captured+"=")
			// The victim's own words, signed by the attacker, who proves the token.
			w.refused("malformed", "another key", a.sign("samehost/report/1", payload, w.tokenLine()))
			// A signature that was made for another purpose.
			w.refused("malformed", "another purpose", a.sign("samehost/replaced/1", a.report(nil), w.tokenLine()))
			w.untouched(before)
			w.unharmed(pc, id)
		}},
		{"reports withheld and delivered later", func(t *testing.T, w *world) {
			withheld(t, w, func(*play.PC) {})
		}},
		{"reports withheld and delivered later, nothing but the disk known", func(t *testing.T, w *world) {
			withheld(t, w, placeholders)
		}},
		{"reports of before a disk failure delivered after it", func(t *testing.T, w *world) {
			pc := w.pc(1)
			p := w.through(pc)
			id := w.enrol(pc)
			service := w.serve(pc)
			p.set(always(withhold))
			for range 3 {
				w.pass(3 * time.Minute)
				w.checkIn(pc)
			}
			p.set(nil)
			w.must(service.Stop())
			held := p.captured()[2:]
			w.pass(time.Hour)
			w.fail(pc)
			w.want(w.install(pc), id, "restored", "stored")
			service = w.serve(pc)
			for _, jws := range held {
				w.pass(3 * time.Minute)
				w.checkIn(pc)
				w.accepted(jws)
			}
			w.must(service.Stop())
			w.unharmed(pc, id)
			w.assets([]string{id})
			if got := w.asset(id).Facts.Disks[0].Serial; got != pc.Hardware.Disks[0].Serial {
				t.Errorf("known disk %s, want the present one, %s", got, pc.Hardware.Disks[0].Serial)
			}
		}},
		{"another's host ID", func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			before := w.shown(id)
			a := newAttacker(w)
			a.id = id
			facts := facts(t, pc)
			w.refused("needs-enrolment", "no token", a.sign("samehost/report/1", a.report(object{"facts": facts}), ""))
			w.untouched(before)
			reply := a.enrols(object{"facts": facts})
			if len(orders(reply, "new-id")) != 1 {
				t.Errorf("the attacker is not told to take a host ID of his own: %v", reply)
			}
			if c := w.open("other-key")[0]; c.HostID != id {
				t.Errorf("conflict %+v", c)
			}
			w.untouched(before, opens...)
			w.unharmed(pc, id)
		}},
		{"another's host ID with a token that was revoked", func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			before := w.shown(id)
			token, _, _ := w.token()
			_, err := w.manager.Command("token", "revoke", token)
			w.must(err)
			a := newAttacker(w)
			a.id = id
			w.refused("bad-token", "revoked", a.sign("samehost/report/1", a.report(nil), w.tokenLine()))
			w.untouched(before)
			w.unharmed(pc, id)
		}},
		{"replaced host ID forged", func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			before := w.shown(id)
			a := newAttacker(w)
			report := a.report(object{"facts": facts(t, pc)})
			statement := object{"old": id, "new": a.id, "new_key": report["sign_key"], "aud": report["aud"]}
			report["replaced"] = []string{a.sign("samehost/replaced/1", statement, "")}
			reply := w.accepted(a.sign("samehost/report/1", report, w.tokenLine()))
			if reply["named"] != nil {
				t.Errorf("the statement was taken: %v", reply)
			}
			w.assets([]string{id}, []string{a.id})
			w.open("replacement", "same-board")
			w.untouched(before)
			w.unharmed(pc, id)
		}},
		{"another's statement about a replaced host ID", func(t *testing.T, w *world) {
			pc := w.pc(1)
			p := w.through(pc)
			old := w.enrol(pc)
			w.must(w.firmware.Faults(1, `{"locked_out": true}`))
			w.pass(time.Hour)
			w.fail(pc)
			id := w.install(pc).HostID
			w.must(w.firmware.Faults(1, `{}`))
			p.set(always(withhold)) // the attacker is the first to show it
			w.checkIn(pc)
			w.checkIn(pc)
			captured := p.captured()
			statements := payloadOf(t, captured[len(captured)-1])["replaced"]
			if statements == nil {
				t.Fatal("no statement was captured: this test would prove nothing")
			}
			before, beforeOld := w.shown(id), w.shown(old)
			a := newAttacker(w)
			reply := a.enrols(object{"replaced": statements})
			if reply["named"] != nil {
				t.Errorf("the statement was taken from a stranger: %v", reply)
			}
			w.untouched(before)
			w.untouched(beforeOld)
			p.set(nil)
			w.checkIn(pc)
			w.checkIn(pc)
			w.assets([]string{id, old}, []string{a.id}) // its owner is believed
		}},
		{"another's evidence", func(t *testing.T, w *world) {
			pc, other := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			before := w.shown(id)
			// The real client, told that it runs on the victim's hardware.
			other.Hardware, other.Firmware = pc.Hardware, 0
			w.must(other.Configure())
			w.hardware(other)
			got := w.install(other).HostID
			w.lives(other)
			w.assets([]string{id}, []string{got})
			w.open("same-board")
			before["state"] = "silent"
			w.untouched(before)
			w.unharmed(pc, id)
			w.board(id, pc)
		}},
		{"copy of another's host ID", func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			before := w.shown(id)
			a := newAttacker(w)
			reply := a.enrols(object{"copy_of": id, "epoch_by": "new-id"})
			if reply["orders"] != nil {
				t.Errorf("orders %v", reply["orders"])
			}
			w.assets([]string{id}, []string{a.id})
			w.open()
			w.untouched(before)
			w.unharmed(pc, id)
		}},
		{"another's order acknowledged", func(t *testing.T, w *world) {
			pc, spare := w.pc(1), w.pc(2)
			p := w.through(pc)
			id := w.enrol(pc)
			w.pass(time.Hour)
			swapBoard(w, pc, spare)
			w.checkIn(pc)
			w.resolve(w.open("other-board")[0], "merge")
			p.set(always(lose)) // the order is given, and the PC does not hear it
			if r, err := pc.Command("checkin"); err != nil || r.Code == 0 {
				t.Fatalf("checked in without an answer: %v, %v", r, err)
			}
			order := orders(payloadOf(t, p.replies[len(p.replies)-1]), "rebind")
			if len(order) != 1 {
				t.Fatal("no order was captured: this test would prove nothing")
			}
			before := w.shown(id)
			// As somebody else, as a copy, and under the victim's host ID.
			done := object{"done": []any{order[0]["id"]}, "facts": facts(t, pc)}
			newAttacker(w).enrols(done)
			copied := newAttacker(w)
			copied.enrols(object{"done": done["done"], "copy_of": id, "epoch_by": "new-id"})
			known := newAttacker(w)
			known.id = id
			known.enrols(done)
			for _, c := range w.conflicts() {
				if c.Kind == "other-board" && c.Status != "ordered" {
					t.Errorf("the conflict is %s, though the PC has done nothing", c.Status)
				}
			}
			w.untouched(before, opens...)
			p.set(nil)
			w.checkIn(pc)
			w.checkIn(pc)
			w.board(id, pc) // the true acknowledgement counts
		}},
		{"token of an order", func(t *testing.T, w *world) {
			// A copy is ordered to take a new host ID. It does, and before it enrols, its owner takes the token that came along.
			pc, copied := w.pc(1), w.pc(2)
			for _, pc := range []*play.PC{pc, copied} {
				placeholders(pc)
				pc.Firmware = 0
				w.must(pc.Configure())
				w.hardware(pc)
			}
			id := w.install(pc).HostID
			bystander := newAttacker(w)
			bystander.enrols(nil)
			w.lives(pc)
			w.must(copied.CopyDisk(pc))
			p := w.through(copied)
			mine, others := w.serve(pc), w.serve(copied)
			for range 3 {
				if w.status(copied).HostID != id {
					break
				}
				w.pass(3 * time.Minute)
				w.checkIn(pc)
				w.checkIn(copied)
			}
			w.must(mine.Stop())
			w.must(others.Stop())
			var order []object
			for _, reply := range p.replies {
				order = append(order, orders(payloadOf(t, reply), "new-id")...)
			}
			var state struct {
				Content struct {
					Enrol struct {
						Token string `json:"token"`
					} `json:"enrol"`
				} `json:"content"`
			}
			b, err := os.ReadFile(filepath.Join(copied.DataDir, "orders.json"))
			w.must(err)
			w.must(json.Unmarshal(b, &state))
			token := state.Content.Enrol.Token
			if len(order) == 0 || token == "" {
				t.Fatal("no token was captured: this test would prove nothing")
			}
			before, beforeBystander := w.shown(id), w.shown(bystander.id)
			number := order[len(order)-1]["id"]
			legitimate := object{"done": []any{number}, "copy_of": id, "epoch_by": "new-id"}

			sealed, err := b64.DecodeString(order[0]["enrol"].(string))
			w.must(err)
			if bytes.Contains(sealed, []byte("samehost1.")) || strings.Contains(strings.Join(p.replies, ""), token) {
				t.Error("the token can be read on its way")
			}
			for name, report := range map[string]object{
				"without the order":     {},
				"without lineage":       {"done": []any{number}},
				"with another lineage":  {"done": []any{number}, "copy_of": bystander.id},
				"with another order":    {"done": []any{hex16()}, "copy_of": id},
				"for the ordered ID":    {"done": []any{number}, "copy_of": id, "host_id": id},
				"for a bystander's":     {"done": []any{number}, "copy_of": id, "host_id": bystander.id},
				"of the copy's new one": {"copy_of": id, "host_id": w.status(copied).HostID},
			} {
				a := newAttacker(w)
				w.refused("bad-token", name, a.sign("samehost/report/1", a.report(report), token))
			}
			// What can be read on the way, with the valid token that everybody has.
			forger := newAttacker(w)
			forger.enrols(legitimate)
			if c := w.open("overlap")[0]; c.Status != "ordered" {
				t.Errorf("the conflict is %s by a forged acknowledgement", c.Status)
			}
			w.untouched(before, "open_conflicts") // the copies that it counts
			w.untouched(beforeBystander)
			w.checkIn(copied) // it enrols with it
			a := newAttacker(w)
			w.refused("bad-token", "twice", a.sign("samehost/report/1", a.report(legitimate), token)) // once and no more
			w.assets([]string{id}, []string{bystander.id}, []string{forger.id}, []string{w.status(copied).HostID})
			w.open()
			w.untouched(beforeBystander)
		}},
		{"former replies given to a PC", func(t *testing.T, w *world) {
			pc := w.pc(1)
			p := w.through(pc)
			id := w.enrol(pc)
			w.checkIn(pc)
			before := w.shown(id)
			p.set(always(repeat))
			r, err := pc.Command("checkin")
			w.must(err)
			if r.Code == 0 || !strings.Contains(r.Stderr, "another report") {
				t.Errorf("the PC took the reply to another report: %s%s", r.Stdout, r.Stderr)
			}
			w.untouched(before)
			p.set(nil)
			w.unharmed(pc, id)
		}},
	} {
		t.Run(attempt.name, func(t *testing.T) { attempt.play(t, clockedWorld(t, 2)) })
	}
}

// facts are the PC's, as its reports state them.
func facts(t *testing.T, pc *play.PC) object {
	t.Helper()
	b, err := json.Marshal(pc.Hardware)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// withheld: two reports of one run are taken from the victim, and delivered while it lives on, with the time between them that they had,
// so that its past runs beside its present.
func withheld(t *testing.T, w *world, facts func(*play.PC)) {
	pc := w.pc(1)
	facts(pc)
	pc.Firmware = 0
	pc.Hardware.SMBIOSAMT = false
	w.hardware(pc)
	p := w.through(pc)
	id := w.install(pc).HostID
	service := w.serve(pc)
	p.set(always(withhold))
	for range 3 {
		w.pass(3 * time.Minute)
		w.checkIn(pc)
	}
	held := p.captured()
	held = held[len(held)-3:]
	w.must(service.Stop())
	// The PC is started again, and what it says arrives; what it said before is not there.
	pc.Hardware.Disks = append(pc.Hardware.Disks, play.Disk{Serial: "ADDED"})
	w.hardware(pc)
	lost := map[string]bool{}
	for _, jws := range held {
		lost[jws] = true
	}
	p.set(func(_ int, jws string) answer {
		if lost[jws] {
			return withhold
		}
		return forward
	})
	service = w.serve(pc)
	w.pass(3 * time.Minute)
	w.checkIn(pc)
	for _, jws := range held[:2] { // the last one, which would join both, never
		w.pass(3 * time.Minute)
		w.checkIn(pc)
		w.accepted(jws)
	}
	for range 2 {
		w.pass(3 * time.Minute)
		w.checkIn(pc)
	}
	w.must(service.Stop())
	w.unharmed(pc, id)
	w.assets([]string{id})
	w.open("overlap") // somebody is to look at it, and nobody was ordered anything
	if got := w.asset(id).Facts.Disks; len(got) != 2 {
		t.Errorf("known disks %v, want the present ones, %v", got, pc.Hardware.Disks)
	}
	for _, jws := range held {
		w.accepted(jws)
	}
	w.unharmed(pc, id)
	w.assets([]string{id})
	if got := w.asset(id).Facts.Disks; len(got) != 2 {
		t.Errorf("known disks %v, want the present ones, %v", got, pc.Hardware.Disks)
	}
	w.open() // the whole line is there: it was one PC
}
