package main

import (
	"errors"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"samehost/internal/amtinit"
	"samehost/internal/layout"
)

// fullPath is absolute on this system.
var fullPath = func() string {
	p, err := filepath.Abs("NETM.NDD")
	if err != nil {
		panic(err)
	}
	return p
}()

func TestArguments(t *testing.T) {
	t.Parallel()
	defaults := arguments{parallel: amtinit.DefaultParallel, timeout: amtinit.DefaultTimeout, progress: "auto"}
	with := func(change func(*arguments)) arguments {
		a := defaults
		change(&a)
		return a
	}
	for _, test := range []struct {
		args []string
		want arguments
	}{
		{[]string{"/f", fullPath}, with(func(a *arguments) { a.file = fullPath })},
		{[]string{"/H", "pc0001"}, with(func(a *arguments) { a.host = "pc0001" })},
		{[]string{"/H", strings.Repeat("x", 64)}, with(func(a *arguments) { a.host = strings.Repeat("x", 64) })},
		{[]string{"/I", "192.0.2.1"}, with(func(a *arguments) { a.address = netip.MustParseAddr("192.0.2.1") })},
		{[]string{"/I", "2001:db8::1"}, with(func(a *arguments) { a.address = netip.MustParseAddr("2001:db8::1") })},
		{[]string{"/I", "::ffff:192.0.2.1"}, with(func(a *arguments) { a.address = netip.MustParseAddr("192.0.2.1") })},
		{
			[]string{"--config", "m.toml", "--parallel", "7", "/H", "a", "--timeout", "2m", "--json", "--lang", "ja", "--progress", "none", "--ignore-logon-failures"},
			arguments{host: "a", config: "m.toml", parallel: 7, timeout: 2 * time.Minute, json: true, lang: amtinit.Japanese, progress: "none", ignoreLogonFailures: true},
		},
		{
			[]string{"--config=a=b.toml", "--parallel=4096", "--timeout=1s", "/H", "a", "--lang=en", "--progress=plain"},
			arguments{host: "a", config: "a=b.toml", parallel: 4096, timeout: time.Second, lang: amtinit.English, progress: "plain"},
		},
		{[]string{"/H", "a", "--resume"}, with(func(a *arguments) { a.host, a.resume = "a", true })},
		{[]string{"--retry-failed", "/H", "a"}, with(func(a *arguments) { a.host, a.retryFailed = "a", true })},
		{[]string{"/H", "a", "--dry-run"}, with(func(a *arguments) { a.host, a.dryRun = "a", true })},
		{[]string{"/H", "a", "--dry-run", "--resume"}, with(func(a *arguments) { a.host, a.dryRun, a.resume = "a", true, true })},
		{[]string{"--dry-run", "--retry-failed", "/H", "a"}, with(func(a *arguments) { a.host, a.dryRun, a.retryFailed = "a", true, true })},
		{[]string{"--resume", "--retry-failed", "--help"}, with(func(a *arguments) { a.help, a.resume, a.retryFailed = true, true, true })},
		{[]string{"-h"}, with(func(a *arguments) { a.help = true })},
		{[]string{"/x", "--help", "/H"}, with(func(a *arguments) { a.help = true })},
		{[]string{"--version"}, with(func(a *arguments) { a.version = true })},
	} {
		got, err := parseArguments(test.args)
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(arguments{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.args, diff)
		}
	}
}

// S20, and what a full path is: the manual's own example is one on the system it is written for.
func TestFullPath(t *testing.T) {
	t.Parallel()
	const example = `D:\Program Files\Hitachi\NETMDM\DMPRM\NETM.NDD`
	for _, test := range []struct {
		path           string
		windows, linux bool
	}{
		{example, true, false},
		{`d:/Program Files/NETM.NDD`, true, false},
		{`\\server\share\NETM.NDD`, true, false},
		{`\\?\D:\NETM.NDD`, true, false},
		{`D:NETM.NDD`, false, false},
		{`\NETM.NDD`, false, false},
		{`1:\NETM.NDD`, false, false},
		{`NETM.NDD`, false, false},
		{`\\`, false, false},
		{"", false, false},
		{"/etc/NETM.NDD", false, true},
		{"./NETM.NDD", false, false},
	} {
		if got := isFullPath("windows", test.path); got != test.windows {
			t.Errorf("windows, %q: %v", test.path, got)
		}
		if got := isFullPath("linux", test.path); got != test.linux {
			t.Errorf("linux, %q: %v", test.path, got)
		}
	}
	for _, help := range []string{textHelp.EN, textHelp.JA} {
		if !strings.Contains(help, `dcmamtin.exe /f "`+example+`"`) {
			t.Errorf("the help does not show the manual's example:\n%s", help)
		}
	}
}

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		says string // part of the English line
	}{
		{nil, "give one of /f FILE, /H HOST and /I ADDRESS"},
		{[]string{"--json"}, "give one of"},
		{[]string{"/f", fullPath, "/H", "a"}, "exclude each other"},
		{[]string{"/H", "a", "/I", "192.0.2.1"}, "exclude each other"},
		{[]string{"/f", fullPath, "/I", "192.0.2.1"}, "exclude each other"},
		{[]string{"/f", fullPath, "/H", "a", "/I", "192.0.2.1"}, "exclude each other"},
		{[]string{"/H", "a", "/H", "b"}, "/H is given twice"},
		{[]string{"/f", fullPath, "/f", fullPath}, "/f is given twice"},
		{[]string{"/I", "192.0.2.1", "/I", "192.0.2.1"}, "/I is given twice"},
		{[]string{"/H", "a", "--json", "--json"}, "--json is given twice"},
		{[]string{"/H", "a", "--timeout=1s", "--timeout", "2s"}, "--timeout is given twice"},
		{[]string{"/h", "a"}, "write /H"},
		{[]string{"/F", fullPath}, "write /f"},
		{[]string{"/i", "192.0.2.1"}, "write /I"},
		{[]string{"/H", "a", "--JSON"}, "write --json"},
		{[]string{"/H:a"}, `unknown argument "/H:a"`},
		{[]string{"pc0001"}, `unknown argument "pc0001"`},
		{[]string{"/H", "a", "b"}, `unknown argument "b"`},
		{[]string{"/H", "a", "-v"}, `unknown argument "-v"`},
		{[]string{"/H", "a", "--resume", "--retry-failed"}, "--resume and --retry-failed exclude each other"},
		{[]string{"/f", fullPath, "--retry-failed", "--dry-run", "--resume"}, "--resume and --retry-failed exclude each other"},
		{[]string{"--resume"}, "give one of /f FILE"},
		{[]string{"--retry-failed"}, "give one of /f FILE"},
		{[]string{"--dry-run"}, "give one of /f FILE"},
		{[]string{"/H", "a", "--resume", "--resume"}, "--resume is given twice"},
		{[]string{"/H", "a", "--retry-failed", "--retry-failed"}, "--retry-failed is given twice"},
		{[]string{"/H", "a", "--dry-run", "--dry-run"}, "--dry-run is given twice"},
		{[]string{"/H", "a", "--resume=yes"}, "--resume takes no value"},
		{[]string{"/H", "a", "--retry-failed="}, "--retry-failed takes no value"},
		{[]string{"/H", "a", "--dry-run=1"}, "--dry-run takes no value"},
		{[]string{"/H", "a", "--resume", "1"}, `unknown argument "1"`},
		{[]string{"/H", "a", "--Resume"}, "write --resume"},
		{[]string{"/H", "a", "--Retry-Failed"}, "write --retry-failed"},
		{[]string{"/H", "a", "--DRY-RUN"}, "write --dry-run"},
		{[]string{"/H", "a", "--retry"}, `unknown argument "--retry"`},
		{[]string{"/H", "a", "-resume"}, `unknown argument "-resume"`},
		{[]string{"/H", "--resume"}, "/H needs a value"},
		{[]string{"/f", "--retry-failed"}, "/f needs a value"},
		{[]string{"/H", "a", "\x1b[2J"}, `unknown argument "\u{1b}[2J"`},
		{[]string{"/H"}, "/H needs a value"},
		{[]string{"/f"}, "/f needs a value"},
		{[]string{"/I"}, "/I needs a value"},
		{[]string{"/H", ""}, "/H needs a value"},
		{[]string{"/f", "/H", "a"}, "/f needs a value"},
		{[]string{"/H", "--json"}, "/H needs a value"},
		{[]string{"/H", "a", "--config"}, "--config needs a value"},
		{[]string{"/H", "a", "--config="}, "--config needs a value"},
		{[]string{"/H", "a", "--json=yes"}, "--json takes no value"},
		{[]string{"/H", strings.Repeat("x", 65)}, "has 65 characters; the limit is 64"},
		{[]string{"/H", "会議室"}, "single-byte"},
		{[]string{"/H", "a b"}, "single-byte"},
		{[]string{"/H", "a\n"}, "single-byte"},
		{[]string{"/I", "pc0001"}, "is not the IP address of a PC"},
		{[]string{"/I", "192.0.2.1.5"}, "is not the IP address of a PC"},
		{[]string{"/I", "192.0.2.256"}, "is not the IP address of a PC"},
		{[]string{"/I", "0.0.0.0"}, "is not the IP address of a PC"},
		{[]string{"/I", "255.255.255.255"}, "is not the IP address of a PC"},
		{[]string{"/I", "ff02::1"}, "is not the IP address of a PC"},
		{[]string{"/f", "NETM.NDD"}, "is not a full path"},
		{[]string{"/f", "./NETM.NDD"}, "is not a full path"},
		{[]string{"/H", "a", "--parallel", "0"}, "is not a number from 1 to 4096"},
		{[]string{"/H", "a", "--parallel", "-1"}, "is not a number from 1 to 4096"},
		{[]string{"/H", "a", "--parallel", "many"}, "is not a number from 1 to 4096"},
		{[]string{"/H", "a", "--parallel", "4097"}, "is not a number from 1 to 4096"},
		{[]string{"/H", "a", "--timeout", "30"}, "is not a time from 1s to 1h"},
		{[]string{"/H", "a", "--timeout", "0s"}, "is not a time from 1s to 1h"},
		{[]string{"/H", "a", "--timeout", "2h"}, "is not a time from 1s to 1h"},
		{[]string{"/H", "a", "--progress", "bar"}, "is not auto, plain or none"},
		{[]string{"/H", "a", "--lang", "de"}, "is not en or ja"},
	} {
		_, err := parseArguments(test.args)
		bad, ok := errors.AsType[*argumentError](err)
		if !ok {
			t.Errorf("%q: %v, want an argument error", test.args, err)
			continue
		}
		if !strings.Contains(bad.text.EN, test.says) {
			t.Errorf("%q: %q does not say %q", test.args, bad.text.EN, test.says)
		}
		if !strings.ContainsFunc(bad.text.JA, func(r rune) bool { return unicode.Is(unicode.Hiragana, r) }) {
			t.Errorf("%q: no Japanese line: %q", test.args, bad.text.JA)
		}
		for _, line := range []string{bad.text.EN, bad.text.JA} {
			if strings.ContainsFunc(line, unicode.IsControl) || strings.Contains(line, "%!") {
				t.Errorf("%q: %q is not one clean line", test.args, line)
			}
		}
	}
}

func FuzzArguments(f *testing.F) {
	f.Add("/H\x00pc0001\x00--json")
	f.Add("/f\x00" + fullPath + "\x00--timeout=2m\x00--lang\x00ja")
	f.Add("/I\x00fe80::1%eth0\x00--parallel\x00=")
	f.Fuzz(func(t *testing.T, line string) {
		a, err := parseArguments(strings.Split(line, "\x00"))
		if err != nil {
			if _, ok := errors.AsType[*argumentError](err); !ok {
				t.Fatalf("%q: %v is no argument error", line, err)
			}
			return
		}
		if a.help || a.version {
			return
		}
		if n := count(a.file != "", a.host != "", a.address.IsValid()); n != 1 {
			t.Fatalf("%q: %d kinds of target", line, n)
		}
		if a.parallel < 1 || a.timeout < time.Second || len(a.host) > maxHostName || a.file != "" && !filepath.IsAbs(a.file) {
			t.Fatalf("%q: out of bounds: %+v", line, a)
		}
	})
}

func TestHelpFitsOneScreen(t *testing.T) {
	t.Parallel()
	for _, lang := range []amtinit.Lang{amtinit.English, amtinit.Japanese} {
		lines := strings.Split(strings.TrimSuffix(textHelp.In(lang), "\n"), "\n")
		if len(lines) > 24 {
			t.Errorf("%s: %d lines, a screen has 24", lang, len(lines))
		}
		for _, l := range lines {
			if layout.Columns(l) > 80 {
				t.Errorf("%s: %d columns, a screen has 80: %s", lang, layout.Columns(l), l)
			}
		}
		for _, o := range options {
			if !regexp.MustCompile(regexp.QuoteMeta(o.name) + `\b`).MatchString(textHelp.In(lang)) {
				t.Errorf("%s: help does not name %s", lang, o.name)
			}
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		targets int
		sum     amtinit.Summary
		broken  bool
		want    int
	}{
		{1, amtinit.Summary{OK: 1}, false, 0},
		{1, amtinit.Summary{OK: 1, Already: 1}, false, 0},
		{1, amtinit.Summary{Failed: 1}, false, 31},
		{9, amtinit.Summary{OK: 9}, false, 0},
		{9, amtinit.Summary{OK: 8, Failed: 1}, false, 30},
		{9, amtinit.Summary{OK: 1, Failed: 8}, false, 30},
		{9, amtinit.Summary{Failed: 9}, false, 31},
		{9, amtinit.Summary{Failed: 5, NotTried: 4}, false, 31},
		{9, amtinit.Summary{OK: 9}, true, 12},
		{9, amtinit.Summary{OK: 8, Failed: 1}, true, 12},
		{9, amtinit.Summary{Failed: 9}, true, 12},
	} {
		if got := exitCode(test.targets, test.sum, test.broken); got != test.want {
			t.Errorf("exitCode(%d, %+v, %v) = %d, want %d", test.targets, test.sum, test.broken, got, test.want)
		}
	}
}

func TestLanguageOf(t *testing.T) {
	t.Parallel()
	for locale, want := range map[string]amtinit.Lang{
		"ja_JP.UTF-8": "ja", "ja": "ja", "ja-JP": "ja", "ja.eucJP": "ja", "Japanese_Japan.932": "ja",
		"en_US.UTF-8": "en", "C": "en", "": "en", "jam_JM": "en",
	} {
		if got := languageOf(locale); got != want {
			t.Errorf("languageOf(%q) = %s, want %s", locale, got, want)
		}
	}
}
