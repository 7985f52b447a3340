package manager

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amtinit"
	"samehost/internal/amtsim"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// known makes a registry with one PC of these facts, found at that address.
func known(t *testing.T, uuid string, addresses ...string) (*registry.Registry, hostid.ID) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	reg, err := registry.Create(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "r.db"), registry.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	return reg, enrolled(t, reg, key, "", uuid, addresses...)
}

func enrolled(t *testing.T, reg *registry.Registry, key ed25519.PrivateKey, name, uuid string, addresses ...string) hostid.ID {
	t.Helper()
	tok, err := reg.CreateToken(t.Context(), time.Time{}, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	seed := hostid.NewSeed()
	r := checkin.Report{
		Audience: checkin.FingerprintOf(key.Public().(ed25519.PublicKey)), HostID: hostid.NewID(), SealKey: seed.SealingKey().PublicKey().Bytes(),
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Counter: 1,
		Facts: hardware.Facts{SystemUUID: uuid, BoardSerial: "board " + name}, Names: checkin.Names{Host: name}, Addresses: addresses, Origin: hostid.Generated,
	}
	s, err := checkin.Sign(r, seed.SigningKey(), &tok)
	if err == nil {
		_, err = reg.CheckIn(context.WithoutCancel(t.Context()), s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.HostID
}

// The AMT of a PC is cleared where it proves to be that PC's, and nowhere else.
func TestClearAMT(t *testing.T) {
	t.Parallel()
	start := func(address string, index int) (d *amtsim.Device, uuid string) {
		t.Helper()
		d, err := amtsim.Start(amtsim.Options{Network: address + ":16992", Local: "none", Index: index})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		uuid, ok := hardware.DisplayUUID(d.Snapshot().PlatformGUID)
		if !ok || strings.ReplaceAll(strings.ToUpper(uuid), "-", "") == d.Snapshot().PlatformGUID {
			t.Fatalf("UUID %q", uuid) // one whose byte order makes no difference would show nothing
		}
		return d, uuid
	}
	_, uuid := start("127.133.2.1", 1)
	_, other := start("127.133.2.2", 2)
	o := amtinit.Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, Port: 16992}
	by := registry.Actor{Who: "alice", Trigger: registry.ByCommand}

	reg, id := known(t, uuid, "127.133.2.2", "127.133.2.1")
	got, err := ClearAMT(t.Context(), reg, id, o, by)
	if err != nil || got.Removed || got.Address != "127.133.2.1:16992" || got.SystemUUID != uuid {
		t.Errorf("%+v, %v", got, err)
	}
	events, err := reg.HistoryOf(t.Context(), id)
	if err != nil || events[len(events)-1].Kind != "amt-clear" || !strings.Contains(events[len(events)-1].Sentence(registry.English), "127.133.2.1") {
		t.Errorf("events %+v, %v", events, err)
	}

	reg, id = known(t, uuid, "127.133.2.2")
	var failed *NotCleared
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.As(err, &failed) || !strings.Contains(err.Error(), "AMT of another PC") {
		t.Errorf("at another PC's: %v", err)
	}
	reg, id = known(t, "", "127.133.2.1")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.Is(err, registry.ErrNoUUID) {
		t.Errorf("no UUID: %v", err)
	}
	reg, id = known(t, uuid, "127.133.2.1")
	enrolled(t, reg, ed25519.NewKeyFromSeed(make([]byte, 32)), "twin", uuid, "127.133.2.9")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.Is(err, registry.ErrSharedUUID) {
		t.Errorf("shared UUID: %v", err)
	}
	reg, id = known(t, other, "127.133.2.9")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.As(err, &failed) || failed.Code != amtinit.NothingAnswers {
		t.Errorf("nobody there: %v", err)
	}
	o.Password = "wrong password"
	reg, id = known(t, other, "127.133.2.2")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.As(err, &failed) || failed.Code != amtinit.LogOnRefused || strings.Contains(fmt.Sprint(err), "wrong password") {
		t.Errorf("wrong password: %v", err)
	}
	if _, err = ClearAMT(t.Context(), reg, hostid.NewID(), o, by); !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	w := registry.Whereabouts{Name: "pc1", FQDN: "pc1.example", Addresses: []string{"192.0.2.1", "fe80::1", "0.0.0.0", "::ffff:192.0.2.2", "no address"}}
	for first, want := range map[bool]string{
		false: "pc1.example pc1 192.0.2.1 192.0.2.2",
		true:  "192.0.2.1 192.0.2.2 pc1.example pc1",
	} {
		var got []string
		for _, p := range places(w, first) {
			got = append(got, p.String())
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("address first %t: %s", first, s)
		}
	}
}

// did is a registry.Maintenance as the API tells it.
type did struct {
	ID           int64
	Kind         string
	HostID       string `json:"host_id"`
	Successor    string
	HostIDs      []string `json:"host_ids"`
	Name         string
	Trigger, Who string
	Ended        string
	EndedTrigger string `json:"ended_trigger"`
	EndedBy      string `json:"ended_by"`
}

func (s *server) maintained(method, path, body string) (d did) {
	s.t.Helper()
	s.do(method, path, body, 200, &d)
	return d
}

// names are those of the assets that a query lists.
func (s *server) names(query string) string {
	s.t.Helper()
	var page struct{ Assets []struct{ Name string } }
	s.do("GET", "/api/v1/assets?"+query, "", 200, &page)
	var names []string
	for _, a := range page.Assets {
		names = append(names, a.Name)
	}
	return strings.Join(names, " ")
}

func TestAPIMaintenance(t *testing.T) {
	t.Parallel()
	s := serving(t)
	alpha, beta, gamma := s.pc("alpha", "B-1"), s.pc("beta", "B-2"), s.pc("gamma", "B-3")
	path := func(p *station) string { return "/api/v1/assets/" + p.report.HostID.String() }
	refused := func(method, path, body string, status int, detail string) {
		t.Helper()
		s.problem(s.request(Administrator, s.admin, method, path, body), status, detail)
	}
	list := func(query, want string) {
		t.Helper()
		if got := s.names(query); got != want {
			t.Errorf("assets?%s: %q, want %q", query, got, want)
		}
	}

	// Deleted and restored: by the host ID, by the number, by its PC.
	d := s.maintained("DELETE", path(alpha), "")
	want := did{ID: 1, Kind: "delete", HostID: alpha.report.HostID.String(), HostIDs: []string{alpha.report.HostID.String()}, Name: "alpha", Trigger: "api", Who: Administrator}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	list("", "beta gamma")
	list("all=true", "beta gamma")
	list("state=deleted", "")
	refused("DELETE", path(alpha), "", 409, "deleted already")
	refused("POST", path(beta)+"/restore", "", 409, "neither deleted nor archived")
	if d = s.maintained("POST", path(alpha)+"/restore", ""); d.ID != 1 || d.Ended == "" || d.EndedTrigger != "api" || d.EndedBy != Administrator {
		t.Errorf("restored: %+v", d)
	}
	refused("POST", "/api/v1/deletions/1/restore", "", 409, "ended already")
	refused("POST", "/api/v1/deletions/9/restore", "", 404, "deletion 9")
	refused("POST", "/api/v1/deletions/0/restore", "", 422, "path.id")
	s.maintained("DELETE", path(alpha), "")
	s.maintained("POST", "/api/v1/deletions/2/restore", "")
	s.maintained("DELETE", path(alpha), "")
	s.checkIn(alpha)
	var deletions struct {
		Deletions []did
		Next      int64
	}
	for query, want := range map[string]string{"limit=2": "1 2 next 2", "limit=2&after=2": "3 next 0", "newest=true&limit=1": "3 next 3", "newest=true&limit=2&after=3": "2 1 next 0"} {
		deletions.Deletions = nil
		s.do("GET", "/api/v1/deletions?"+query, "", 200, &deletions)
		got := ""
		for _, d := range deletions.Deletions {
			got += fmt.Sprint(d.ID, " ")
		}
		if got += fmt.Sprint("next ", deletions.Next); got != want {
			t.Errorf("deletions?%s: %s, want %s", query, got, want)
		}
	}
	deletions.Deletions = nil
	s.do("GET", "/api/v1/deletions?after=2", "", 200, &deletions)
	if d := deletions.Deletions[0]; d.EndedTrigger != "check-in" || d.EndedBy != "" {
		t.Errorf("came back: %+v", d)
	}

	// Retired: out of the list, until somebody says otherwise.
	var retired struct {
		Retired *did
		AMT     *ClearedAMT
	}
	a := s.do("POST", path(alpha)+"/retire", "", 200, &retired)
	if retired.Retired == nil || retired.Retired.Kind != "retire" || retired.AMT != nil || strings.Contains(a.body, `"amt"`) {
		t.Errorf("retired: %s", a.body)
	}
	s.checkIn(alpha)
	list("", "beta gamma")
	list("retired=true", "alpha")
	list("state=retired", "alpha")
	list("archived=true", "")
	list("retired=true&archived=true", "alpha")
	list("all=true", "alpha beta gamma")
	list("all=true&not_initialized=true&name=ALPHA", "alpha")
	refused("POST", path(alpha)+"/retire", "{}", 409, "retired already")
	refused("POST", path(alpha)+"/retire", `{"clear_amt":true}`, 409, "no [amt] table")
	refused("POST", path(alpha)+"/retire", `{"clear":true}`, 422, "clear")
	s.maintained("POST", path(alpha)+"/unretire", "")
	refused("POST", path(alpha)+"/unretire", "", 409, "not retired")

	// Succeeded.
	refused("POST", path(alpha)+"/replace", `{"successor":"`+alpha.report.HostID.String()+`"}`, 409, "one asset")
	refused("POST", path(alpha)+"/replace", `{"successor":"beta"}`, 422, "body.successor")
	refused("POST", path(alpha)+"/replace", `{"successor":"`+strings.Repeat("0", 31)+`1"}`, 404, "unknown")
	d = s.maintained("POST", path(alpha)+"/replace", `{"successor":"`+beta.report.HostID.String()+`"}`)
	if d.Kind != "replace" || d.Successor != beta.report.HostID.String() || d.HostID != alpha.report.HostID.String() {
		t.Errorf("replaced: %+v", d)
	}
	list("", "beta gamma")
	refused("DELETE", path(alpha), "", 409, "another PC took its place")
	s.maintained("POST", path(alpha)+"/undo-replace", "")
	refused("POST", path(alpha)+"/undo-replace", "", 409, "no other PC")
	list("", "alpha beta gamma")

	// Duplicates: gamma calls itself as beta does. All three have one address.
	gamma.report.Names.Host = "BETA"
	s.checkIn(gamma)
	var duplicates struct {
		Duplicates []registry.Duplicate
		Next       int64
	}
	for query, want := range map[string]string{"": "", "by=name": "BETA=beta ", "by=name,ip": "BETA=beta ", "by=ip": "beta=alpha BETA=beta ", "by=ip&limit=1": "beta=alpha 1", "by=ip&limit=1&after=1": "BETA=beta ", "by=ip&after=7": ""} {
		duplicates.Duplicates = nil
		s.do("GET", "/api/v1/duplicates?"+query, "", 200, &duplicates)
		got := ""
		for _, d := range duplicates.Duplicates {
			got += d.Name + "=" + d.OtherName + " "
		}
		if duplicates.Next != 0 {
			got += fmt.Sprint(duplicates.Next)
		}
		if got != want {
			t.Errorf("duplicates?%s: %q, want %q", query, got, want)
		}
	}
	refused("GET", "/api/v1/duplicates?by=serial", "", 422, "query.by")
	pair := func(p, q *station, verb string) string {
		return fmt.Sprintf(`{"host_id":%q,"other_host_id":%q,"verb":%q}`, p.report.HostID, q.report.HostID, verb)
	}
	refused("POST", "/api/v1/duplicates/resolve", pair(beta, gamma, "block"), 422, "body.verb")
	refused("POST", "/api/v1/duplicates/resolve", pair(beta, beta, "merge"), 409, "one asset")
	var resolved struct {
		Conflict  int64
		Verb, Who string
	}
	s.do("POST", "/api/v1/duplicates/resolve", pair(beta, gamma, "merge"), 200, &resolved)
	if resolved.Conflict != 1 || resolved.Verb != "merge" || resolved.Who != Administrator {
		t.Errorf("merged: %+v", resolved)
	}
	list("name=beta", "BETA")
	s.do("POST", "/api/v1/conflicts/1/undo", "", 200, nil)
	list("name=beta", "beta BETA")
	s.do("POST", "/api/v1/duplicates/resolve", pair(gamma, beta, "keep-both"), 200, nil)
	s.do("GET", "/api/v1/duplicates?by=name", "", 200, &duplicates)
	if len(duplicates.Duplicates) != 0 {
		t.Errorf("proposed again: %+v", duplicates)
	}
	alpha.report.Addresses = []string{"192.0.2.99"}
	s.checkIn(alpha)
	refused("POST", "/api/v1/duplicates/resolve", pair(alpha, beta, "merge"), 409, "agree in nothing")

	// The archive takes nobody who was just heard.
	if a := s.do("POST", "/api/v1/archive", `{"older_than":30,"dry_run":true}`, 200, nil); a.body != `{"assets":[],"held":0,"contact_days":0}`+"\n" {
		t.Errorf("archive: %s", a.body)
	}
	refused("POST", "/api/v1/archive", `{"older_than":0}`, 422, "body.older_than")
	refused("POST", "/api/v1/archive", "", 400, "body")

	var all struct {
		Events []struct{ Kind, Sentence string }
	}
	s.do("GET", "/api/v1/history?limit=500", "", 200, &all)
	for _, want := range []string{"deleted", "restored", "retired", "unretired", "succeeded", "unsucceeded"} {
		i := slices.IndexFunc(all.Events, func(e struct{ Kind, Sentence string }) bool { return e.Kind == want })
		if i < 0 || !strings.HasPrefix(all.Events[i].Sentence, "admin ") || !strings.Contains(all.Events[i].Sentence, "over the API") {
			t.Errorf("history: no %s by admin over the API: %v", want, all.Events)
		}
	}
}

// A page reads the archived and the retired as the whole list does.
func TestAPIArchived(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	reg, err := registry.Create(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "r.db"), registry.Options{Key: key, Now: func() time.Time { return now }})
	must(t, err)
	defer reg.Close()
	a := newAPI(reg, Options{})
	by := context.WithValue(t.Context(), administratorKey{}, "sato")
	old := enrolled(t, reg, key, "old", "")
	now = now.Add(40 * 24 * time.Hour)
	enrolled(t, reg, key, "new", "")
	run := func(dry bool) string {
		t.Helper()
		done, err := a.archive(by, &struct{ Body NewArchiveRun }{NewArchiveRun{OlderThan: 30, DryRun: dry}})
		must(t, err)
		if len(done.Assets) == 0 {
			return ""
		}
		return done.Assets[0].Name
	}
	if got := run(true) + run(false) + run(false); got != "oldold" {
		t.Errorf("archived %q, want it once after a dry run", got)
	}
	for f, want := range map[registry.AssetFilter]string{{}: "new", {Archived: true}: "old", {All: true}: "old new", {Retired: true}: "", {State: registry.Archived}: "old"} {
		page, next, err := reg.AssetsPage(t.Context(), f, 0, 10)
		must(t, err)
		var names []string
		for _, d := range page {
			names = append(names, d.Name)
			if (d.Maintenance != nil) != (d.Name == "old") || d.Maintenance != nil && (d.Maintenance.Kind != registry.Archiving || d.Maintenance.Who != "sato") {
				t.Errorf("%s: %+v", d.Name, d.Maintenance)
			}
		}
		if got := strings.Join(names, " "); got != want || next != 0 {
			t.Errorf("%+v: %q, want %q; next %d", f, got, want, next)
		}
	}
	m, err := a.restoreAsset(by, &struct{ InHost }{InHost{old.String()}})
	if err != nil || m.Kind != registry.Archiving || m.EndedBy != "sato" || m.EndedTrigger != registry.ByAPI {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestAPIUsers(t *testing.T) {
	t.Parallel()
	s := serving(t)
	const second = "another correct horse battery"
	s.secret = append(s.secret, goodPassword, second, "too short")
	refused := func(method, path, body string, status int, detail string) {
		t.Helper()
		a := s.request(Administrator, s.admin, method, path, body)
		s.problem(a, status, detail)
		for _, secret := range s.secret {
			if strings.Contains(a.body, secret) {
				t.Errorf("%s %s: the answer holds a password: %s", method, path, a.body)
			}
		}
	}
	logOn := func(password string, want int) {
		t.Helper()
		if got := s.request("sato", password, "GET", "/api/v1/rules", "").status; got != want {
			t.Errorf("sato: %d, want %d", got, want)
		}
	}
	if a := s.do("POST", "/api/v1/users", `{"name":"sato","password":"`+goodPassword+`"}`, 201, nil); a.body != `{"name":"sato","state":"added"}`+"\n" {
		t.Errorf("added: %s", a.body)
	}
	logOn(goodPassword, 200)
	refused("POST", "/api/v1/users", `{"name":"sato","password":"`+goodPassword+`"}`, 409, "already")
	refused("POST", "/api/v1/users", `{"name":"a b","password":"`+goodPassword+`"}`, 422, "letters, digits")
	refused("POST", "/api/v1/users", `{"name":"ito","password":"too short"}`, 422, "15 characters")
	refused("POST", "/api/v1/users", `{"name":"ito","password":"`+goodPassword+`","admin":true}`, 422, "body.admin")
	refused("POST", "/api/v1/users", `{"name":5,"password":"`+goodPassword+`"}`, 422, "body.name")
	refused("POST", "/api/v1/users", `{"password":"`+goodPassword+`"}`, 422, "name")
	refused("PUT", "/api/v1/users/sato/password", `{"password":"too short"}`, 422, "15 characters")
	refused("PUT", "/api/v1/users/ito/password", `{"password":"`+goodPassword+`"}`, 404, "unknown")
	if a := s.do("PUT", "/api/v1/users/sato/password", `{"password":"`+second+`"}`, 200, nil); a.body != `{"name":"sato","state":"changed"}`+"\n" {
		t.Errorf("changed: %s", a.body)
	}
	logOn(goodPassword, 401)
	logOn(second, 200)
	var users struct{ Users []map[string]string }
	s.do("GET", "/api/v1/users", "", 200, &users)
	if len(users.Users) != 2 || users.Users[0]["name"] != Administrator || users.Users[1]["name"] != "sato" || len(users.Users[1]) != 3 {
		t.Errorf("users %+v", users)
	}
	if a := s.do("DELETE", "/api/v1/users/sato", "", 200, nil); a.body != `{"name":"sato","state":"removed"}`+"\n" {
		t.Errorf("removed: %s", a.body)
	}
	logOn(second, 401)
	refused("DELETE", "/api/v1/users/sato", "", 404, "unknown")
	refused("DELETE", "/api/v1/users/"+Administrator, "", 409, "last administrator")
	events, err := s.reg.History(t.Context())
	must(t, err)
	var kinds []string
	for _, e := range events {
		if strings.HasPrefix(e.Kind, "administrator-") && strings.Contains(string(e.Evidence), `"who":"admin"`) {
			kinds = append(kinds, e.Kind)
		}
	}
	if diff := cmp.Diff([]string{"administrator-added", "administrator-password", "administrator-removed"}, kinds); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// retire with clear_amt does what the command does, and answers 502 where the AMT does not let it.
func TestAPIClearsAMT(t *testing.T) {
	t.Parallel()
	device, err := amtsim.Start(amtsim.Options{Network: "127.140.1.1:16992", Local: "none"})
	must(t, err)
	t.Cleanup(func() { device.Close() })
	uuid, ok := hardware.DisplayUUID(device.Snapshot().PlatformGUID)
	if !ok {
		t.Fatal(device.Snapshot().PlatformGUID)
	}
	const wrong = "wrong password"
	var corrected atomic.Bool
	s := serving(t, func(o *Options) {
		o.AMT = func() (amtinit.Options, error) {
			o := amtinit.Options{User: amtsim.DefaultUser, Password: wrong, Port: 16992}
			if corrected.Load() {
				o.Password = amtsim.DefaultPassword
			}
			return o, nil
		}
	})
	s.secret = append(s.secret, wrong, amtsim.DefaultPassword)
	pc := s.pc("alpha", "B-1")
	path := "/api/v1/assets/" + pc.report.HostID.String() + "/retire"
	a := s.request(Administrator, s.admin, "POST", path, `{"clear_amt":true}`)
	s.problem(a, 409, "no system UUID")
	pc.report.Facts.SystemUUID, pc.report.Addresses = uuid, []string{"127.140.1.1"}
	s.checkIn(pc)
	a = s.request(Administrator, s.admin, "POST", path, `{"clear_amt":true}`)
	if s.problem(a, 502, "127.140.1.1"); strings.Contains(a.body, wrong) {
		t.Errorf("the answer holds the password: %s", a.body)
	}
	if got := s.names(""); got != "alpha" {
		t.Errorf("assets %q: retired though its AMT was not cleared", got)
	}
	corrected.Store(true)
	var done Retirement
	s.do("POST", path, `{"clear_amt":true}`, 200, &done)
	if done.Retired == nil || done.Cleared == nil || done.Cleared.Removed || done.Cleared.Address != "127.140.1.1:16992" || done.Cleared.SystemUUID != uuid {
		t.Errorf("%+v %+v", done.Retired, done.Cleared)
	}
	if s.do("POST", path, `{"clear_amt":true}`, 200, &done); done.Retired != nil || done.Cleared == nil {
		t.Errorf("once more: %+v %+v", done.Retired, done.Cleared)
	}
}
