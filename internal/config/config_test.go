package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// write makes a file in a folder of its own and returns the file's path and folder.
func write(t testing.TB, text string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "x.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	path, dir := write(t, `data_dir = "d"`)
	data := filepath.Join(dir, "d")
	amt := AMT{User: "admin", Port: "auto", Enterprise: "samehost"}

	c, err := LoadClient(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Client{DataDir: data, RestoreWait: 2 * time.Minute, AMT: amt}, c); diff != "" {
		t.Error(diff)
	}
	m, err := LoadManager(path)
	if err != nil {
		t.Fatal(err)
	}
	amt.FromManager = true
	want := Manager{DataDir: data, Listen: "127.0.0.1:8740", Database: "sqlite:" + filepath.Join(data, "samehost.db"),
		AMT: amt, Dcmamtin: Dcmamtin{Resolve: "dns"}}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKeyOfAClient(t *testing.T) {
	t.Parallel()
	absolute := filepath.Join(t.TempDir(), "token")
	path, dir := write(t, "\ufeff"+fmt.Sprintf(`
data_dir = 'd/../data'
higher_system = "https://manager.example:8740"
ca_pin = "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
enrolment_token_file = '%s'
restore_wait = "90s"
amt.user = "管理者"
[hardware]
file = "pc.json"
`, absolute)+"\r\n")
	got, err := LoadClient(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Client{
		DataDir: filepath.Join(dir, "data"), HigherSystem: "https://manager.example:8740",
		CAPin:              "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
		EnrolmentTokenFile: absolute, RestoreWait: 90 * time.Second,
		AMT:      AMT{InUse: true, User: "管理者", Port: "auto", Enterprise: "samehost", URL: "http://127.0.0.1:16992"},
		Hardware: Hardware{File: filepath.Join(dir, "pc.json")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKeyOfAManagerAndARelay(t *testing.T) {
	t.Parallel()
	const both = `
data_dir = "."
listen = "[::1]:0"
amt = { user = "operator", password_file = "pw", port = 16994, tls = true, tls_ca = "ca.pem", enterprise = "Example Corp" }
dcmamtin.resolve = "file"
`
	path, dir := write(t, "names = ['manager.example', '2001:db8::7']\ndatabase = 'postgres://samehost@db.example/samehost'\nmaintenance.archive_after_days = 90"+both)
	amt := AMT{InUse: true, User: "operator", PasswordFile: filepath.Join(dir, "pw"), Port: "16994", TLS: true,
		TLSCA: filepath.Join(dir, "ca.pem"), Enterprise: "Example Corp"}
	m, err := LoadManager(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Manager{DataDir: dir, Listen: "[::1]:0", Names: []string{"manager.example", "2001:db8::7"}, Database: "postgres://samehost@db.example/samehost",
		AMT: amt, Dcmamtin: Dcmamtin{"file"}, Maintenance: Maintenance{90}}, m); diff != "" {
		t.Error(diff)
	}
	f, err := LoadForDcmamtin(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ForDcmamtin{path, dir, amt, Dcmamtin{"file"}}, f); diff != "" {
		t.Error(diff)
	}

	path, dir = write(t, "higher_system = 'https://127.0.0.1:8740'\nca_file = 'ca'\nenrolment_token_file = 't'\nnames = ['relay1.example']\nspool_mb = 64"+both+"\n[hardware]\nfile = 'h'")
	amt.PasswordFile, amt.TLSCA = filepath.Join(dir, "pw"), filepath.Join(dir, "ca.pem")
	r, err := LoadRelay(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Relay{DataDir: dir, Listen: "[::1]:0", HigherSystem: "https://127.0.0.1:8740",
		CAFile: filepath.Join(dir, "ca"), EnrolmentTokenFile: filepath.Join(dir, "t"), AMT: amt, Dcmamtin: Dcmamtin{"file"},
		Names: []string{"relay1.example"}, SpoolMB: 64, Hardware: Hardware{filepath.Join(dir, "h")}}, r); diff != "" {
		t.Error(diff)
	}
	if f, err = LoadForDcmamtin(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ForDcmamtin{path, dir, amt, Dcmamtin{"file"}}, f); diff != "" {
		t.Error(diff)
	}
}

// A file of dcmamtin alone needs no data_dir: log and journal then go to the current folder.
func TestForDcmamtinWithoutDataDir(t *testing.T) {
	t.Parallel()
	path, _ := write(t, "[amt]\n")
	f, err := LoadForDcmamtin(path)
	if err != nil || f.DataDir != "" || !f.AMT.InUse {
		t.Errorf("got %+v, %v", f, err)
	}
}

func TestPort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``: "auto", `port = "auto"`: "auto", `port = 16993`: "16993", `port = "664"`: "664", `port = 65535`: "65535",
		`tls = true`: "16993", "tls = true\nport = 'auto'": "16993", "tls = true\nport = 17000": "17000",
	} {
		path, _ := write(t, "[amt]\n"+text)
		if f, err := LoadForDcmamtin(path); err != nil || f.AMT.Port != want {
			t.Errorf("%q: got %q, %v; want %q", text, f.AMT.Port, err, want)
		}
	}
}

// Each row is a mistake and the one line that reports it, without the file's folder.
func TestMistakes(t *testing.T) {
	t.Parallel()
	client := func(p string) error { _, err := LoadClient(p); return err }
	manager := func(p string) error { _, err := LoadManager(p); return err }
	relay := func(p string) error { _, err := LoadRelay(p); return err }
	dcmamtin := func(p string) error { _, err := LoadForDcmamtin(p); return err }
	long := strings.Repeat("e", 65)
	for _, c := range []struct {
		load       func(string) error
		text, want string
	}{
		{client, "", "x.toml: data_dir is missing; name the folder that holds this program's data"},
		{client, "data_dir = 'd'\n\n[amt]\npasword_file = 'p'", "x.toml:4: [amt] pasword_file is not known; did you mean password_file?"},
		{client, "data_dir = 'd'\n[amt]\npassword = 'hunter2'", "x.toml:3: [amt] password is not known: a password never stands in this file; write password_file or password_env"},
		{client, "Data_Dir = 'd'", "x.toml:1: Data_Dir is not known; did you mean data_dir?"},
		{client, "data_dir = 'd'\nenterprise = 'e'", "x.toml:2: enterprise is not known here; it belongs under [amt]"},
		{client, "data_dir = 'd'\nhardware = { fil = 'x' }", "x.toml:2: [hardware] fil is not known; did you mean file?"},
		{client, "data_dir = 'd'\n\"a\\u001b[31m\" = 1", `x.toml:2: a\x1b[31m is not known; leave it out (known here: amt, ca_file, ca_pin, data_dir, enrolment_token_file, hardware, higher_system, restore_wait)`},
		{client, "data_dir = 'd'\n[dcmamtin]", "x.toml:2: dcmamtin is not known; leave it out (known here: amt, ca_file, ca_pin, data_dir, enrolment_token_file, hardware, higher_system, restore_wait)"},
		{client, "data_dir = 7", "x.toml:1: data_dir must be text in quotes, not a number"},
		{client, "data_dir = \"a\\u0000\"", "x.toml:1: data_dir holds a line end or another control character; write it on one line"},
		{client, "data_dir = \"\"\"d\ne\"\"\"", "x.toml:1: data_dir holds a line end or another control character; write it on one line"},
		{client, strings.Repeat("k", 200_000) + " = 1", "x.toml:1: " + strings.Repeat("k", 80) + "... is not known; leave it out (known here: amt, ca_file, ca_pin, data_dir, enrolment_token_file, hardware, higher_system, restore_wait)"},
		{client, "data_dir = 'd'\n" + strings.Repeat("k.", 10_000) + "k = 1", "x.toml:2: k is not known; leave it out (known here: amt, ca_file, ca_pin, data_dir, enrolment_token_file, hardware, higher_system, restore_wait)"},
		{client, "\xff\xfed\x00", "x.toml: UTF-16, which TOML is not written in; save it as UTF-8"},
		{client, "data_dir = 'd'\namt = true", "x.toml:2: amt must be a table, written [amt], not true or false"},
		{client, "data_dir = 'd'\n[[amt]]", "x.toml:2: amt must be a table, written [amt], not a list"},
		{client, "data_dir = 'd'\nrestore_wait = 120", `x.toml:2: restore_wait must be a time with its unit in quotes, as "2m" or "30s", not a number`},
		{client, "data_dir = 'd'\nrestore_wait = '2'", `x.toml:2: restore_wait must be a time with its unit in quotes, as "2m" or "30s", not this text`},
		{client, "data_dir = 'd'\nrestore_wait = '-1s'", "x.toml:2: restore_wait must be between 0s and 1h0m0s"},
		{client, "data_dir = 'd'\nhigher_system = 'manager:8740'", `x.toml:2: higher_system must be a URL, as "https://manager.example:8740"`},
		{client, "data_dir = 'd'\nhigher_system = 'http://manager:8740'", "x.toml:2: higher_system must begin with https://"},
		{client, "data_dir = 'd'\nhigher_system = 'http://127.0.0.1:8740'", "x.toml:2: higher_system must begin with https://"},
		{client, "data_dir = 'd'\nhigher_system = 'https://a:b@manager'", "x.toml:2: higher_system must not hold a user or password"},
		{client, "data_dir = 'd'\nhigher_system = 'https://manager/x'", "x.toml:2: higher_system must end after the host and port"},
		{client, "data_dir = 'd'\nhigher_system = 'https://manager:0'", "x.toml:2: higher_system has no port number from 1 to 65535"},
		{client, "data_dir = 'd'\nca_file = 'a'\nca_pin = 'b'", "x.toml:3: ca_pin and ca_file exclude each other; leave one out"},
		{client, "data_dir = 'd'\nca_pin = 'sha256:00'", `x.toml:2: ca_pin must be "sha256:" and the SHA-256 of the public key (SPKI), as 64 hex digits or in base64`},
		{client, "data_dir = 'd'\n[amt]\nurl = 'ftp://x'", `x.toml:3: [amt] url must be a URL, as "https://manager.example:8740"`},
		{client, "data_dir = \"C:\\Program Files\"", `x.toml:1:15: not TOML: invalid escape character U+0050 'P'; write Windows paths in single quotes: 'C:\folder'`},
		{client, "data_dir = 'd'\ndata_dir = 'e'", "x.toml:2:1: not TOML: key data_dir is already defined"},
		{manager, "data_dir = 'd'\nlisten = '8740'", `x.toml:2: listen must be ADDRESS:PORT, as "127.0.0.1:8740"`},
		{manager, "data_dir = 'd'\nlisten = ':70000'", "x.toml:2: listen has no port number from 0 to 65535"},
		{manager, "data_dir = 'd'\ndatabase = 'mysql://x'", `x.toml:2: database must be "sqlite:FILE" or "postgres://..."`},
		{manager, "data_dir = 'd'\ndatabase = 'sqlite:'", `x.toml:2: database must name a file after "sqlite:", as "sqlite:samehost.db" (taken from data_dir)`},
		{manager, "data_dir = 'd'\ndatabase = 'postgres://u:hunter2@%zz/'", `x.toml:2: database is not a URL that can be read; write "postgres://USER@HOST/DATABASE"`},
		{manager, "data_dir = 'd'\n[amt]\nurl = 'http://127.0.0.1:16992'", "x.toml:3: [amt] url belongs into the client's file; leave it out here"},
		{manager, "data_dir = 'd'\nnames = 'manager.example'", `x.toml:2: names must be a list of texts in quotes, as ["one", "two"]`},
		{manager, "data_dir = 'd'\nnames = ['manager.example', 7]", `x.toml:2: names must be a list of texts in quotes, as ["one", "two"]`},
		{manager, "data_dir = 'd'\nnames = ['manager.example', 'https://manager.example:8740']", `x.toml:2: names holds "https://manager.example:8740", which is no DNS name or IP address; write it without https://, brackets and port`},
		{manager, "data_dir = 'd'\nnames = [" + strings.Repeat("'a',", 101) + "]", "x.toml:2: names has more than 100 entries"},
		{relay, "data_dir = 'd'\nhigher_system = 'https://m'\ndatabase = 'sqlite:x'", "x.toml:3: database is not known; leave it out (known here: amt, ca_file, ca_pin, data_dir, dcmamtin, enrolment_token_file, hardware, higher_system, listen, names, spool_mb)"},
		{relay, "data_dir = 'd'\nhigher_system = 'https://m'\nspool_mb = 15", "x.toml:3: spool_mb must be a number of megabytes from 16 to 1048576"},
		{relay, "data_dir = 'd'\nhigher_system = 'https://m'\nspool_mb = 0", "x.toml:3: spool_mb must be a number of megabytes from 16 to 1048576"},
		{relay, "data_dir = 'd'\nhigher_system = 'https://m'\nnames = ['*.example']", `x.toml:3: names holds "*.example", a pattern; write each name out`},
		{relay, "data_dir = 'd'", `x.toml: higher_system is missing; write the manager's or the next relay's address, as "https://manager.example:8740"`},
		{dcmamtin, "data_dir = 'd'\nrestore_wait = '1s'", "x.toml:2: restore_wait is not known; leave it out (known here: amt, ca_file, ca_pin, data_dir, database, dcmamtin, enrolment_token_file, hardware, higher_system, listen, maintenance, names, spool_mb)"},
		{manager, "data_dir = 'd'\n[maintenance]\narchive_after_days = -1", "x.toml:3: [maintenance] archive_after_days must be a number of days from 1 to 36500, or 0 for never"},
		{manager, "data_dir = 'd'\n[maintenance]\narchive_after_days = '90'", "x.toml:3: [maintenance] archive_after_days must be a whole number without quotes"},
		{manager, "data_dir = 'd'\n[maintenance]\narchive_after_days = 1.5", "x.toml:3: [maintenance] archive_after_days must be a whole number without quotes"},
		{manager, "data_dir = 'd'\n[maintenance]\narchive_after_days = 36501", "x.toml:3: [maintenance] archive_after_days must be a number of days from 1 to 36500, or 0 for never"},
		{dcmamtin, "[dcmamtin]\nresolve = 'DNS'", `x.toml:2: [dcmamtin] resolve must be "dns" (host name first) or "file" (the file's address first)`},
		{dcmamtin, "[amt]\nuser = ''", `x.toml:2: [amt] user is empty; name the AMT management user, or leave it out for "admin"`},
		{dcmamtin, "[amt]\nuser = 'a:b'", "x.toml:2: [amt] user must be at most 64 printable characters without a colon"},
		{dcmamtin, "[amt]\npassword_file = 'a'\npassword_env = 'b'", "x.toml:3: [amt] password_env and password_file exclude each other; leave one out"},
		{dcmamtin, "[amt]\npassword_env = 'P@ss w0rd'", "x.toml:2: [amt] password_env must be the name of an environment variable, not the password"},
		{dcmamtin, "[amt]\nport = 0", `x.toml:2: [amt] port must be "auto" or a number from 1 to 65535`},
		{dcmamtin, "[amt]\nport = 65536", `x.toml:2: [amt] port must be "auto" or a number from 1 to 65535`},
		{dcmamtin, "[amt]\nport = '016992'", `x.toml:2: [amt] port must be "auto" or a number from 1 to 65535`},
		{dcmamtin, "[amt]\nport = ''", `x.toml:2: [amt] port must be "auto" or a number from 1 to 65535`},
		{dcmamtin, "[amt]\nport = 16992.5", "x.toml:2: [amt] port must be text in quotes, not a number"},
		{dcmamtin, "[amt]\nuser = 5", "x.toml:2: [amt] user must be text in quotes, not a number"},
		{dcmamtin, "[amt]\ntls = 'yes'", "x.toml:2: [amt] tls must be true or false, not this text"},
		{dcmamtin, "[amt]\ntls_ca = 'a'\ntls_pin = 'b'", "x.toml:3: [amt] tls_pin and tls_ca exclude each other; leave one out"},
		{dcmamtin, "[amt]\nenterprise = '" + long + "'", "x.toml:2: [amt] enterprise must be 1 to 64 printable characters"},
		{dcmamtin, "[amt]\nenterprise = ''", `x.toml:2: [amt] enterprise is empty; name an entry, or leave it out for "samehost"`},
	} {
		path, dir := write(t, c.text)
		err := c.load(path)
		if err == nil {
			t.Errorf("%q: accepted; want %s", c.text, c.want)
			continue
		}
		if got := strings.TrimPrefix(err.Error(), dir+string(filepath.Separator)); got != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"manager", "manager.example", "MANAGER.Example", "a_b.example", "1.example", "xn--eckwd4c7c.example",
		"192.0.2.7", "::1", "2001:db8::7", strings.Repeat("a", 63) + ".example", strings.TrimSuffix(strings.Repeat("a.", 127), ".")} {
		if err := CheckName(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	const form = ` which is no DNS name or IP address; write it as "manager.example" or "192.0.2.7"`
	for bad, want := range map[string]string{
		"":                        `"",` + form,
		"manager.example.":        `"manager.example.",` + form,
		".example":                `".example",` + form,
		"a..example":              `"a..example",` + form,
		"-a.example":              `"-a.example",` + form,
		"a-.example":              `"a-.example",` + form,
		"a b":                     `"a b",` + form,
		"a\x1b[31m":               `"a\x1b[31m", which is no DNS name or IP address; write it without https://, brackets and port`,
		"192.0.2.300":             `"192.0.2.300",` + form,
		"192.0.2":                 `"192.0.2",` + form,
		"manager,192.0.2.7":       `"manager,192.0.2.7",` + form,
		"manager.example:8740":    `"manager.example:8740", which is no DNS name or IP address; write it without https://, brackets and port`,
		"[::1]":                   `"[::1]", which is no DNS name or IP address; write it without https://, brackets and port`,
		"*.example":               `"*.example", a pattern; write each name out`,
		"管理.example":              `"\u7ba1\u7406.example", with characters that DNS does not have; write the form that begins with xn--`,
		"0.0.0.0":                 `"0.0.0.0", an address that no machine has; write one that clients connect to`,
		"::":                      `"::", an address that no machine has; write one that clients connect to`,
		"224.0.0.1":               `"224.0.0.1", an address that no machine has; write one that clients connect to`,
		"fe80::1%eth0":            `"fe80::1%eth0", an address with a zone; write it without`,
		strings.Repeat("a", 64):   `"` + strings.Repeat("a", 64) + `",` + form,
		strings.Repeat("a.", 300): `"` + strings.Repeat("a.", 40) + `"...,` + form,
	} {
		if err := CheckName(bad); err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", bad, err, want)
		}
	}
}

func TestFileOutOfReach(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.toml")
	_, err := LoadManager(path)
	want := "configuration file " + path + ": no such file or directory; write it, or name another with --config"
	if !errors.Is(err, fs.ErrNotExist) || runtime.GOOS != "windows" && err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	big, _ := write(t, strings.Repeat("#", maxFile+1))
	want = "configuration file " + big + ": longer than 256 KiB, as no such file is; name another with --config"
	if _, err := LoadManager(big); err == nil || err.Error() != want {
		t.Errorf("a file of %d bytes: %v, want %s", maxFile+1, err, want)
	}
	folder := t.TempDir()
	want = "configuration file " + folder + ": a folder; name the file in it with --config"
	if _, err := LoadManager(folder); err == nil || err.Error() != want {
		t.Errorf("a folder: %v, want %s", err, want)
	}
}

// A key of a hundred thousand parts, which is 200 KB, took 10 GB.
func TestKeyOfManyParts(t *testing.T) {
	t.Parallel()
	if n := len(keyLines([]byte(strings.Repeat("k.", 10_000) + "k = 1\n" + "[a." + strings.Repeat("b.", 10_000) + "c]\nd = 1"))); n > 20 {
		t.Errorf("%d places of keys are kept", n)
	}
}

func TestFirstThatExists(t *testing.T) {
	t.Parallel()
	relay, dir := write(t, "")
	manager := filepath.Join(dir, "manager.toml")
	if got, err := firstThatExists(manager, relay); got != relay || err != nil {
		t.Errorf("only the relay's there: %q, %v", got, err)
	}
	if err := os.WriteFile(manager, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := firstThatExists(manager, relay); got != manager || err != nil {
		t.Errorf("both there: %q, %v", got, err)
	}
	none := filepath.Join(dir, "none")
	_, err := firstThatExists(none)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), none) || !strings.Contains(err.Error(), "--config") {
		t.Errorf("none there: %v", err)
	}
}

func TestPassword(t *testing.T) {
	for _, c := range []struct{ text, want, wrong string }{
		{"P@ssw0rd!\n", "P@ssw0rd!", ""},
		{"P@ssw0rd!\r\n", "P@ssw0rd!", ""},
		{"\ufeffP@ss w0rd!", "P@ss w0rd!", ""},
		{" leading and trailing blanks belong to it \n", " leading and trailing blanks belong to it ", ""},
		{"", "", "empty; write it there"},
		{"\n", "", "empty; write it there"},
		{"hunter2\n\n", "", "more than one line; it must hold the password and nothing else"},
		{"user\nhunter2\n", "", "more than one line; it must hold the password and nothing else"},
		{"hunter2\x00", "", "holds characters that no password has; write it as UTF-8 text"},
		{"hunter2\xff", "", "holds characters that no password has; write it as UTF-8 text"},
		{strings.Repeat("a", 1024) + "\r\n", strings.Repeat("a", 1024), ""},
		{strings.Repeat("a", 1025), "", "longer than 1024 bytes"},
		{strings.Repeat("a", 2000), "", "longer than 1024 bytes; it must hold the password and nothing else"},
	} {
		path, _ := write(t, c.text)
		got, err := AMT{PasswordFile: path}.Password()
		if c.wrong != "" {
			if want := "password file " + path + ": " + c.wrong; err == nil || err.Error() != want {
				t.Errorf("%.20q: got %v, want %s", c.text, err, want)
			}
		} else if err != nil || got.Reveal() != c.want {
			t.Errorf("%.20q: got %q, %v", c.text, got.Reveal(), err)
		}
	}
	t.Setenv("SAMEHOST_TEST_PASSWORD", "from the environment")
	if got, err := (AMT{PasswordEnv: "SAMEHOST_TEST_PASSWORD"}).Password(); err != nil || got.Reveal() != "from the environment" {
		t.Errorf("got %q, %v", got.Reveal(), err)
	}
	const unset = "environment variable SAMEHOST_TEST_UNSET (from [amt] password_env): empty; write it there"
	if _, err := (AMT{PasswordEnv: "SAMEHOST_TEST_UNSET"}).Password(); err == nil || err.Error() != unset {
		t.Errorf("got %v, want %s", err, unset)
	}
	if _, err := (AMT{}).Password(); !errors.Is(err, ErrNoPassword) {
		t.Errorf("got %v", err)
	}
	if _, err := (AMT{PasswordFile: filepath.Join(t.TempDir(), "none")}).Password(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("on Windows the folder's access list guards the file, not a mode")
	}
	path, _ := write(t, "p")
	if w := (AMT{PasswordFile: path}).Warnings(); w != nil {
		t.Errorf("mode 0600: %q", w)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{"password file " + path + " is open to other users (mode 0644); close it: chmod 600 " + path}
	if diff := cmp.Diff(want, (AMT{PasswordFile: path}).Warnings()); diff != "" {
		t.Error(diff)
	}
}

func TestSecretNeverShows(t *testing.T) {
	t.Parallel()
	s := NewSecret("hunter2")
	type holder struct {
		Secret Secret
		inside Secret
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "holder", holder{s, s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "holder", holder{s, s})
	encoded, err := json.Marshal(holder{s, s})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v", holder{s, s}, holder{s, s}, &holder{s, s}),
		string(encoded), log.String(), fmt.Sprint(fmt.Errorf("x: %v", s))} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, "68756e74657232") {
			t.Errorf("shown: %s", shown)
		}
	}
	if got := fmt.Sprintf("%v %s %q", s, s, s); got != "*** *** ***" {
		t.Errorf("got %s", got)
	}
	if s.Reveal() != "hunter2" || (Secret{}).Reveal() != "" {
		t.Error("Reveal does not")
	}
}

// Whatever a file holds, loading ends, an error is one line that can be shown, and what is accepted keeps its
// promises.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("data_dir = 'd'\nhigher_system = 'https://m:1'\n[amt]\nport = 16992\ntls = true\ntls_pin = 'sha256:00'\n[hardware]\nfile = 'x'"))
	f.Add([]byte("data_dir = 'd'\nlisten = '[::1]:0'\ndatabase = 'sqlite:x.db'\namt = { user = 'u', enterprise = 'e' }\ndcmamtin.resolve = 'file'"))
	f.Add([]byte("\xef\xbb\xbf[[amt]]\n\"\\u001b\" = [{a=1},{b.c=1979-05-27}]"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "fuzz.toml")
		check := func(targets ...any) *document {
			d := &document{file: path, dir: dir}
			if err := d.decode(b, targets); err != nil {
				if strings.ContainsAny(err.Error(), "\r\n\x00\x1b") {
					t.Errorf("an error of several lines: %q", err)
				}
				return nil
			}
			return d
		}
		var c Client
		if d := check(&c); d != nil {
			d.required("data_dir", &c.DataDir)
			d.amt(&c.AMT, true)
			if d.err == nil {
				if !filepath.IsAbs(c.DataDir) {
					t.Errorf("data_dir %q is relative", c.DataDir)
				}
				if c.AMT.Port == "auto" && c.AMT.TLS || c.AMT.Port != "auto" && !isPort(c.AMT.Port) {
					t.Errorf("port %q, tls %v", c.AMT.Port, c.AMT.TLS)
				}
				if c.AMT.InUse != (c.AMT.URL != "") {
					t.Errorf("in use %v, url %q", c.AMT.InUse, c.AMT.URL)
				}
			}
		}
		check(&Manager{}, &Relay{})
	})
}
