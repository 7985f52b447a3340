package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"samehost/test/play"
)

// managersFor is how long managers are killed for.
var managersFor = flag.Duration("managers", 30*time.Second, "how long TestManagersOnOneDatabase kills managers")

// Two managers serve one PostgreSQL database, and every few seconds one of them is killed under load. Clients see retries only;
// every check-in that was acknowledged is in the database, once, in its order; no asset is doubled.
func TestManagersOnOneDatabase(t *testing.T) {
	t.Parallel()
	const (
		clients   = 300
		rate      = 100
		killEvery = 3 * time.Second
		downFor   = time.Second
	)
	stage := &play.Stage{Dir: t.TempDir(), Bin: bin, Net: 9 + int(stages.Add(1))}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	database, err := stage.StartPostgres()
	if errors.Is(err, play.ErrNoPostgres) && os.Getenv("SAMEHOST_SKIP_POSTGRES") != "" {
		t.Skip("NOT TESTED: PostgreSQL is not installed and SAMEHOST_SKIP_POSTGRES is set")
	}
	must(err)
	t.Cleanup(func() {
		if err := errors.Join(stage.Close(), database.Close()); err != nil {
			t.Error(err)
		}
	})
	dsn, err := database.Make("managers")
	must(err)
	first, err := stage.InitManager("--database", dsn)
	must(err)
	second, err := first.Join()
	must(err)
	managers := []*play.Manager{first, second}
	for _, m := range managers {
		must(m.Serve())
	}

	ledger := filepath.Join(stage.Dir, "ledger")
	fleet := exec.Command(filepath.Join(bin, "fleetsim"), "--higher-system", "https://"+first.Listen, "--higher-system", "https://"+second.Listen,
		"--token-file", first.TokenFile, "--ca-file", first.CAFile, "--clients", strconv.Itoa(clients), "--rate", strconv.Itoa(rate),
		"--duration", managersFor.String(), "--connections", "16", "--retry", "200ms", "--drain", "2m", "--ledger", ledger, "--json")
	var out, problems bytes.Buffer
	fleet.Stdout, fleet.Stderr = &out, &problems
	must(fleet.Start())
	ended := make(chan error, 1)
	go func() { ended <- fleet.Wait() }()
	kills := 0
	for over := false; !over; {
		select {
		case err = <-ended:
			over = true
			continue
		case <-time.After(killEvery):
		}
		m := managers[kills%2]
		m.Kill()
		kills++
		select {
		case err = <-ended:
			over = true
		case <-time.After(downFor):
		}
		must(m.Serve())
	}
	if err != nil {
		t.Fatalf("fleetsim: %v: not every check-in was answered, and rightly\n%s%s", err, &out, &problems)
	}
	type phase struct {
		Offered, Accepted, Deferred, Refused, Unanswered, Retries int
		Errors                                                    map[string]int
	}
	var told struct {
		Enrolment phase `json:"enrolment"`
		CheckIns  phase `json:"check_ins"`
	}
	must(json.Unmarshal(out.Bytes(), &told))
	t.Logf("%d kills; %d check-ins acknowledged, %d retries: %v and %v", kills, told.Enrolment.Accepted+told.CheckIns.Accepted,
		told.Enrolment.Retries+told.CheckIns.Retries, told.Enrolment.Errors, told.CheckIns.Errors)
	if least := int(*managersFor/(killEvery+downFor)) / 2; kills < max(1, least) {
		t.Errorf("%d kills, want %d at least", kills, least)
	}
	if told.CheckIns.Retries == 0 {
		t.Error("no retries: the killing was not felt, so this shows nothing")
	}
	if told.Enrolment.Accepted != clients || told.CheckIns.Accepted != told.CheckIns.Offered || told.CheckIns.Deferred != 0 {
		t.Errorf("%d enrolled of %d; %d accepted of %d", told.Enrolment.Accepted, clients, told.CheckIns.Accepted, told.CheckIns.Offered)
	}

	// What was acknowledged is what is in the database: a report in full, or its digest in the trail of a host at rest.
	acknowledged := make(map[string]bool)
	b, err := os.ReadFile(ledger)
	must(err)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "accepted" || len(f[1]) != 64 || acknowledged[f[1][:32]] {
			t.Fatalf("ledger: %q", line)
		}
		acknowledged[f[1][:32]] = true
	}
	if want := told.Enrolment.Accepted + told.CheckIns.Accepted; len(acknowledged) != want {
		t.Errorf("the ledger has %d check-ins, want %d", len(acknowledged), want)
	}
	kept := make(map[string]bool)
	rows, err := database.Query("managers", `SELECT substr(digest, 1, 32) FROM reports UNION ALL SELECT substr(tip, 1, 32) FROM resting UNION ALL
		SELECT encode(digests, 'hex') FROM trails UNION ALL SELECT encode(recent, 'hex') FROM resting`)
	must(err)
	for line := range strings.Lines(rows) {
		for line = strings.TrimSpace(line); len(line) >= 32; line = line[32:] {
			kept[line[:32]] = true
		}
	}
	lost, more := 0, 0
	for d := range acknowledged {
		if !kept[d] {
			lost++
		}
	}
	for d := range kept {
		if !acknowledged[d] {
			more++
		}
	}
	if lost > 0 || more > 0 {
		t.Errorf("%d acknowledged check-ins are not in the database, and %d are that were never acknowledged", lost, more)
	}

	assets, err := first.Assets()
	must(err)
	hosts := make(map[string]bool)
	for _, a := range assets {
		hosts[a.HostID] = true
		if len(a.HostIDs) != 1 || a.Conflicts != 0 {
			t.Errorf("asset %s has %d host IDs and %d conflicts", a.HostID, len(a.HostIDs), a.Conflicts)
		}
	}
	if len(assets) != clients || len(hosts) != clients {
		t.Errorf("%d assets with %d host IDs, want %d", len(assets), len(hosts), clients)
	}
	odd, err := database.Query("managers", `SELECT kind, COUNT(*) FROM history WHERE kind IN ('gap', 'fork') GROUP BY kind`)
	must(err)
	if odd != "" {
		t.Errorf("chains are broken: %s", odd)
	}
}
