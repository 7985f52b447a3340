package checkin

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
)

const amtSecret = "Zwölf-Geheim-47!"

func someSettings(t testing.TB) AMTSettings {
	t.Helper()
	s, err := AMTSettings{Password: NewPassword(amtSecret)}.Checked()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCheckedSettings(t *testing.T) {
	t.Parallel()
	ok := AMTSettings{User: "u", Password: NewPassword("p"), Port: "16992", Enterprise: "e"}
	got, err := AMTSettings{Password: NewPassword("p")}.Checked()
	if want := (AMTSettings{User: "admin", Password: NewPassword("p"), Port: "auto", Enterprise: "samehost"}); err != nil || !got.Equal(want) {
		t.Errorf("defaults %+v, %v", got, err)
	}
	if got, err = (AMTSettings{Password: NewPassword("p"), TLS: true}).Checked(); err != nil || got.Port != "16993" {
		t.Errorf("TLS alone: port %s, %v", got.Port, err)
	}
	for why, change := range map[string]func(*AMTSettings){
		"":           func(*AMTSettings) {},
		"user":       func(s *AMTSettings) { s.User = "a:b" },
		"user ":      func(s *AMTSettings) { s.User = strings.Repeat("u", 65) },
		"user  ":     func(s *AMTSettings) { s.User = "a\nb" },
		"password":   func(s *AMTSettings) { s.Password = Password{} },
		"password ":  func(s *AMTSettings) { s.Password = NewPassword(amtSecret + "\x00") },
		"password  ": func(s *AMTSettings) { s.Password = NewPassword(strings.Repeat(amtSecret, 100)) },
		"port":       func(s *AMTSettings) { s.Port = "0" },
		"port ":      func(s *AMTSettings) { s.Port = "016992" },
		"port  ":     func(s *AMTSettings) { s.Port = "65536" },
		"tls_ca":     func(s *AMTSettings) { s.TLSCA = "no certificate" },
		"tls_ca ":    func(s *AMTSettings) { s.TLSCA = strings.Repeat("x", maxAMTCA+1) },
		"tls_ca and": func(s *AMTSettings) { s.TLSCA, s.TLSPin = "x", "y" },
		"tls_pin":    func(s *AMTSettings) { s.TLSPin = "sha256:" + strings.Repeat("0", 63) },
		"tls_pin ":   func(s *AMTSettings) { s.TLSPin = "sha256:" + strings.Repeat("A", 64) },
		"enterprise": func(s *AMTSettings) { s.Enterprise = strings.Repeat("e", 65) },
	} {
		s := ok
		change(&s)
		_, err := s.Checked()
		if (err == nil) != (why == "") || err != nil && (!strings.HasPrefix(err.Error(), strings.TrimSpace(why)) || strings.Contains(err.Error(), amtSecret)) {
			t.Errorf("%q: %v", why, err)
		}
	}
}

// However settings are printed, logged or encoded, the password is not in it.
func TestPasswordsAreHidden(t *testing.T) {
	t.Parallel()
	type hidden struct{ s AMTSettings } // whose fields a printer cannot call methods on
	s := someSettings(t)
	kept := KeptSettings{Settings: Settings{AMT: &s}}
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb, s)
		fmt.Fprintf(&b, verb, &s)
		fmt.Fprintf(&b, verb, hidden{s})
		fmt.Fprintf(&b, verb, kept)
		fmt.Fprintf(&b, verb, s.Password)
	}
	for _, v := range []any{s, &s, kept, Exported{AMT: s}, Settings{AMT: &s}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
	}
	if text := b.String(); strings.Contains(text, amtSecret) || strings.Contains(text, fmt.Sprintf("%x", amtSecret)) || strings.Contains(text, "Geheim") {
		t.Errorf("the password shows: %s", text)
	}
}

// What is sealed opens for its host, epoch and numbers, and for nothing else.
func TestSealedSettings(t *testing.T) {
	t.Parallel()
	seed, id, epoch := hostid.NewSeed(), hostid.NewID(), NewToken()
	key := seed.SealingKey().PublicKey().Bytes()
	amt := someSettings(t)
	s := Settings{SettingsState{Serial: 7, Version: 1795422748860}, &amt}
	sealed, err := SealSettings(key, id, epoch, s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sealed.Open(seed.SealingKey(), id, epoch)
	if err != nil || !got.AMT.Equal(amt) || got.SettingsState != s.SettingsState {
		t.Fatalf("opened %v, %v", got, err)
	}
	none, err := SealSettings(key, id, epoch, Settings{SettingsState: SettingsState{Serial: 8}})
	if err != nil {
		t.Fatal(err)
	}
	if len(none.Sealed) != len(sealed.Sealed) {
		t.Error("the length tells whether settings are taken back")
	}
	if got, err := none.Open(seed.SealingKey(), id, epoch); err != nil || got.AMT != nil || got.Serial != 8 {
		t.Errorf("none: %v, %v", got, err)
	}
	long := amt
	long.Password = NewPassword(strings.Repeat("x", 100))
	if longer, err := SealSettings(key, id, epoch, Settings{s.SettingsState, &long}); err != nil || len(longer.Sealed) != len(sealed.Sealed) {
		t.Errorf("the length tells the password's, %v", err)
	}

	raw, _ := base64.RawURLEncoding.DecodeString(sealed.Sealed)
	for why, c := range map[string]func() (hostid.Seed, hostid.ID, Token, SealedSettings){
		"another seed":  func() (hostid.Seed, hostid.ID, Token, SealedSettings) { return hostid.NewSeed(), id, epoch, sealed },
		"another host":  func() (hostid.Seed, hostid.ID, Token, SealedSettings) { return seed, hostid.NewID(), epoch, sealed },
		"another epoch": func() (hostid.Seed, hostid.ID, Token, SealedSettings) { return seed, id, NewToken(), sealed },
		"another serial": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			s := sealed
			s.Serial++
			return seed, id, epoch, s
		},
		"another version": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			s := sealed
			s.Version++
			return seed, id, epoch, s
		},
		"another's text": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			s := sealed
			s.Sealed = none.Sealed
			return seed, id, epoch, s
		},
		"damaged": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			s, b := sealed, bytes.Clone(raw)
			b[len(b)-1] ^= 1
			s.Sealed = base64.RawURLEncoding.EncodeToString(b)
			return seed, id, epoch, s
		},
		"empty": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			return seed, id, epoch, SealedSettings{s.SettingsState, ""}
		},
		"a line end in it": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			s := sealed
			s.Sealed = s.Sealed[:8] + "\n" + s.Sealed[8:]
			return seed, id, epoch, s
		},
		"too long": func() (hostid.Seed, hostid.ID, Token, SealedSettings) {
			s := sealed
			s.Sealed += strings.Repeat("A", maxSettings)
			return seed, id, epoch, s
		},
	} {
		seed, id, epoch, s := c()
		if got, err := s.Open(seed.SealingKey(), id, epoch); err == nil || strings.Contains(err.Error(), amtSecret) {
			t.Errorf("%s: opened %v, %v", why, got, err)
		}
	}
	for why, s := range map[string]Settings{
		"no serial":             {SettingsState{Version: 1}, &amt},
		"a serial without end":  {SettingsState{maxSerial + 1, 1}, &amt},
		"settings of version 0": {SettingsState{1, 0}, &amt},
		"a version of nothing":  {SettingsState{1, 1}, nil},
	} {
		if _, err := SealSettings(key, id, epoch, s); err == nil {
			t.Errorf("%s: sealed", why)
		}
	}
	for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} {
		if _, err := SealSettings(key, id, epoch, s); err == nil {
			t.Errorf("sealed to a key of %d bytes", len(key))
		}
	}
}

// Settings of the largest size fit into a reply.
func TestLargestSettings(t *testing.T) {
	t.Parallel()
	seed := hostid.NewSeed()
	amt := AMTSettings{
		User: strings.Repeat("ü", 64), Password: NewPassword(strings.Repeat(`"`, 1024)), Port: "65535", TLS: true,
		TLSCA: strings.Repeat("\n", maxAMTCA), Enterprise: strings.Repeat("界", 64),
	}
	sealed, err := SealSettings(seed.SealingKey().PublicKey().Bytes(), hostid.NewID(), NewToken(), Settings{SettingsState{1, 1}, &amt})
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed.Sealed) > maxSettings {
		t.Errorf("%d bytes, more than %d", len(sealed.Sealed), maxSettings)
	}
	if len(sealed.Sealed)*2 > maxReply {
		t.Errorf("%d bytes would not fit into a reply of %d", len(sealed.Sealed), maxReply)
	}
}

// A file opens with its passphrase only, says who signed it, and shows that it was altered.
func TestExportedSettings(t *testing.T) {
	t.Parallel()
	_, key, _ := ed25519.GenerateKey(nil)
	amt := someSettings(t)
	made := time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC)
	const phrase = "pässword of many words"
	file, err := ExportSettings(42, amt, made, key, phrase)
	if err != nil {
		t.Fatal(err)
	}
	want := Exported{42, made, FingerprintOf(key.Public().(ed25519.PublicKey)), amt}
	got, err := ImportSettings(file, "pa\u0308ssword of many words") // as another keyboard composes it
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if bytes.Contains(file, []byte(amtSecret)) || bytes.Contains(file, []byte("admin")) {
		t.Error("the file shows what is in it")
	}
	if len(file) > MaxSettingsFile {
		t.Errorf("%d bytes", len(file))
	}
	if _, err := ImportSettings(file, phrase+"!"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	again, err := ExportSettings(42, amt, made, key, phrase)
	if err != nil || bytes.Equal(again, file) {
		t.Errorf("the same settings give the same file twice, %v", err)
	}
	if _, err := ExportSettings(42, amt, made, key, "eleven char"); err == nil {
		t.Error("sealed by a short passphrase")
	}

	var f, other exportedFile
	if err := json.Unmarshal(file, &f); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &other); err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte) []byte { c := bytes.Clone(b); c[len(c)-1] ^= 1; return c }
	for why, c := range map[string]struct {
		change func(*exportedFile)
		want   error
	}{
		"its ciphertext":  {func(f *exportedFile) { f.Sealed = flip(f.Sealed) }, ErrAltered},
		"cut":             {func(f *exportedFile) { f.Sealed = f.Sealed[:20] }, ErrAltered},
		"its nonce":       {func(f *exportedFile) { f.Nonce = flip(f.Nonce) }, ErrAltered},
		"no nonce":        {func(f *exportedFile) { f.Nonce = nil }, ErrAltered},
		"its salt":        {func(f *exportedFile) { f.Salt = flip(f.Salt) }, ErrPassphrase},
		"its check":       {func(f *exportedFile) { f.Check = flip(f.Check) }, ErrPassphrase},
		"rounds":          {func(f *exportedFile) { f.Rounds++ }, ErrPassphrase},
		"too few rounds":  {func(f *exportedFile) { f.Rounds = 1 }, ErrAltered},
		"endless rounds":  {func(f *exportedFile) { f.Rounds = 1 << 40 }, ErrAltered},
		"another's words": {func(f *exportedFile) { f.Sealed = other.Sealed }, ErrAltered},
		"a newer form":    {func(f *exportedFile) { f.Format = "samehost/amtsetup/2" }, nil},
		"no form":         {func(f *exportedFile) { f.Format = "" }, nil},
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			g := f
			c.change(&g)
			b, err := json.Marshal(g)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = ImportSettings(b, phrase); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	for _, b := range [][]byte{nil, []byte("{}"), []byte("[1]"), []byte("Geheim"), bytes.Repeat([]byte("x"), MaxSettingsFile+1)} {
		if _, err := ImportSettings(b, phrase); err == nil {
			t.Errorf("%.20q: taken", b)
		}
	}
}

// A data folder keeps settings closed to others, and what decayed is not taken for another password.
func TestKeptSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	amt := someSettings(t)
	if _, err := ReadKeptSettings(dir, SettingsFileName); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	want := KeptSettings{
		Settings: Settings{SettingsState{3, 42}, &amt}, Manager: "sha256:x", Came: BySettingsFile, Since: time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC),
	}
	for _, k := range []KeptSettings{want, {Settings: Settings{SettingsState: SettingsState{Serial: 4}}, Since: want.Since}, want} {
		if err := KeepSettings(dir, SettingsFileName, k); err != nil {
			t.Fatal(err)
		}
		got, err := ReadKeptSettings(dir, SettingsFileName)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(k, got); diff != "" {
			t.Error(diff)
		}
	}
	path := filepath.Join(dir, SettingsFileName)
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string][]byte{"empty": nil, "newer": bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1)}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		damages[fmt.Sprint("byte ", i)] = b
		damages[fmt.Sprint("cut at ", i)] = whole[:i]
	}
	for why, b := range damages {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadKeptSettings(dir, SettingsFileName)
		if err != nil && strings.Contains(err.Error(), "Geheim") {
			t.Errorf("%s: the error shows the password", why)
		}
		switch {
		case err == nil && !reflect.DeepEqual(got.Settings.AMT.secret(), amt.secret()):
			t.Errorf("%s: taken for %v", why, got)
		case why == "newer" && !errors.Is(err, hostid.ErrNewer), why == "empty" && !errors.Is(err, hostid.ErrCorrupt):
			t.Errorf("%s: %v", why, err)
		}
	}
}

func FuzzImportSettings(f *testing.F) {
	f.Add([]byte(`{"format":"samehost/amtsetup/1","rounds":100000,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","check":"AA==","nonce":"AAAAAAAAAAAAAAAA","sealed":"AA=="}`))
	f.Add([]byte(`{"format":"samehost/amtsetup/1","rounds":99999999999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var head exportedFile
		if json.Unmarshal(b, &head) == nil && head.Rounds > minRounds {
			return // only slow
		}
		if got, err := ImportSettings(b, "any passphrase"); err == nil {
			t.Errorf("opened %v", got)
		}
	})
}

func FuzzOpenSettings(f *testing.F) {
	seed := hostid.Seed{1}
	id, _ := hostid.ParseID(strings.Repeat("1", 32))
	amt, _ := AMTSettings{Password: NewPassword("p")}.Checked()
	sealed, err := SealSettings(seed.SealingKey().PublicKey().Bytes(), id, Token{1}, Settings{SettingsState{1, 1}, &amt})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(1), uint64(1), sealed.Sealed)
	f.Add(uint64(0), uint64(2), "AAAA")
	f.Fuzz(func(t *testing.T, serial, version uint64, text string) {
		got, err := SealedSettings{SettingsState{serial, version}, text}.Open(seed.SealingKey(), id, Token{1})
		if err == nil && (got.AMT == nil || got.AMT.User != "admin" || got.Serial != 1 || text != sealed.Sealed) {
			t.Errorf("opened %v", got)
		}
	})
}
