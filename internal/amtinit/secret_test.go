package amtinit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

// A device that knows our password and writes it wherever it can: into the realm, headers, faults and bodies. It is in no
// line of the log, and in nothing that an outcome says.
func TestPasswordThatADeviceRepeats(t *testing.T) {
	t.Parallel()
	const password = "Never-Shown-1!"
	fault := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>`+
		`<a:Envelope xmlns:a="http://www.w3.org/2003/05/soap-envelope" xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing"><a:Header>`+
		`<b:Action>http://schemas.xmlsoap.org/ws/2004/08/addressing/fault</b:Action></a:Header><a:Body><a:Fault>`+
		`<a:Code><a:Value>a:Receiver</a:Value><a:Subcode><a:Value>b:%[1]s</a:Value></a:Subcode></a:Code>`+
		`<a:Reason><a:Text xml:lang="en-US">the password is %[1]s</a:Text></a:Reason><a:Detail>%[1]s</a:Detail></a:Fault></a:Body></a:Envelope>`, password)
	challenge := func(w http.ResponseWriter, realm string) {
		w.Header().Set("WWW-Authenticate", `Digest realm="`+realm+`", nonce="`+password+`", stale="false", qop="auth"`)
		w.Header().Set("Server", password)
		w.WriteHeader(http.StatusUnauthorized)
	}
	for i, serve := range []http.HandlerFunc{
		func(w http.ResponseWriter, r *http.Request) { challenge(w, password) },
		func(w http.ResponseWriter, r *http.Request) { // no challenge that can be answered
			w.Header().Set("WWW-Authenticate", `Basic realm="`+password+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				challenge(w, "Digest:1")
				return
			}
			w.Header().Set("Content-Type", "application/soap+xml;charset=UTF-8")
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, fault)
		},
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				challenge(w, "Digest:1")
				return
			}
			io.WriteString(w, "<"+password+">"+password)
		},
		func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/"+password, http.StatusFound) },
	} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.123.20.%d:0", i+1))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: serve}
		t.Cleanup(func() { server.Close() })
		go server.Serve(l)
		at := netip.MustParseAddrPort(l.Addr().String())

		dir := t.TempDir()
		log := OpenLog(dir, English)
		var said []string
		_, err = Run(context.Background(), Options{User: "admin", Password: password, Port: int(at.Port())},
			slices.Values([]Target{{Address: at.Addr()}}), func(o Outcome) {
				if o.OK() {
					t.Errorf("device %d: initialized", i)
				}
				said = append(said, fmt.Sprintf("%v %+v %+v", o.Err, o.Result, o.Warnings))
				if err := log.Failed(o); err != nil {
					t.Error(err)
				}
			})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, LogName))
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, string(b))
		for _, text := range said {
			if strings.Contains(text, password) {
				t.Errorf("device %d: the password is in %q", i, text)
			}
		}
		if i == 2 && !strings.Contains(string(b), "***") {
			t.Errorf("the fault that repeats the password is not in the log, so this test shows nothing:\n%s", b)
		}
	}
}

func TestHideSecret(t *testing.T) {
	t.Parallel()
	names := []string{"Contoso", "x P@ssw0rd! y"}
	o := Outcome{Err: fmt.Errorf("call: %w", errors.Join(wsman.ErrLogOn, errors.New("P@ssw0rd!")))}
	o.Result = amt.Result{About: amt.About{Version: "P@ssw0rd!", PlatformGUID: "0P@ssw0rd!"}, Enterprises: names}
	hidden := o
	hidden.hideSecret("P@ssw0rd!")
	if got := fmt.Sprintf("%v|%+v", hidden.Err, hidden.Result); strings.Contains(got, "P@ssw0rd!") || strings.Count(got, "***") != 4 {
		t.Errorf("left: %s", got)
	}
	if !errors.Is(hidden.Err, wsman.ErrLogOn) {
		t.Errorf("%v is no refused log-on any more", hidden.Err)
	}
	if names[1] != "x P@ssw0rd! y" {
		t.Errorf("the slice of another was changed: %q", names)
	}
	// A password that AMT would not take is not looked for: it would blot out half of the words.
	short := o
	short.hideSecret("ssw")
	if short.Err.Error() != o.Err.Error() {
		t.Errorf("%v", short.Err)
	}
}
