package main

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"

	"samehost/internal/amtinit"
)

// arguments is a command line that makes sense.
type arguments struct {
	file    string     // /f
	host    string     // /H
	address netip.Addr // /I

	config              string
	parallel            int
	timeout             time.Duration
	ignoreLogonFailures bool
	dryRun              bool
	resume              bool
	retryFailed         bool
	progress            string // auto, plain or none
	json                bool
	lang                amtinit.Lang // "" if not given

	help, version bool
}

// maxHostName is the manual's limit for /H in single-byte characters.
const maxHostName = 64

// argumentError is what exit code 2 says: one line, what and what to do.
type argumentError struct{ text amtinit.Text }

func (e *argumentError) Error() string { return e.text.EN }

func badArgument(en, ja string, values ...any) error {
	for i, v := range values {
		if s, ok := v.(string); ok { // not %q: it would double the backslashes of a Windows path
			values[i] = amtinit.Printable(s, 80)
		}
	}
	return &argumentError{amtinit.Text{EN: fmt.Sprintf(en, values...), JA: fmt.Sprintf(ja, values...)}}
}

// isFullPath reports whether a path is whole on that system: it names a file wherever the command was started. On Windows
// that takes a drive and a root (D:\...), or a server (\\server\share\...).
func isFullPath(goos, path string) bool {
	if goos != "windows" {
		return strings.HasPrefix(path, "/")
	}
	isSlash := func(c byte) bool { return c == '\\' || c == '/' }
	switch {
	case len(path) >= 3 && path[1] == ':':
		drive := path[0] | 0x20
		return drive >= 'a' && drive <= 'z' && isSlash(path[2])
	default:
		return len(path) >= 3 && isSlash(path[0]) && isSlash(path[1]) && !isSlash(path[2])
	}
}

// An option is a switch of the manual or a long option. set takes its value; takesNone options get "".
type option struct {
	name      string
	takesNone bool
	set       func(a *arguments, value string) error
}

var options = []option{
	{name: "/f", set: func(a *arguments, v string) error {
		if !isFullPath(runtime.GOOS, v) {
			return badArgument("/f: \"%s\" is not a full path; give the whole path of the system configuration information file",
				"/f: \"%s\"はフルパスではありません。システム構成情報ファイルをフルパスで指定してください", v)
		}
		a.file = v
		return nil
	}},
	{name: "/H", set: func(a *arguments, v string) error {
		for _, c := range v {
			if c <= ' ' || c > '~' {
				return badArgument("/H: \"%s\" has a character that no host name has; use single-byte letters, digits, hyphens and dots",
					"/H: \"%s\"にはホスト名に使用できない文字があります。半角の英数字、ハイフン、ピリオドで指定してください", v)
			}
		}
		if len(v) > maxHostName {
			return badArgument("/H: the host name has %d characters; the limit is %d",
				"/H: ホスト名が%d文字あります。半角%d文字以内で指定してください", len(v), maxHostName)
		}
		a.host = v
		return nil
	}},
	{name: "/I", set: func(a *arguments, v string) error {
		addr, err := netip.ParseAddr(v)
		addr = addr.Unmap()
		if err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return badArgument("/I: \"%s\" is not the IP address of a PC; write it like 192.0.2.10 or 2001:db8::10",
				"/I: \"%s\"はPCのIPアドレスではありません。192.0.2.10や2001:db8::10のように指定してください", v)
		}
		a.address = addr
		return nil
	}},
	{name: "--config", set: func(a *arguments, v string) error {
		a.config = v
		return nil
	}},
	{name: "--parallel", set: func(a *arguments, v string) (err error) {
		a.parallel, err = strconv.Atoi(v)
		if err != nil || a.parallel < 1 || a.parallel > amtinit.MaxParallel {
			return badArgument("--parallel: \"%s\" is not a number from 1 to %d",
				"--parallel: \"%s\"は1から%dまでの数ではありません", v, amtinit.MaxParallel)
		}
		return nil
	}},
	{name: "--timeout", set: func(a *arguments, v string) (err error) {
		a.timeout, err = time.ParseDuration(v)
		if err != nil || a.timeout < time.Second || a.timeout > time.Hour {
			return badArgument("--timeout: \"%s\" is not a time from 1s to 1h; write it like 30s or 2m",
				"--timeout: \"%s\"は1sから1hまでの時間ではありません。30sや2mのように指定してください", v)
		}
		return nil
	}},
	{name: "--ignore-logon-failures", takesNone: true, set: func(a *arguments, _ string) error {
		a.ignoreLogonFailures = true
		return nil
	}},
	{name: "--dry-run", takesNone: true, set: func(a *arguments, _ string) error {
		a.dryRun = true
		return nil
	}},
	{name: "--resume", takesNone: true, set: func(a *arguments, _ string) error {
		a.resume = true
		return nil
	}},
	{name: "--retry-failed", takesNone: true, set: func(a *arguments, _ string) error {
		a.retryFailed = true
		return nil
	}},
	{name: "--progress", set: func(a *arguments, v string) error {
		if v != "auto" && v != "plain" && v != "none" {
			return badArgument("--progress: \"%s\" is not auto, plain or none",
				"--progress: \"%s\"はauto、plain、noneのどれでもありません", v)
		}
		a.progress = v
		return nil
	}},
	{name: "--json", takesNone: true, set: func(a *arguments, _ string) error {
		a.json = true
		return nil
	}},
	{name: "--lang", set: func(a *arguments, v string) error {
		if v != string(amtinit.English) && v != string(amtinit.Japanese) {
			return badArgument("--lang: \"%s\" is not en or ja", "--lang: \"%s\"はen、jaのどちらでもありません", v)
		}
		a.lang = amtinit.Lang(v)
		return nil
	}},
	{name: "--help", takesNone: true, set: func(a *arguments, _ string) error {
		a.help = true
		return nil
	}},
	{name: "--version", takesNone: true, set: func(a *arguments, _ string) error {
		a.version = true
		return nil
	}},
}

// again is the command line that does the same with one more option, or with none; --resume, --retry-failed and --dry-run are
// not taken over.
func (a arguments) again(option string) string {
	words := []string{"dcmamtin", "/f", a.file}
	switch {
	case a.host != "":
		words = []string{"dcmamtin", "/H", a.host}
	case a.address.IsValid():
		words = []string{"dcmamtin", "/I", a.address.String()}
	}
	if a.config != "" {
		words = append(words, "--config", a.config)
	}
	if a.parallel != amtinit.DefaultParallel {
		words = append(words, "--parallel", strconv.Itoa(a.parallel))
	}
	if a.timeout != amtinit.DefaultTimeout {
		words = append(words, "--timeout", a.timeout.String())
	}
	if a.ignoreLogonFailures {
		words = append(words, "--ignore-logon-failures")
	}
	if a.progress != "auto" {
		words = append(words, "--progress", a.progress)
	}
	if a.json {
		words = append(words, "--json")
	}
	if option != "" {
		words = append(words, option)
	}
	for i, w := range words {
		words[i] = quoted(runtime.GOOS, w)
	}
	return strings.Join(words, " ")
}

// mode is what a run does, as DCMAMT.LOG and the journal call it.
func (a arguments) mode() string {
	switch {
	case a.dryRun:
		return "dry-run"
	case a.resume:
		return "resume"
	case a.retryFailed:
		return "retry-failed"
	}
	return "all"
}

func optionNamed(name string) *option {
	if name == "-h" {
		name = "--help"
	}
	for i := range options {
		if options[i].name == name {
			return &options[i]
		}
	}
	return nil
}

// parseArguments reads the command line, switches case-sensitive as the manual writes them. Help and version win
// over everything that is wrong elsewhere. The language is set as far as it was read, also beside an error.
func parseArguments(args []string) (a arguments, err error) {
	a = arguments{parallel: amtinit.DefaultParallel, timeout: amtinit.DefaultTimeout, progress: "auto"}
	given := make(map[string]bool)
	for i := 0; i < len(args); i++ {
		e := a.take(args, &i, given)
		if err == nil {
			err = e
		}
	}
	if a.help || a.version {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	switch n := count(given["/f"], given["/H"], given["/I"]); {
	case n == 0:
		return a, badArgument("no target: give one of /f FILE, /H HOST and /I ADDRESS (--help shows examples)",
			"実行先が指定されていません。/f、/H、/Iのどれか一つを指定してください(--helpで例を表示します)")
	case n > 1:
		return a, badArgument("/f, /H and /I exclude each other: give exactly one of them",
			"/f、/H、/Iは同時に指定できません。どれか一つだけを指定してください")
	case a.resume && a.retryFailed:
		return a, badArgument("--resume and --retry-failed exclude each other: give one of them",
			"--resumeと--retry-failedは同時に指定できません。どちらか一つだけを指定してください")
	}
	return a, nil
}

// take reads the argument at *i and its value, and moves *i to the last one used.
func (a *arguments) take(args []string, i *int, given map[string]bool) error {
	name, value, inline := args[*i], "", false
	if strings.HasPrefix(name, "--") {
		name, value, inline = strings.Cut(name, "=")
	}
	opt := optionNamed(name)
	switch {
	case opt == nil:
		return unknown(args[*i])
	case opt.takesNone && inline:
		return badArgument("%s takes no value", "%sに値は指定できません", opt.name)
	case !opt.takesNone && !inline:
		if *i+1 < len(args) && optionNamed(args[*i+1]) == nil && !strings.HasPrefix(args[*i+1], "--") {
			*i++
			value = args[*i]
		}
	}
	if given[opt.name] {
		return badArgument("%s is given twice: give it once", "%sが2回指定されています。1回だけ指定してください", opt.name)
	}
	given[opt.name] = true
	if !opt.takesNone && value == "" {
		return badArgument("%s needs a value after it", "%sの後ろに値を指定してください", opt.name)
	}
	return opt.set(a, value)
}

func unknown(arg string) error {
	for _, o := range options {
		if strings.EqualFold(o.name, arg) {
			return badArgument("unknown argument \"%s\": write %s, upper and lower case matter",
				"\"%s\"は不正な引数です。大文字と小文字を区別して%sと指定してください", arg, o.name)
		}
	}
	return badArgument("unknown argument \"%s\": --help shows what there is",
		"\"%s\"は不正な引数です。指定できる引数は--helpで確認してください", arg)
}

func count(flags ...bool) (n int) {
	for _, f := range flags {
		if f {
			n++
		}
	}
	return n
}
