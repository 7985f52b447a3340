package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whose AMT management user holds: a client's file is what it begins with, the others' files are their own.
func TestFromManager(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][3]bool{ // client, manager, relay
		"":                            {false, true, true},
		"[amt]":                       {false, true, true},
		"[amt]\npassword_file = 'p'":  {true, false, false},
		"[amt]\npassword_env = 'P'":   {true, false, false},
		"[amt]\nfrom_manager = true":  {true, true, true},
		"[amt]\nfrom_manager = false": {false, false, false},
		"[amt]\npassword_file='p'\nfrom_manager=true":  {true, true, true},
		"[amt]\npassword_file='p'\nfrom_manager=false": {false, false, false},
	} {
		path, _ := write(t, "data_dir = 'd'\n"+text)
		c, err := LoadClient(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := LoadManager(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := LoadForDcmamtin(path)
		if err != nil {
			t.Fatal(err)
		}
		path, _ = write(t, "data_dir = 'd'\nhigher_system = 'https://m.example'\n"+text)
		r, err := LoadRelay(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]bool{c.AMT.FromManager, m.AMT.FromManager, r.AMT.FromManager}; got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		if f.AMT.FromManager != want[1] {
			t.Errorf("%q: dcmamtin %v, want %v", text, f.AMT.FromManager, want[1])
		}
	}
}

func TestWithGiven(t *testing.T) {
	t.Parallel()
	own := AMT{InUse: true, User: "own", PasswordFile: "nowhere", Port: "auto", TLSPin: "sha256:" + strings.Repeat("00", 32), Enterprise: "own", URL: "http://127.0.0.1:1"}
	a := own.With(Given{User: "given", Password: NewSecret("hush"), Port: "16993", TLS: true, Enterprise: "e"})
	if p, err := a.Password(); err != nil || p.Reveal() != "hush" {
		t.Errorf("password %v", err)
	}
	if a.User != "given" || a.Port != "16993" || !a.TLS || a.Enterprise != "e" || a.URL != own.URL || len(a.Warnings()) != 0 {
		t.Errorf("got %+v", a)
	}
	if _, pin, err := a.Trust(); err != nil || !bytes.Equal(pin, make([]byte, 32)) {
		t.Errorf("no trust is given, and the own pin is gone: %x, %v", pin, err)
	}
	a = own.With(Given{TLSPin: "sha256:" + strings.Repeat("11", 32)})
	if _, pin, err := a.Trust(); err != nil || !bytes.Equal(pin, bytes.Repeat([]byte{0x11}, 32)) {
		t.Errorf("the given pin: %x, %v", pin, err)
	}
	if _, _, err := own.With(Given{TLSCA: "none"}).Trust(); err == nil {
		t.Error("certificates that are none")
	}
	if shown := fmt.Sprintf("%v %+v %#v", a, own.With(Given{Password: NewSecret("hush")}), Given{Password: NewSecret("hush")}); strings.Contains(shown, "hush") {
		t.Error("the password shows: " + shown)
	}
}

func TestSecretSource(t *testing.T) {
	const name = "SAMEHOST_TEST_SECRET"
	file := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		text string
		ok   bool
	}{{"hush", true}, {"hush\n", true}, {"\ufeffhush\r\n", true}, {"", false}, {"two\nlines", false}, {"a\x00b", false}, {strings.Repeat("x", 1025), false}, {strings.Repeat("x", 1024), true}} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		sources := map[string]SecretSource{"file": {What: "password", File: file, Prompt: io.Discard}}
		if !strings.Contains(c.text, "\x00") {
			t.Setenv(name, c.text)
			sources["environment"] = SecretSource{What: "password", Env: name, Prompt: io.Discard}
		}
		for from, s := range sources {
			got, err := s.Read()
			if (err == nil) != c.ok {
				t.Errorf("%s %.20q: %v", from, c.text, err)
			}
			if c.ok && got.Reveal() != strings.TrimRight(strings.TrimPrefix(c.text, "\ufeff"), "\r\n") {
				t.Errorf("%s %.20q: read as %q", from, c.text, got.Reveal())
			}
		}
	}
	if _, err := (SecretSource{What: "password", File: file, Env: name}).Read(); err == nil {
		t.Error("two sources")
	}
}
