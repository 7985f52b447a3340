package wsman

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fault is a SOAP fault, or another HTTP answer that is no success.
type Fault struct {
	HTTPStatus int    // 400, 500, ...
	Action     string // WS-Addressing action of the fault; "" if the answer was no SOAP
	Code       string // local name: Sender, Receiver
	Subcode    string // local name: DestinationUnreachable, AccessDenied, SchemaValidationError, ...
	Reason     string // as the device wrote it, made printable and bounded
	Detail     string // text of the detail element, e.g. "AMT-STATUS 38"
}

// Error gives all that the device said, on one line.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString("the device answers HTTP ")
	b.WriteString(strconv.Itoa(f.HTTPStatus))
	switch {
	case f.Subcode != "":
		b.WriteString(", " + f.Subcode)
	case f.Code != "":
		b.WriteString(", " + f.Code)
	}
	if f.Reason != "" {
		b.WriteString(": " + f.Reason)
	}
	if f.Detail != "" {
		b.WriteString(" (" + f.Detail + ")")
	}
	return b.String()
}

// What a call can fail with besides a Fault, a transport error or the context's error.
var (
	ErrLogOn    = errors.New("the log-on was refused")                  // 401 to a correct answer to a fresh challenge
	ErrNoTrust  = errors.New("no CA file and no pin to judge TLS by")   // TLS asked for without trust
	ErrCert     = errors.New("the device's certificate is not trusted") // chain, name or pin does not hold
	ErrTLSOnly  = errors.New("the device speaks TLS on this port")
	ErrNotTLS   = errors.New("the device does not speak TLS on this port")
	ErrTooLarge = errors.New("the reply is larger than allowed")
	ErrBadReply = errors.New("the reply is not what WS-Management allows")

	// ErrLogOnsSpent: see LogOns.
	ErrLogOnsSpent = errors.New("the device may be shown no further log-on, which could lock it")
)

// maxFaultText bounds each text of a Fault in bytes: enough for every sentence of DSP0226, too little to fill a log.
const maxFaultText = 400

// printable makes a device's text fit for a terminal and a log line: runs of white space become one space,
// anything that does not print is left out, and what is too long is cut.
func printable(s string) string {
	var b strings.Builder
	gap := false
	for _, r := range s {
		if unicode.IsSpace(r) {
			gap = true
			continue
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			continue
		}
		if b.Len()+utf8.UTFMax+1 > maxFaultText {
			b.WriteString("...")
			break
		}
		if gap && b.Len() > 0 {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}

// httpFault describes an answer that is no SOAP: by the heading of its page if it has one, which is where AMT and
// proxies say what is wrong, else by the status line.
func httpFault(status int, phrase, body string) *Fault {
	reason := ""
	lower := strings.ToLower(body)
	if len(lower) == len(body) { // else the positions do not match; only exotic letters change their length
		for _, tag := range []string{"h2", "h1", "title"} {
			if reason = printable(tagText(body, lower, tag)); reason != "" {
				break
			}
		}
	}
	if reason == "" {
		reason = printable(phrase)
	}
	if reason == "" {
		reason = http.StatusText(status)
	}
	return &Fault{HTTPStatus: status, Reason: reason}
}

// tagText is the text of the first such element of a page, tags inside it left out.
func tagText(page, lower, tag string) string {
	begin := strings.Index(lower, "<"+tag)
	if begin < 0 {
		return ""
	}
	end := strings.Index(lower[begin:], "</"+tag)
	if end < 0 {
		return ""
	}
	var b strings.Builder
	inTag := false
	for _, r := range page[begin : begin+end] {
		switch {
		case r == '<':
			inTag = true
		case r == '>':
			inTag = false
		case !inTag:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// fault reads a SOAP fault (SOAP 1.2 part 1, section 5.4) whose start tag was just read.
func (d *decoder) fault(status int, action string) (*Fault, error) {
	f := &Fault{HTTPStatus: status, Action: printable(action)}
	for {
		more, err := d.child()
		if err != nil {
			return nil, err
		}
		if !more {
			return f, nil
		}
		switch {
		case d.is(nsSOAP, "Code"):
			err = d.faultCode(f, 0)
		case d.is(nsSOAP, "Reason"):
			err = d.faultReason(f)
		case d.is(nsSOAP, "Detail"):
			f.Detail, err = d.allText()
			f.Detail = printable(f.Detail)
		default:
			err = d.skip()
		}
		if err != nil {
			return nil, err
		}
	}
}

// faultCode reads Code or, one level down, Subcode. Deeper subcodes are the device's own and are left out.
func (d *decoder) faultCode(f *Fault, level int) error {
	for {
		more, err := d.child()
		if err != nil || !more {
			return err
		}
		switch {
		case d.is(nsSOAP, "Value"):
			var name string
			if name, err = d.textOnly(); err == nil {
				name = strings.TrimSpace(name)
				name = printable(name[strings.LastIndexByte(name, ':')+1:])
				if level == 0 {
					f.Code = name
				} else {
					f.Subcode = name
				}
			}
		case d.is(nsSOAP, "Subcode") && level == 0:
			err = d.faultCode(f, 1)
		default:
			err = d.skip()
		}
		if err != nil {
			return err
		}
	}
}

// faultReason takes the first of the texts, which differ in language.
func (d *decoder) faultReason(f *Fault) error {
	for {
		more, err := d.child()
		if err != nil || !more {
			return err
		}
		text, err := d.textOnly()
		if err != nil {
			return err
		}
		if f.Reason == "" {
			f.Reason = printable(text)
		}
	}
}

// allText is every text inside the element that has just begun, parted by spaces.
func (d *decoder) allText() (string, error) {
	var b strings.Builder
	for depth := 1; ; {
		t, err := d.next()
		if err != nil {
			return "", err
		}
		switch t {
		case tokenStart:
			depth++
		case tokenEnd:
			if depth--; depth == 0 {
				return b.String(), nil
			}
		case tokenText:
			b.WriteString(" " + d.text)
		}
	}
}
