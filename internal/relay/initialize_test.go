package relay

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amtinit"
	"samehost/internal/amtsim"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// partOf is work for n PCs from an address on, the first with that number.
func partOf(first string, n, number int) checkin.Work {
	var part amtinit.PartWork
	a := netip.MustParseAddr(first)
	for i := range n {
		part.Targets = append(part.Targets, amtinit.PartTarget{Number: number + i, Host: fmt.Sprintf("pc%d", number+i), Address: a.String()})
		a = a.Next()
	}
	body, err := json.Marshal(part)
	if err != nil {
		panic(err)
	}
	return checkin.Work{ID: "initialize-1-1-1", Kind: InitializeKind, Body: body}
}

func useSimulator() (amtinit.Options, error) {
	return amtinit.Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, Port: 16992, AddressFirst: true}, nil
}

// A relay that is ended in the middle goes on with the PCs that it has not done, and says of each what became of it.
func TestInitializeGoesOn(t *testing.T) {
	t.Parallel()
	const first, n = "127.159.1.1", 60
	fleet, err := amtsim.StartFleet(amtsim.FleetOptions{Devices: n, Network: netip.MustParseAddr(first), Port: 16992,
		Device: amtsim.Options{Latency: 5 * time.Millisecond}, Faults: map[int]amtsim.Faults{20: {Refuse: true}, 40: {Password: "other"}}})
	noError(t, err)
	defer fleet.Close()
	dir := t.TempDir()
	noError(t, os.MkdirAll(filepath.Join(dir, workFolder), 0o700))
	w := partOf(first, n, 101)
	file := filepath.Join(dir, workFolder, w.ID+workSuffix)
	noError(t, os.WriteFile(file, nil, 0o600))

	outcome := make(map[int]string)
	var last amtinit.PartProgress
	ended := false
	attempt := func(upTo int) (said int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		i := &Initializer{DataDir: dir, AMT: func() (amtinit.Options, error) {
			o, err := useSimulator()
			o.Parallel = 4
			return o, err
		}, Log: slog.New(slog.DiscardHandler)}
		seen := make(map[int]bool)
		err := i.Do(ctx, w, nil, func(body json.RawMessage, done bool) error {
			p, err := amtinit.ParsePartProgress(body)
			noError(t, err)
			for _, r := range p.Results {
				if seen[r.Number] {
					t.Errorf("%d is said twice", r.Number)
				}
				seen[r.Number] = true
				if before, known := outcome[r.Number]; known && before != string(r.Reason) {
					t.Errorf("%d: %q, before it was %q", r.Number, r.Reason, before)
				}
				outcome[r.Number] = string(r.Reason)
			}
			if ended, last = done, p; !done && upTo > 0 && len(seen) >= upTo {
				cancel()
			}
			return nil
		})
		if upTo > 0 && !errors.Is(err, context.Canceled) || upTo == 0 && err != nil {
			t.Fatal(err)
		}
		return len(seen)
	}
	attempt(10)
	if ended {
		t.Fatal("ended before it was done")
	}
	if again := attempt(30); again < 10 {
		t.Errorf("%d results after the first restart", again)
	}
	if said := attempt(0); said != n || !ended || last.Reason != "" || len(last.Results) != 0 {
		t.Errorf("%d of %d results in the end, ended %v, last %+v", said, n, ended, last)
	}
	for i, d := range fleet.Devices {
		want, number := "", 101+i
		switch i + 1 {
		case 20:
			want = "nothing-answers"
		case 40:
			want = "log-on-refused"
		}
		if got, known := outcome[number]; !known || got != want {
			t.Errorf("%d: %q (%v), want %q", number, got, known, want)
		}
		if added := d.Snapshot().Calls["AddStorageEaclEntry"]; want == "" && added != 1 {
			t.Errorf("device %d was added to %d times", i+1, added)
		}
	}

	// What is done is forgotten with its work.
	noError(t, os.Remove(file))
	w.ID = "initialize-1-1-2"
	i := &Initializer{DataDir: dir, AMT: func() (amtinit.Options, error) { return amtinit.Options{}, errors.New("no password") }, Log: slog.New(slog.DiscardHandler)}
	noError(t, i.Do(t.Context(), w, nil, func(body json.RawMessage, done bool) error {
		p, err := amtinit.ParsePartProgress(body)
		noError(t, err)
		if p.Machine = ""; !done || cmp.Diff(amtinit.PartProgress{Reason: amtinit.RelayWithout, Detail: "no password"}, p) != "" {
			t.Errorf("without a password: %+v, done %v", p, done)
		}
		return nil
	}))
	left, err := os.ReadDir(filepath.Join(dir, workFolder))
	noError(t, err)
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Whatever is lost on the way and whenever the relay is ended, each result of dcmamtin arrives once and in order.
func TestJournalsAreHandedOnOnce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		dice := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		seed32 := hostid.NewSeed()
		id := hostid.NewID()
		var want, got []string
		taken := make(map[string]uint64)
		send := func(_ context.Context, jws string) error {
			if dice.IntN(4) == 0 {
				return checkin.ErrUnavailable
			}
			p, key, err := checkin.VerifyProgress(jws)
			noError(t, err)
			if !key.Equal(seed32.SigningKey().Public().(ed25519.PublicKey)) || p.From != id {
				t.Fatal("signed by somebody else")
			}
			switch at := taken[p.Work]; {
			case p.Sequence <= at:
				return nil
			case p.Sequence != at+1:
				return &checkin.Refusal{Code: checkin.UnknownWork}
			}
			taken[p.Work] = p.Sequence
			part, err := amtinit.ParseJournalPart(p.Body)
			noError(t, err)
			source := ""
			for _, l := range part.Lines {
				if l.Run != nil {
					source = l.Run.Source
				} else {
					got = append(got, source+" "+l.Target.Host)
				}
			}
			if dice.IntN(4) == 0 {
				return checkin.ErrUnavailable // the answer was lost
			}
			return nil
		}
		start := func() *Journals {
			return &Journals{DataDir: dir, HostID: id, Key: seed32.SigningKey(), Send: send, Log: slog.New(slog.DiscardHandler)}
		}
		j := start()
		folder := filepath.Join(dir, amtinit.JournalFolder)
		for range 16 {
			switch dice.IntN(4) {
			case 0: // dcmamtin runs
				source := fmt.Sprintf("host%d", dice.IntN(3))
				held, err := amtinit.HoldJournals(folder, source)
				noError(t, err)
				journal, err := held.Begin(amtinit.JournalRun{Program: "test"})
				noError(t, err)
				journal.Start(func(amtinit.Outcome) {}, func(error) {})
				for n := range dice.IntN(2000) {
					name := fmt.Sprintf("pc%d-%d", len(want), n)
					journal.Finish(amtinit.Outcome{Target: amtinit.Target{Host: name}})
					want = append(want, source+" "+name)
				}
				noError(t, errors.Join(journal.Stop(), journal.Close(), held.Close()))
			case 1:
				j = start() // killed, and started again
			default:
				j.Once(t.Context())
			}
		}
		for j.Once(t.Context()) != nil {
		}
		bySource := func(a, b string) int { return strings.Compare(a[:len("host0")], b[:len("host0")]) } // one after the other: their order is nobody's business
		slices.SortStableFunc(want, bySource)
		slices.SortStableFunc(got, bySource)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d: %d results, %d arrived (-want +got):\n%.2000s", seed, len(want), len(got), d)
		}
		if len(want) > 0 { // the manager's database is put back
			clear(taken)
			held, err := amtinit.HoldJournals(folder, "more")
			noError(t, err)
			journal, err := held.Begin(amtinit.JournalRun{Program: "test"})
			noError(t, err)
			journal.Start(func(amtinit.Outcome) {}, func(error) {})
			journal.Finish(amtinit.Outcome{Target: amtinit.Target{Host: "last"}})
			noError(t, errors.Join(journal.Stop(), journal.Close(), held.Close()))
			got = nil
			for j.Once(t.Context()) != nil {
			}
			if len(got) != len(want)+1 {
				t.Fatalf("seed %d: %d results after the manager lost all of %d", seed, len(got), len(want)+1)
			}
		}
	}
}

// Of work that is called off the PCs in flight are finished and no others begun with, and what was done is handed on with what
// dcmamtin did, also by a relay that is ended in between.
func TestInitializeIsCalledOff(t *testing.T) {
	t.Parallel()
	const first, n = "127.159.2.1", 60
	for _, ended := range []bool{false, true} {
		t.Run(fmt.Sprintf("relay ended %v", ended), func(t *testing.T) {
			fleet, err := amtsim.StartFleet(amtsim.FleetOptions{Devices: n, Network: netip.MustParseAddr(first), Port: 16992, Device: amtsim.Options{Latency: 10 * time.Millisecond},
				Faults: map[int]amtsim.Faults{3: {LatencyMS: 100}}})
			noError(t, err)
			defer fleet.Close()
			who, dir := newIdentity(), t.TempDir()
			m := newWorkManager(t, who.record.HostID)
			i := &Initializer{DataDir: dir, AMT: useSimulator, Log: quiet()}
			work := partOf(first, n, 1)
			work.Body = json.RawMessage(strings.Replace(string(work.Body), "{", `{"parallel": 4, `, 1))
			work.To, work.Made = who.record.HostID, time.Now()
			jws, err := checkin.SignWork(work, managerKey)
			noError(t, err)
			m.mu.Lock()
			m.open[work.ID] = jws
			m.mu.Unlock()
			w, stop := running(t, dir, who, m, map[string]Do{InitializeKind: i.Do})
			defer func() { stop() }()
			told := make(map[string]bool)
			eventually(t, "it has told of some", func() bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				for _, p := range m.got {
					part, err := amtinit.ParsePartProgress(p.Body)
					noError(t, err)
					for _, r := range part.Results {
						told[r.Host] = true
					}
				}
				if len(told) < 4 {
					return false
				}
				m.gone[work.ID] = true
				delete(m.open, work.ID)
				return true
			})
			folder := filepath.Join(dir, amtinit.JournalFolder)
			if ended {
				eventually(t, "it is dropped", func() bool { open, _ := w.state(); return open == 0 })
				stop()
				w, stop = running(t, dir, who, m, map[string]Do{InitializeKind: i.Do})
			}
			var files []amtinit.JournalFile
			eventually(t, "its journal is among dcmamtin's", func() bool {
				files, err = amtinit.ListJournals(folder)
				noError(t, err)
				return len(files) == 1
			})
			lines, _, err := amtinit.ReadJournal(files[0].Path, 0)
			noError(t, err)
			done := make(map[string]bool)
			for _, l := range lines {
				if l.Target != nil {
					done[l.Target.Host] = l.Target.OK
				}
			}
			if len(done) < len(told) || len(done) > n/2 {
				t.Errorf("%d done of %d, and %d were told of", len(done), n, len(told))
			}
			if !ended && !done["pc3"] {
				t.Error("pc3 was in flight, and was broken off")
			}
			for at, d := range fleet.Devices {
				host, added := fmt.Sprintf("pc%d", at+1), d.Snapshot().Calls["AddStorageFpaclEntry"]
				if told[host] && !done[host] || done[host] && added != 1 || !ended && !done[host] && added != 0 {
					t.Errorf("%s: told %v, done %v, added %d times", host, told[host], done[host], added)
				}
			}
			eventually(t, "nothing of it is left", func() bool {
				left, err := filepath.Glob(filepath.Join(dir, workFolder, "*"))
				noError(t, err)
				return len(slices.DeleteFunc(left, isEnded)) == 0
			})
		})
	}
}

// A journal that the manager has goes after a month, but for the newest of its source; that of work that was called off goes too.
func TestJournalsThatTheManagerHasGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder := filepath.Join(dir, amtinit.JournalFolder)
	up := true
	j := &Journals{DataDir: dir, HostID: hostid.NewID(), Key: hostid.NewSeed().SigningKey(), Log: slog.New(slog.DiscardHandler),
		Send: func(context.Context, string) error {
			if !up {
				return checkin.ErrUnavailable
			}
			return nil
		}}
	write := func(source, program string) (path string) {
		t.Helper()
		held, err := amtinit.HoldJournals(folder, source)
		noError(t, err)
		journal, err := held.Begin(amtinit.JournalRun{Program: program})
		noError(t, err)
		journal.Start(func(amtinit.Outcome) {}, func(error) {})
		journal.Finish(amtinit.Outcome{Target: amtinit.Target{Host: "pc"}})
		noError(t, errors.Join(journal.Stop(), journal.Close(), held.Close()))
		files, err := amtinit.ListJournals(folder)
		noError(t, err)
		for _, f := range files {
			if f.Key == amtinit.JournalKey(source) {
				path = f.Path
			}
		}
		return path
	}
	left := func(when string, want ...string) {
		t.Helper()
		files, err := amtinit.ListJournals(folder)
		noError(t, err)
		got := []string{}
		for _, f := range files {
			got = append(got, fmt.Sprint(strings.Split(f.Key, "-")[0], f.N))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	first := write("alpha", "dcmamtin")
	write("alpha", "dcmamtin")
	write("initialize-7-12-1", journalProgram)
	noError(t, j.Once(t.Context()))
	up = false
	write("alpha", "dcmamtin") // the manager does not have the newest
	if err := j.Once(t.Context()); err == nil {
		t.Fatal("sent without a way up")
	}
	over := time.Now().Add(keepJournal + time.Minute)
	noError(t, j.tidy(time.Now().Add(keepJournal-time.Minute)))
	left("before the time", "alpha1", "alpha2", "alpha3", "initialize1")
	f, err := os.OpenFile(first, os.O_WRONLY|os.O_APPEND, 0)
	noError(t, err)
	_, err = f.WriteString("{}\n") // something that the manager has not
	noError(t, errors.Join(err, f.Close()))
	held, err := amtinit.HoldJournals(folder, "alpha")
	noError(t, err)
	noError(t, j.tidy(over))
	left("while a run holds them", "alpha1", "alpha2", "alpha3")
	noError(t, held.Close())
	noError(t, j.tidy(over))
	left("with more to hand on", "alpha1", "alpha3")
	up = true
	noError(t, j.Once(t.Context()))
	noError(t, j.tidy(over))
	left("at last", "alpha3")
	noError(t, j.Once(t.Context())) // and what went is forgotten
	b, err := os.ReadFile(filepath.Join(dir, journalsFile))
	noError(t, err)
	if n := strings.Count(string(b), ".journal"); n != 1 {
		t.Errorf("%d journals are remembered, want 1: %s", n, b)
	}
}
