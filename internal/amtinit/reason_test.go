package amtinit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

func TestEveryReasonIsWhole(t *testing.T) {
	t.Parallel()
	codes, ids := make(map[Code]bool), make(map[string]bool)
	last := ""
	for _, r := range Reasons() {
		if codes[r.Code] || ids[r.ID] {
			t.Errorf("%s %s stands twice", r.Code, r.ID)
		}
		codes[r.Code], ids[r.ID] = true, true
		if !regexp.MustCompile(`^SHAM1\d\d\d-[EW]$`).MatchString(r.ID) || r.ID <= last {
			t.Errorf("%s: message ID %q is malformed or out of order", r.Code, r.ID)
		}
		last = r.ID
		for name, text := range map[string]Text{"cause": r.Cause, "remedy": r.Remedy} {
			checkText(t, string(r.Code)+" "+name, text)
		}
		if got := ReasonOf(r.Code); got != r {
			t.Errorf("ReasonOf(%s) = %v", r.Code, got)
		}
	}
	for _, w := range Warnings() {
		if ids[w.ID] || !regexp.MustCompile(`^SHAM2\d\d\d-W$`).MatchString(w.ID) || w.ID <= last {
			t.Errorf("message ID %q is malformed, out of order or given twice", w.ID)
		}
		last = w.ID
		checkText(t, w.ID+" cause", w.Cause)
		checkText(t, w.ID+" remedy", w.Remedy)
	}
	for id, text := range LogMessages() {
		if ids[id] {
			t.Errorf("%s is a reason and a log message", id)
		}
		checkText(t, id, text)
	}
}

func checkText(t *testing.T, what string, text Text) {
	t.Helper()
	japanese := strings.ContainsFunc(text.JA, func(r rune) bool { return unicode.Is(unicode.Hiragana, r) })
	if !japanese || !strings.HasSuffix(text.JA, "。") {
		t.Errorf("%s: Japanese text %q is no Japanese sentence", what, text.JA)
	}
	english := !strings.ContainsFunc(text.EN, func(r rune) bool { return r > unicode.MaxASCII })
	if !english || !strings.HasSuffix(text.EN, ".") {
		t.Errorf("%s: English text %q is no English sentence", what, text.EN)
	}
	if strings.ContainsAny(text.EN+text.JA, "\n\t") {
		t.Errorf("%s: more than one line", what)
	}
}

// Every code that classify can give, and every sentinel of amt and wsman that it must know.
func TestClassify(t *testing.T) {
	t.Parallel()
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, test := range []struct {
		err  error
		want Code
	}{
		{&amt.EACLFullError{Holders: []string{"a"}}, EACLFull},
		{fmt.Errorf("%w: %w", &amt.EACLFullError{}, amt.StatusMaxLimitReached), EACLFull},
		{amt.ErrNo3PDS, No3PDS},
		{fmt.Errorf("%w: %w", amt.ErrNo3PDS, &wsman.Fault{HTTPStatus: 400, Subcode: "DestinationUnreachable"}), No3PDS},
		{amt.ErrNoRealm, RealmMissing},
		{fmt.Errorf("%w: %w", amt.ErrNoRealm, wsman.ErrLogOn), RealmMissing},
		{fmt.Errorf("%w: %w", amt.ErrLockedOut, wsman.ErrLogOn), LockedOut},
		{amt.ErrNotProvisioned, NotProvisioned},
		{amt.ErrMode, EnterpriseMode},
		{amt.ErrNotReady, Busy},
		{amt.ErrNoSpace, OutOfStorage},
		{fmt.Errorf("call: %w", wsman.ErrLogOn), LogOnRefused},
		{wsman.ErrNoTrust, NoTrust},
		{wsman.ErrCert, BadCertificate},
		{wsman.ErrTLSOnly, TLSRequired},
		{wsman.ErrNotTLS, NotTLS},
		{wsman.ErrTooLarge, NotAMT},
		{wsman.ErrBadReply, NotAMT},
		{amt.StatusNotReady, Busy},
		{amt.StatusOperationInProgress, Busy},
		{amt.StatusInvalidPTMode, NotProvisioned},
		{amt.StatusInvalidProvisioningState, NotProvisioned},
		{amt.StatusNotEnoughStorage, OutOfStorage},
		{amt.StatusMaxLimitReached, AllocationFull},
		{fmt.Errorf("AddStorageEaclEntry: %w", amt.StatusFlashWriteLimitExceeded), WornOut},
		{amt.StatusNotPermitted, RealmMissing},
		{amt.StatusInternalError, UnexpectedStatus},
		{amt.Status(4711), UnexpectedStatus},
		{&wsman.Fault{HTTPStatus: 400, Action: "a", Subcode: "AccessDenied"}, RealmMissing},
		{&wsman.Fault{HTTPStatus: 503}, Busy},
		{&wsman.Fault{HTTPStatus: 500, Action: "a", Subcode: "TimedOut"}, Busy},
		{&wsman.Fault{HTTPStatus: 404}, NotAMT},
		{&wsman.Fault{HTTPStatus: 501}, NotAMT},
		{&wsman.Fault{HTTPStatus: 400}, DeviceFault},
		{&wsman.Fault{HTTPStatus: 400, Action: "a", Subcode: "SchemaValidationError"}, DeviceFault},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}, LocalResources},
		{fmt.Errorf("call: %w", context.DeadlineExceeded), TimedOut},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, TimedOut},
		{reset, ConnectionBroken},
		{fmt.Errorf("call: %w", io.ErrUnexpectedEOF), ConnectionBroken},
		{io.EOF, ConnectionBroken},
		{errors.New("never seen before"), OtherError},
	} {
		if got := classify(test.err, amt.Result{}); got != test.want {
			t.Errorf("classify(%v) = %s, want %s", test.err, got, test.want)
		}
	}
	if got := classify(amt.ErrNoSpace, amt.Result{NonPartner: true}); got != AllocationFull {
		t.Errorf("no space without an allocation entry is %s, want %s", got, AllocationFull)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"PC0001 会議室":          "PC0001 会議室",
		"a\x1b[31mb":          `a\u{1b}[31mb`,
		"a\r\nb\tc":           `a\u{d}\u{a}b\u{9}c`,
		"a\u202egnp.exe":      `a\u{202e}gnp.exe`,
		"a\xffb":              `a\xffb`,
		"\uFFFD":              "\uFFFD",
		"1234567890abcdefghi": "1234567890abcdef...",
	} {
		if got := Printable(in, 16); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in, limit := string(rapid.SliceOf(rapid.Byte()).Draw(t, "in")), rapid.IntRange(1, 40).Draw(t, "limit")
		out := Printable(in, limit)
		for _, r := range out {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q leaves %q", in, r)
			}
		}
		if n := len([]rune(out)); n > limit*len(`\u{10ffff}`)+len("...") {
			t.Fatalf("%d characters for a limit of %d", n, limit)
		}
	})
}

// docs/operations has every message with its cause and action, word for word.
func TestEveryMessageIsDocumented(t *testing.T) {
	t.Parallel()
	for lang, file := range map[Lang]string{English: "dcmamtin.en.md", Japanese: "dcmamtin.ja.md"} {
		b, err := os.ReadFile("../../docs/operations/" + file)
		if err != nil {
			t.Fatal(err)
		}
		doc := string(b)
		for _, r := range Reasons() {
			row := fmt.Sprintf("| %s | `%s` | %s | %s |\n", r.ID, r.Code, r.Cause.In(lang), r.Remedy.In(lang))
			if !strings.Contains(doc, row) {
				t.Errorf("%s lacks the row %s", file, row)
			}
		}
		for id, text := range LogMessages() {
			if !strings.Contains(doc, "| "+id+" | "+text.In(lang)+" | ") {
				t.Errorf("%s lacks %s: %s", file, id, text.In(lang))
			}
		}
		for _, w := range Warnings() {
			if row := fmt.Sprintf("| %s | %s | %s |\n", w.ID, w.Cause.In(lang), w.Remedy.In(lang)); !strings.Contains(doc, row) {
				t.Errorf("%s lacks the row %s", file, row)
			}
		}
		for _, id := range regexp.MustCompile(`SHAM\d{4}-\w`).FindAllString(doc, -1) {
			_, isMessage := LogMessages()[id]
			if !isMessage && !strings.Contains(fmt.Sprint(Reasons(), Warnings()), id) {
				t.Errorf("%s documents %s, which does not exist", file, id)
			}
		}
	}
}

// docs/operations has the reasons of runs, word for word, and docs/protocol their IDs.
func TestReasonsOfRunsAreDocumented(t *testing.T) {
	t.Parallel()
	ids := make(map[string]Code)
	for _, r := range append(Reasons(), PartReasons()...) {
		if before, twice := ids[r.ID]; twice {
			t.Errorf("%s is %s and %s", r.ID, before, r.Code)
		}
		ids[r.ID] = r.Code
		if is, known := AnyReason(r.Code); !known || is != r {
			t.Errorf("%s is found as %+v", r.Code, is)
		}
	}
	for _, file := range []string{"operations/initialize.en.md", "operations/initialize.ja.md", "protocol/runs.md"} {
		b, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range PartReasons() {
			row := fmt.Sprintf("| %s | `%s` | ", r.ID, r.Code)
			switch {
			case strings.HasSuffix(file, "en.md"):
				row += fmt.Sprintf("%s | %s |\n", r.Cause.EN, r.Remedy.EN)
			case strings.HasSuffix(file, "ja.md"):
				row += fmt.Sprintf("%s | %s |\n", r.Cause.JA, r.Remedy.JA)
			}
			if !strings.Contains(string(b), row) {
				t.Errorf("%s lacks the row %s", file, row)
			}
		}
	}
}
