package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"samehost/internal/checkin"
)

// Over the API as by command; no answer and no problem holds the password.
func TestAPIOfAMTSettings(t *testing.T) {
	t.Parallel()
	s := serving(t)
	const path, secret = "/api/v1/amt-settings", "Geheim-4711"
	var list struct {
		Settings []struct {
			For string
			AMT struct{ User, Port string }
		}
	}
	if s.do("GET", path, "", 200, &list); list.Settings == nil || len(list.Settings) != 0 {
		t.Errorf("at first %+v", list)
	}
	var set struct {
		Version uint64
		Changed bool
	}
	if s.do("PUT", path, `{"password":"`+secret+`"}`, 200, &set); !set.Changed || set.Version == 0 {
		t.Errorf("set: %+v", set)
	}
	version := set.Version
	if s.do("PUT", path, `{"password":"`+secret+`","user":"admin"}`, 200, &set); set.Changed || set.Version != version {
		t.Errorf("set again: %+v", set)
	}
	a := s.do("GET", path, "", 200, &list)
	if len(list.Settings) != 1 || list.Settings[0].AMT.User != "admin" || list.Settings[0].AMT.Port != "auto" || strings.Contains(a.body, secret) {
		t.Errorf("listed: %s", a.body)
	}
	for body, detail := range map[string]string{
		`{"password":"` + secret + `","user":"a:b"}`:    "user: must be at most 64 printable characters without a colon",
		`{"password":"` + secret + `","tls_ca":"x"}`:    "no PEM certificate",
		`{"user":"admin"}`:                              "body",
		`{"password":"` + secret + `","nonsense":true}`: "nonsense",
	} {
		refused := s.request(Administrator, s.admin, "PUT", path, body)
		s.problem(refused, 422, detail)
		if strings.Contains(refused.body, secret) {
			t.Errorf("%s: the problem shows the password", detail)
		}
	}
	s.problem(s.request(Administrator, s.admin, "PUT", path+"?for="+strings.Repeat("0", 31)+"1", `{"password":"x"}`), 404, "unknown")
	s.problem(s.request(Administrator, s.admin, "PUT", path+"?for=nonsense", `{"password":"x"}`), 422, "query.for")
	s.do("DELETE", path, "", 200, nil)
	s.problem(s.request(Administrator, s.admin, "DELETE", path, ""), 404, "unknown")
}

// dcmamtin on this machine finds in the data folder what holds for all hosts.
func TestKeepAMTSettings(t *testing.T) {
	t.Parallel()
	s := serving(t)
	dir := t.TempDir()
	must(t, KeepAMTSettings(t.Context(), s.reg, dir))
	if _, err := os.Stat(filepath.Join(dir, checkin.SettingsFileName)); !os.IsNotExist(err) {
		t.Errorf("nothing is set, and yet: %v", err)
	}
	for _, password := range []string{"one", "two", ""} {
		if password == "" {
			s.do("DELETE", "/api/v1/amt-settings", "", 200, nil)
		} else {
			s.do("PUT", "/api/v1/amt-settings", `{"password":"`+password+`"}`, 200, nil)
		}
		must(t, KeepAMTSettings(t.Context(), s.reg, dir))
		k, err := checkin.ReadKeptSettings(dir, checkin.SettingsFileName)
		must(t, err)
		if (k.AMT == nil) != (password == "") || k.AMT != nil && k.AMT.Password.Reveal() != password {
			t.Errorf("%q: kept %v", password, k)
		}
	}
}
