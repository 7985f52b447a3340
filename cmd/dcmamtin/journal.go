package main

import (
	"errors"
	"path/filepath"
	"slices"
	"time"

	"samehost/internal/amtinit"
)

// tally counts what became of the hosts of a run, what earlier runs finished among them: of several outcomes of a host the
// last counts. It keeps one key per host.
type tally struct {
	reasons []amtinit.Reason
	last    map[amtinit.HostKey]verdict
	sum     amtinit.Summary
}

// verdict is an outcome in one byte: further ones are the reasons in their order.
type verdict uint8

const (
	initialized verdict = iota
	initializedAlready
	firstReason
)

func newTally() *tally {
	return &tally{
		reasons: amtinit.Reasons(),
		last:    make(map[amtinit.HostKey]verdict),
		sum:     amtinit.Summary{Reasons: make(map[amtinit.Code]int), Hosts: make(map[amtinit.Code][]string)},
	}
}

// verdict judges an outcome. A reason that only a newer release knows is one this release does not know.
func (t *tally) verdict(code amtinit.Code, already bool) verdict {
	if code == "" && already {
		return initializedAlready
	}
	if code == "" {
		return initialized
	}
	at := func(c amtinit.Code) int {
		return slices.IndexFunc(t.reasons, func(r amtinit.Reason) bool { return r.Code == c })
	}
	i := at(code)
	if i < 0 {
		i = at(amtinit.OtherError)
	}
	return firstReason + verdict(i)
}

// record counts a host's newest outcome in place of the one before.
func (t *tally) record(key amtinit.HostKey, name string, v verdict) {
	if before, ok := t.last[key]; ok {
		t.count(before, name, -1)
	}
	t.last[key] = v
	t.count(v, name, 1)
}

func (t *tally) count(v verdict, name string, by int) {
	if v < firstReason {
		t.sum.OK += by
		if v == initializedAlready {
			t.sum.Already += by
		}
		return
	}
	code := t.reasons[v-firstReason].Code
	if code == amtinit.NotTried {
		t.sum.NotTried += by
	} else {
		t.sum.Failed += by
	}
	if t.sum.Reasons[code] += by; t.sum.Reasons[code] == 0 {
		delete(t.sum.Reasons, code)
	}
	hosts := t.sum.Hosts[code]
	if by < 0 {
		hosts = slices.DeleteFunc(hosts, func(h string) bool { return h == name })
	} else if len(hosts) < amtinit.FirstHosts {
		hosts = append(hosts, name)
	}
	if t.sum.Hosts[code] = hosts; len(hosts) == 0 {
		delete(t.sum.Hosts, code)
	}
}

// lacksHosts reports a reason that fewer hosts are named for than it has: those that were named fail no longer, and of the
// others only the keys are kept.
func (t *tally) lacksHosts() bool {
	for code, n := range t.sum.Reasons {
		if len(t.sum.Hosts[code]) < min(n, amtinit.FirstHosts) {
			return true
		}
	}
	return false
}

// name names a host for the reason that was its last, if that is this one and lacks hosts.
func (t *tally) name(key amtinit.HostKey, name string, v verdict) {
	if v < firstReason || t.last[key] != v {
		return
	}
	code := t.reasons[v-firstReason].Code
	if hosts := t.sum.Hosts[code]; len(hosts) < amtinit.FirstHosts && !slices.Contains(hosts, name) {
		t.sum.Hosts[code] = append(hosts, name)
	}
}

// failed reports a host whose last outcome is a failure; finished one that has an outcome at all.
func (t *tally) failed(key amtinit.HostKey) bool { return t.last[key] >= firstReason }

func (t *tally) finished(key amtinit.HostKey) bool {
	_, ok := t.last[key]
	return ok
}

// openJournal takes the journals of the source and finds out what earlier runs finished, if the command line wants that. A
// dry run holds nothing and writes nothing.
func (c *command) openJournal(dataDir string) *problem {
	dir := filepath.Join(dataDir, amtinit.JournalFolder)
	if !c.dryRun {
		held, err := amtinit.HoldJournals(dir, c.list.source)
		switch {
		case errors.Is(err, amtinit.ErrJournalBusy):
			return newProblem(exitOther, textBusy, err, shellLine(c.goOn()))
		case err != nil:
			return newProblem(exitOther, textFolder, err, c.configFile)
		}
		c.journals = held
	}
	if c.resume || c.retryFailed {
		if p := c.loadJournal(dir); p != nil {
			return p
		}
	}
	c.planned = len(c.list.pending)
	if c.dryRun || c.past != nil && c.past.End != nil && c.planned == 0 {
		return nil
	}
	run := amtinit.JournalRun{
		Program:    "dcmamtin " + version,
		Digest:     c.list.digest,
		Targets:    c.list.count,
		Mode:       c.mode(),
		Enterprise: c.options.Enterprise,
	}
	var err error
	if c.past != nil {
		c.journal, err = c.journals.Continue(c.past, run)
	} else {
		c.journal, err = c.journals.Begin(run)
	}
	if err != nil {
		return newProblem(exitOther, textFolder, err, c.configFile)
	}
	return nil
}

// loadJournal counts what earlier runs over the source finished, and leaves pending what is left for this one.
func (c *command) loadJournal(dir string) *problem {
	anew := shellLine(c.again(""))
	past, err := amtinit.LoadJournal(dir, c.list.source, func(t *amtinit.JournalTarget) {
		if _, listed := c.list.pending[t.Key()]; listed {
			c.tally.record(t.Key(), t.Name(), c.tally.verdict(t.Reason, t.Already || c.dryRun)) // to a dry run it is initialized already
		}
	})
	switch {
	case errors.Is(err, amtinit.ErrNoJournal) && c.retryFailed:
		return newProblem(exitOther, textNoJournal, c.list.source, dir, anew)
	case errors.Is(err, amtinit.ErrNoJournal):
		c.say(newProblem(exitOK, textFromStart, c.list.source, dir).text.In(c.lang))
		return nil
	case errors.Is(err, amtinit.ErrJournalFormat):
		return newProblem(exitOther, textNewJournal, err, anew)
	case err != nil:
		return newProblem(exitOther, textBadJournal, err, anew)
	}
	c.past = past
	began := "-"
	if past.Run != nil {
		began = past.Run.Started.Local().Format(time.DateTime)
	}
	if c.resume && past.Run != nil && past.Run.Digest != c.list.digest {
		return newProblem(exitFile, textOtherFile, c.list.source, began, anew)
	}
	for key := range c.list.pending {
		if c.resume && c.tally.finished(key) || c.retryFailed && !c.tally.failed(key) {
			delete(c.list.pending, key)
		}
	}
	if past.Unreadable > 0 {
		c.say(newProblem(exitOK, textUnreadable, past.Path, past.Unreadable).text.In(c.lang))
	}
	remark := newProblem(exitOK, textGoingOn, began, c.list.count-len(c.list.pending), c.list.count)
	if c.retryFailed {
		remark = newProblem(exitOK, textRetrying, began, len(c.list.pending), c.list.count)
	}
	c.say(remark.text.In(c.lang))
	return nil
}

// nameHosts finds hosts for the reasons that lack them, in the journal: it has the outcomes of this run, too. A journal that
// cannot be read any more costs names, and no more.
func (c *command) nameHosts() {
	if !c.tally.lacksHosts() || c.past == nil {
		return
	}
	amtinit.LoadJournal(filepath.Dir(c.past.Path), c.list.source, func(t *amtinit.JournalTarget) {
		c.tally.name(t.Key(), t.Name(), c.tally.verdict(t.Reason, t.Already))
	})
}

// shellLine is a command to type: it is shown whole.
type shellLine string

// goOn is the command that goes on with this run when it was broken off.
func (c *command) goOn() string {
	option := "--resume"
	if c.retryFailed {
		option = "--retry-failed"
	}
	switch {
	case c.dryRun && (c.resume || c.retryFailed):
		return c.again(option) + " --dry-run"
	case c.dryRun:
		return c.again("--dry-run")
	}
	return c.again(option)
}

// finishRest is the command that does what no run has finished yet, after a run that only tried again what failed.
func (c *command) finishRest() string {
	option := ""
	if c.journal != nil || c.past == nil || c.past.Run == nil || c.past.Run.Digest == c.list.digest {
		option = "--resume"
	}
	return c.again(option)
}
