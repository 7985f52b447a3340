package manager

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"samehost/internal/intake"
)

// Anybody may read the figures; they tell how much, and nothing of whom.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := serving(t)
	p := s.pc("PC-of-somebody", "BOARD-1")
	s.checkIn(p)
	a := s.request("", "", "GET", "/metrics", "")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != intake.MediaFigures {
		t.Fatalf("%d %s", a.status, a.header)
	}
	for _, line := range []string{`samehost_checkins_total{outcome="accepted"} 2`, "samehost_checkin_seconds_count 2", "samehost_checkins_under_way 0", `samehost_connections{state="handshake"} 0`} {
		if !strings.Contains(a.body, "\n"+line+"\n") {
			t.Errorf("%q is missing in\n%s", line, a.body)
		}
	}
	for _, name := range []string{"samehost_database_writes_total", "samehost_database_seconds_total"} {
		if strings.Contains(a.body, "\n"+name+" 0\n") || !strings.Contains(a.body, "\n"+name+" ") {
			t.Errorf("%s: nothing was counted:\n%s", name, a.body)
		}
	}
	for _, secret := range []string{"PC-of-somebody", "BOARD-1", p.report.HostID.String(), s.token.ID, "192.0.2"} {
		if strings.Contains(a.body, secret) {
			t.Errorf("the figures tell %q", secret)
		}
	}
}

// A TLS session outlives the manager that it began at.
func TestSessionsResumeAfterARestart(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	cache := tls.NewLRUClientSessionCache(1)
	var resumed []bool
	for range 3 {
		ctx, stop := context.WithCancel(t.Context())
		listening, ended := make(chan net.Addr, 1), make(chan error, 1)
		go func() {
			ended <- Serve(ctx, Options{DataDir: dir, Database: database(dir), Listen: "127.163.1.1:0",
				Log: slog.New(slog.DiscardHandler), Listening: func(a net.Addr) { listening <- a }})
		}()
		select {
		case a := <-listening:
			c, err := tls.Dial("tcp", a.String(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", ClientSessionCache: cache})
			must(t, err)
			resumed = append(resumed, c.ConnectionState().DidResume)
			if c.ConnectionState().Version != tls.VersionTLS13 {
				t.Errorf("TLS version %x", c.ConnectionState().Version)
			}
			fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			_, err = c.Read(make([]byte, 100)) // the ticket comes before the answer
			must(t, err)
			c.Close()
		case err := <-ended:
			t.Fatal(err)
		}
		stop()
		must(t, <-ended)
	}
	if len(resumed) != 3 || resumed[0] || !resumed[1] || !resumed[2] {
		t.Errorf("resumed %v, want false, true, true", resumed)
	}
	if _, err := ticketSecret(t.TempDir()); err == nil {
		t.Error("a secret of a folder without a key")
	}
}
