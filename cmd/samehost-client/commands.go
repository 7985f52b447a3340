package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/hostid"
	"samehost/internal/layout"
	"samehost/internal/osservice"
)

// logger writes to standard error; what commands other than run have to say, they say themselves.
func (p *program) logger(level slog.Level) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if p.json {
		return slog.New(slog.NewJSONHandler(p.stderr, o))
	}
	return slog.New(slog.NewTextHandler(p.stderr, o))
}

// print writes the object or the lines.
func (p *program) print(object any, lines ...string) error {
	if !p.json {
		_, err := fmt.Fprintln(p.stdout, strings.Join(lines, "\n"))
		return err
	}
	return json.NewEncoder(p.stdout).Encode(object)
}

const (
	// busyWait is how long a command waits for the data folder: another command works there, or the service is
	// just starting and cannot be asked yet.
	busyWait = 20 * time.Second
	busyLook = 100 * time.Millisecond

	// patience is how long a command may take before it says what it is waiting for.
	patience = 10 * time.Second
)

// checkIn has one check-in made: by the service if one works in the data folder, else by this process.
func (p *program) checkIn(ctx context.Context, cfg config.Client) (agent.Outcome, error) {
	o, err := p.options(cfg, p.logger(slog.LevelError))
	if err != nil {
		return agent.Outcome{}, err
	}
	hint := time.AfterFunc(patience, func() {
		p.say(fmt.Sprintf("still working: memory on the board may not answer yet (waiting for it at most restore_wait, %s), or the network is slow", cfg.RestoreWait))
	})
	defer hint.Stop()
	var out agent.Outcome
	a, err := openWhenFree(ctx, o, func() (bool, error) {
		var err error
		out, err = agent.RequestCheckIn(ctx, cfg.DataDir)
		return !errors.Is(err, agent.ErrNoService), err
	})
	if err != nil || a == nil {
		return out, err
	}
	defer a.Close()
	return a.CheckIn(ctx)
}

// openWhenFree waits a while for the data folder. Each time that it is not free, inUse is asked whether to go on
// waiting; if not, there is no Agent, and the error is inUse's.
func openWhenFree(ctx context.Context, o agent.Options, inUse func() (enough bool, err error)) (*agent.Agent, error) {
	for deadline := time.Now().Add(busyWait); ; {
		a, err := agent.Open(o)
		if !errors.Is(err, hostid.ErrLocked) {
			return a, err
		}
		enough, why := inUse()
		switch {
		case enough:
			return nil, why
		case time.Now().After(deadline):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(busyLook):
		}
	}
}

type installCmd struct {
	NoService bool `help:"Do not register the service."`
}

// Run establishes, preserves and enrols before the service is registered, so that both never work in the folder.
func (c *installCmd) Run(ctx context.Context, p *program) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	if err := tokenIsThere(ctx, cfg); err != nil {
		return err
	}
	out, err := p.checkIn(ctx, cfg)
	if err != nil {
		return err
	}
	if !c.NoService {
		if err := p.register(ctx, cfg); err != nil {
			return fmt.Errorf("host ID %s is established, but the service is not registered: %w", out.HostID, err)
		}
	}
	if err := p.print(out, fmt.Sprintf("%s %s", out.HostID, out.Origin)); err != nil {
		return err
	}
	for _, reason := range out.Reasons {
		p.say(reason)
	}
	for _, conflict := range out.Conflicts {
		p.say(conflict.Sentence)
	}
	reasons := strings.Join(out.Reasons, " ")
	if out.HardwareError != "" && !strings.Contains(reasons, out.HardwareError) {
		p.say("hardware facts of this PC cannot be read: " + out.HardwareError)
	}
	for _, s := range out.Stores {
		if s.Error != "" && !strings.Contains(reasons, s.Error) {
			p.say(fmt.Sprintf("store %s: %s: %s", s.Name, s.State, s.Error))
		}
	}
	switch {
	case out.Refused:
		p.say("the host ID is established, but this PC is not enrolled: " + out.Error)
		return errShown
	case !out.CheckedIn:
		p.say("not checked in yet, it will be tried again: " + out.Error)
	case enrolmentWaits(out):
		p.say(enrolmentPending)
	}
	return nil
}

// tokenIsThere finds a misspelt enrolment_token_file while nothing has been done. A PC that knows its manager
// needs the file no more.
func tokenIsThere(ctx context.Context, cfg config.Client) error {
	if cfg.EnrolmentTokenFile == "" {
		return nil
	}
	_, err := os.Stat(cfg.EnrolmentTokenFile)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if s, statusErr := agent.ReadStatus(ctx, cfg.DataDir); statusErr == nil && s.Manager != "" {
		return nil
	}
	return fmt.Errorf("enrolment token file %s: no such file; put there the line that `samehost-manager token create` printed", cfg.EnrolmentTokenFile)
}

type runCmd struct{}

// errServing says that the service runs already.
var errServing = errors.New("the service runs already in this data folder: stop it first, or use samehost-client checkin")

// Run is the service. Also what is wrong with the configuration is said from inside it, so that Windows hears of it
// as the service's failure and not as silence.
func (*runCmd) Run(ctx context.Context, p *program) error {
	return osservice.Run(ctx, serviceName, func(ctx context.Context) error {
		cfg, err := p.load()
		if err != nil {
			return err
		}
		log := p.logger(slog.LevelInfo)
		o, err := p.options(cfg, log)
		if err != nil {
			return err
		}
		a, err := openWhenFree(ctx, o, func() (bool, error) {
			return agent.Serving(ctx, cfg.DataDir), errServing
		})
		if err != nil {
			return err
		}
		defer a.Close()
		log.Info("started", "version", version, "data_dir", cfg.DataDir, "higher_system", cfg.HigherSystem)
		defer log.Info("stopped")
		return a.Run(ctx)
	})
}

type checkinCmd struct{}

// Run fails where the report was not taken.
func (*checkinCmd) Run(ctx context.Context, p *program) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	out, err := p.checkIn(ctx, cfg)
	if err != nil {
		return err
	}
	lines := []string{fmt.Sprintf("%s %s", out.HostID, out.Reply)}
	if enrolmentWaits(out) && !p.json {
		p.say(enrolmentPending)
	}
	for _, s := range out.Stores {
		lines = append(lines, storeLine(s))
	}
	if out.CheckedIn || p.json {
		if err := p.print(out, lines...); err != nil {
			return err
		}
	}
	if !out.CheckedIn {
		return errors.New("not checked in: " + out.Error)
	}
	return nil
}

func storeLine(s hostid.StoreState) string {
	line := fmt.Sprintf("store %s: %s", s.Name, s.State)
	if s.Error != "" {
		line += ": " + s.Error
	}
	return line
}

type statusCmd struct {
	Lang string `enum:"en,ja" default:"${lang}" placeholder:"LANG" help:"Language of what is printed: en or ja."`
}

// Run only reads.
func (c *statusCmd) Run(ctx context.Context, p *program) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	s, err := agent.ReadStatus(ctx, cfg.DataDir)
	switch {
	case errors.Is(err, hostid.ErrNotStored) && s.LastError != "":
		return fmt.Errorf("no host ID yet in %s: %s", cfg.DataDir, s.LastError)
	case errors.Is(err, hostid.ErrNotStored):
		return fmt.Errorf("no host ID yet in %s: run samehost-client install", cfg.DataDir)
	case err != nil:
		return err
	}
	s.HigherSystem = cfg.HigherSystem
	if !cfg.AMT.InUse || !cfg.AMT.FromManager {
		s.Settings = nil // they may be there from before, but nothing goes by them
	}
	return p.print(s, statusLines(s, c.Lang)...)
}

// labels is the columns of what stands before each value.
const labels = 15

// statusLines tells the status in a language, "en" or "ja", broken for a screen. What conflicts and errors say of themselves is English.
func statusLines(s agent.Status, lang string) []string {
	in := inLanguage(lang)
	var lines []string
	row := func(label, text string) {
		lines = append(lines, layout.Hanging(layout.Padded(label, labels), labels, text, layout.Screen))
	}
	at := func(t time.Time) string { return t.Local().Format(time.RFC3339) }
	row(in("host ID:"), s.HostID.String())
	row(in("origin:"), string(s.Origin))
	if s.Provisional {
		row(in("provisional:"), in("full service, but the host ID is not safe yet: it is not stored, or a conflict waits"))
	}
	if s.Pending {
		row(in("pending:"), in("the board sits in another case; an operator at the manager decides"))
	}
	for _, store := range s.Stores {
		row(in("store %s:", store.Name), string(store.State))
		if store.Error != "" {
			row("", store.Error)
		}
	}
	if s.HardwareError != "" {
		row(in("hardware:"), in("facts cannot be read: %s", s.HardwareError))
	}
	if s.Settings != nil {
		text := in("version %d of the manager, by %s, %s", s.Settings.Version, s.Settings.Came, at(s.Settings.Since))
		if s.Settings.Version == 0 {
			text = in("the manager took them back, %s", at(s.Settings.Since))
		}
		row(in("AMT settings:"), text)
	}
	none := func(text string) string {
		if text == "" {
			return in("none")
		}
		return text
	}
	row(in("higher system:"), none(s.HigherSystem))
	last := in("never")
	if s.LastCheckIn != nil {
		last = fmt.Sprintf("%s (%s)", at(*s.LastCheckIn), in(replyWords(s.LastReply)))
	}
	row(in("last check-in:"), last)
	if s.LastReply == checkin.Deferred {
		accepted := in("never")
		if s.LastAccepted != nil {
			accepted = at(*s.LastAccepted)
		}
		row(in("last accepted:"), accepted)
		if !s.Enrolled {
			row(in("enrolment:"), in("pending: %s", in(enrolmentPending)))
		}
	}
	if s.LastError != "" {
		row(in("last error:"), s.LastError)
	}
	for _, r := range s.Reasons {
		row(in("why generated:"), r)
	}
	for _, c := range s.Conflicts {
		row(in("conflict:"), in(conflictWords(c.Kind))+": "+c.Sentence)
	}
	for _, o := range s.OpenOrders {
		row(in("open order:"), in("%s waits: %s", in(orderWords(o.Kind)), none(o.Why)))
	}
	for _, o := range s.FailedOrders {
		row(in("failed order:"), in(orderWords(o.Kind))+": "+o.Why)
	}
	for _, o := range s.DoneOrders {
		row(in("order done:"), at(o.Time)+" "+in(orderWords(o.Kind)))
	}
	return lines
}

// enrolmentPending is what a PC is told whose first reports no manager has seen yet.
const enrolmentPending = "a relay has the report in its keeping, but the manager has not accepted this PC yet; that follows once the relay reaches it"

// enrolmentWaits says that the manager has yet to hear of this PC. Where it did accept the report, it may have told the PC to
// take a new host ID, which the next report enrols.
func enrolmentWaits(out agent.Outcome) bool {
	return out.CheckedIn && !out.Enrolled && out.Reply == checkin.Deferred
}

// replyWords is what became of a report, in plain words.
func replyWords(status checkin.ReplyStatus) string {
	if status == checkin.Deferred {
		return "stored at a relay, not accepted yet"
	}
	return string(status)
}

// conflictWords is the kind of a conflict in plain words.
func conflictWords(kind hostid.ConflictKind) string {
	switch kind {
	case hostid.MemoryForeign:
		return "memory of another board"
	case hostid.OtherID:
		return "another host ID in memory"
	case hostid.Moved:
		return "disk moved or board replaced"
	case hostid.OtherCase:
		return "board in another case"
	case hostid.Twin:
		return "one host ID with two keys"
	case hostid.StoresDiffer:
		return "stores with different host IDs"
	}
	return string(kind)
}

// orderWords is what the manager ordered, in plain words.
func orderWords(kind checkin.OrderKind) string {
	switch kind {
	case checkin.OrderNewID:
		return "take a new host ID (new-id)"
	case checkin.OrderTakeBack:
		return "take the former host ID back (take-back)"
	case checkin.OrderRebind:
		return "keep the host ID on this hardware (rebind)"
	case checkin.OrderUseNonvolatile:
		return "take the host ID from nonvolatile memory (use-nonvolatile)"
	case checkin.OrderNewEpoch:
		return "begin a new chain of reports (new-epoch)"
	case checkin.OrderFullReport:
		return "send a full report (full-report)"
	}
	return string(kind)
}

type uninstallCmd struct {
	Purge     bool `help:"Also remove the host ID management file and local state."`
	NoService bool `help:"Leave the service's registration alone."`
	EraseNVM  bool `name:"erase-nvm" help:"Also erase the host ID in nonvolatile memory: no way back."`
}

type uninstalled struct {
	Service string   `json:"service"` // removed (or was never registered), kept
	Purged  bool     `json:"purged"`  // the host ID management file and all local state
	Erased  []string `json:"erased"`  // stores
}

// Run erases before it purges: should the one fail, the file still has the host ID.
func (c *uninstallCmd) Run(ctx context.Context, p *program) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	var stores []hostid.NamedStore
	if c.EraseNVM {
		o, err := p.options(cfg, p.logger(slog.LevelError))
		if err != nil {
			return err
		}
		stores = o.Stores
	}
	done := uninstalled{Service: "kept", Erased: []string{}}
	if !c.NoService {
		if err := p.unregister(ctx, cfg); err != nil {
			return fmt.Errorf("nothing is removed: %w", err)
		}
		done.Service = "removed"
	}
	lines := []string{"service: " + done.Service}
	for _, s := range stores {
		remover, ok := s.Store.(interface{ Remove(context.Context) error })
		if !ok {
			continue
		}
		if err := remover.Remove(ctx); err != nil {
			return fmt.Errorf("store %s is not erased, and the host ID management file is kept: %w", s.Name, err)
		}
		done.Erased = append(done.Erased, s.Name)
		lines = append(lines, "store "+s.Name+": erased")
	}
	if c.EraseNVM && len(stores) == 0 {
		lines = append(lines, "stores: none is configured, nothing erased")
	}
	if c.Purge {
		if err := agent.Purge(cfg.DataDir); err != nil {
			return err
		}
		done.Purged = true
		lines = append(lines, "host ID management file and local state: removed")
	} else {
		lines = append(lines, "host ID management file: kept in "+cfg.DataDir)
	}
	return p.print(done, lines...)
}
