package manager

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/registry"
	"samehost/internal/sysconfig"
)

// InitializeKind is the kind of work that has a relay initialize PCs.
const InitializeKind = "initialize"

const (
	// MaxRunFile bounds a system configuration information file that comes with a request, in bytes: some hundred thousand lines.
	MaxRunFile = 16 << 20
	// watchEvery is how often others' changes of a run are looked for; this process's own are seen at once.
	watchEvery = time.Second
	// maxWatch bounds how long one request waits for a run to change.
	maxWatch = 30 * time.Second
	// rerouteEvery is how often it is asked whether PCs that wait for their relay are on another route by now, and whether one that
	// works is a relay still.
	rerouteEvery = 15 * time.Second
	// saveTimeout bounds how long results are written that came while the program ends.
	saveTimeout = 10 * time.Second
	// giveWay is how long nothing is posted to a relay that has as much to do as it may have.
	giveWay = 10 * time.Second
)

// runner does the parts of runs.
type runner struct {
	reg     *registry.Registry
	amt     func() (amtinit.Options, error)
	machine string
	reroute time.Duration // rerouteEvery
	log     *slog.Logger
}

// startJobs works on runs until what it returns is closed. alone as in registry.StartJobs.
func startJobs(ctx context.Context, reg *registry.Registry, o Options) (*registry.Jobs, error) {
	r := &runner{reg: reg, amt: o.AMT, reroute: rerouteEvery, log: o.Log}
	r.machine, _ = os.Hostname() // is only shown
	return reg.StartJobs(ctx, strings.HasPrefix(o.Database, "sqlite:"), o.Log, r.work)
}

func (r *runner) work(ctx context.Context, p registry.RunPart) error {
	if p.Relay.IsZero() {
		return r.own(ctx, p)
	}
	return r.through(ctx, p)
}

// own does the part of a run that no relay does.
func (r *runner) own(ctx context.Context, p registry.RunPart) error {
	if p.Cancelled {
		return r.leave(ctx, p, amtinit.Cancelled, "")
	}
	if r.amt == nil {
		return r.leave(ctx, p, amtinit.ManagerWithout, "")
	}
	o, err := r.amt()
	if err != nil {
		return r.leave(ctx, p, amtinit.ManagerWithout, err.Error())
	}
	o.DryRun, o.Parallel = p.DryRun, p.Parallel
	if err := r.reg.BeginPart(ctx, p); err != nil {
		return err
	}
	began := time.Now()

	running, stop := context.WithCancel(ctx)
	defer stop()
	var noMore error // why no further PC is begun; for the goroutine of the engine
	look := time.Time{}
	targets := func(yield func(amtinit.Target) bool) {
		for t, err := range r.open(running, p) {
			if err == nil && time.Since(look) >= watchEvery {
				var is registry.RunPart
				if is, err = r.reg.Part(running, p); err == nil && is.Cancelled {
					err = errCancelled
				}
				look = time.Now()
			}
			if noMore = err; err != nil {
				return
			}
			if !yield(t) {
				return
			}
		}
	}
	batch := amtinit.NewBatch(func(lines []amtinit.JournalTarget) error {
		saving, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
		defer cancel()
		return r.reg.PartProgress(saving, p, registry.PartProgress{Results: r.results(lines, r.machine)})
	}, stop)
	sum, err := amtinit.Run(running, o, targets, func(out amtinit.Outcome) {
		if out.Code != amtinit.Interrupted {
			batch.Add(out.Line())
		}
	})
	err = errors.Join(batch.Close(), err)
	switch {
	case err != nil:
		return err
	case errors.Is(noMore, errCancelled):
		return r.leave(ctx, p, amtinit.Cancelled, "")
	case noMore != nil:
		return noMore
	case ctx.Err() != nil:
		return ctx.Err()
	}
	r.log.Info("initialized PCs", "run", p.Run, "route", p.Route, "dry_run", p.DryRun, "ok", sum.OK, "failed", sum.Failed+sum.NotTried,
		"seconds", int(time.Since(began).Seconds()))
	return nil
}

// errCancelled says that a run was called off.
var errCancelled = errors.New("called off")

// open are the PCs of a part that have come to no end.
func (r *runner) open(ctx context.Context, p registry.RunPart) iter.Seq2[amtinit.Target, error] {
	return func(yield func(amtinit.Target, error) bool) {
		for after := 0; ; {
			page, err := r.reg.OpenTargets(ctx, p, after)
			if err != nil {
				yield(amtinit.Target{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
			for _, t := range page {
				target := amtinit.Target{Host: t.Host, Number: t.Number}
				target.Address, _ = netip.ParseAddr(t.Address) // none, or ours
				if !yield(target, nil) {
					return
				}
				after = t.Number
			}
		}
	}
}

// leave ends what is open of a part.
func (r *runner) leave(ctx context.Context, p registry.RunPart, why amtinit.Code, detail string) error {
	for {
		page, err := r.reg.OpenTargets(ctx, p, 0)
		if err != nil || len(page) == 0 {
			return err
		}
		var results []registry.PartResult
		for _, t := range page {
			results = append(results, registry.PartResult{Number: t.Number, Initialization: r.left(t, why, detail)})
		}
		if err := r.reg.PartProgress(ctx, p, registry.PartProgress{Results: results}); err != nil {
			return err
		}
		if len(page) < registry.MaxPage { // it was the last one: the part has ended, and nobody's any more
			return nil
		}
	}
}

// left is the result of a PC that nobody has been at.
func (r *runner) left(t registry.PartTarget, why amtinit.Code, detail string) registry.Initialization {
	return attempt(&amtinit.JournalTarget{Host: t.Host, Address: t.Address, Finished: time.Now(), Reason: why, Detail: amtinit.Printable(detail, 1000)},
		registry.Run{Machine: r.machine})
}

func (r *runner) results(lines []amtinit.JournalTarget, machine string) (list []registry.PartResult) {
	for i := range lines {
		t := &lines[i]
		if t.Reason == amtinit.NotTried { // nobody has been at it
			t.Step = ""
		}
		list = append(list, registry.PartResult{
			Number: t.Number, Initialization: attempt(t, registry.Run{Machine: machine}),
			Absent: t.Reason == amtinit.NothingAnswers || t.Reason == amtinit.Unresolvable,
		})
	}
	return list
}

// through has a relay do its part: hands it over, takes what the relay says of it, and watches over what waits.
func (r *runner) through(ctx context.Context, p registry.RunPart) error {
	posted := ""
	var notBefore, rerouted time.Time
	for {
		taken := r.reg.ProgressTaken()
		var err error
		if p, err = r.reg.Part(ctx, p); err != nil {
			return err
		}
		if p, err = r.take(ctx, p); err != nil {
			return err
		}
		if p.Cancelled {
			if err := r.reg.CallOff(ctx, p); err != nil {
				return err
			}
			return r.leave(ctx, p, amtinit.Cancelled, "")
		}
		if time.Since(rerouted) >= r.reroute {
			rerouted = time.Now()
			moved, err := r.reg.Reroute(ctx, p)
			if err != nil {
				return err
			}
			if moved > 0 {
				r.log.Info("PCs of a run are on another route by now", "run", p.Run, "route", p.Route, "pcs", moved)
				continue
			}
		}
		if (p.Work == "" || p.Work != posted) && !time.Now().Before(notBefore) {
			id, err := r.post(ctx, p)
			switch {
			case errors.Is(err, registry.ErrTooMuchWork):
				notBefore = time.Now().Add(giveWay)
			case errors.Is(err, registry.ErrNotRelay):
				notBefore, rerouted = time.Now().Add(watchEvery), time.Time{} // it was one a moment ago
			case err != nil:
				return err
			default:
				posted = id
			}
			continue
		}
		again := time.NewTimer(watchEvery)
		select {
		case <-taken:
		case <-again.C: // another process may have taken it
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// post hands over what is next, or once more what was handed over.
func (r *runner) post(ctx context.Context, p registry.RunPart) (id string, err error) {
	id, made, targets, err := r.reg.HandOver(ctx, p)
	if err != nil {
		return "", err
	}
	w := amtinit.PartWork{Run: p.Run, DryRun: p.DryRun, Parallel: p.Parallel}
	for _, t := range targets {
		w.Targets = append(w.Targets, amtinit.PartTarget(t))
	}
	body, err := json.Marshal(w)
	if err != nil {
		return "", err
	}
	return id, r.reg.PostWork(ctx, checkin.Work{ID: id, To: p.Relay, Kind: InitializeKind, Made: made, Body: body})
}

// take takes what the relay has said since, and returns the part as it is then.
func (r *runner) take(ctx context.Context, p registry.RunPart) (registry.RunPart, error) {
	for p.Work != "" {
		said, err := r.reg.ProgressOf(ctx, p.Work, p.Sequence)
		if err != nil || len(said) == 0 {
			return p, err
		}
		for _, s := range said {
			body, err := amtinit.ParsePartProgress(s.Body)
			if err != nil {
				body = amtinit.PartProgress{Reason: amtinit.RelayCannot, Detail: err.Error()}
			}
			g := registry.PartProgress{Sequence: s.Sequence, Done: s.Done, Results: r.results(body.Results, body.Machine)}
			if s.Done {
				rest := r.left(registry.PartTarget{}, cmp.Or(body.Reason, amtinit.NothingSaidAbout), body.Detail)
				rest.Machine = body.Machine
				g.Rest = &rest
			}
			if err := r.reg.PartProgress(ctx, p, g); err != nil {
				return p, err
			}
		}
		if p, err = r.reg.Part(ctx, p); err != nil {
			return p, err
		}
	}
	return p, nil
}

// Run is a run, with what its reasons mean.
type Run struct {
	registry.RunState
	Table []RunReason `json:"table"` // of the reasons, the most frequent first
}

// RunReason is a row of the table.
type RunReason struct {
	Reason    string   `json:"reason"`
	Count     int      `json:"count"`
	MessageID string   `json:"message_id,omitempty"`
	Cause     string   `json:"cause"`
	Remedy    string   `json:"remedy,omitempty"`
	Hosts     []string `json:"hosts"` // the first three
}

// ShowRun tells a run in a language.
func ShowRun(s registry.RunState, l registry.Language) Run {
	run := Run{s, []RunReason{}}
	for code, n := range s.Reasons {
		row := RunReason{Reason: code, Count: n, Cause: code, Hosts: append([]string{}, s.Hosts[code]...)}
		if r, known := amtinit.AnyReason(amtinit.Code(code)); known {
			row.MessageID, row.Cause, row.Remedy = r.ID, r.Cause.In(amtinit.Lang(l)), r.Remedy.In(amtinit.Lang(l))
		}
		run.Table = append(run.Table, row)
	}
	slices.SortFunc(run.Table, func(a, b RunReason) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.MessageID, b.MessageID), cmp.Compare(a.Reason, b.Reason))
	})
	return run
}

// WatchRun waits until a run has another version than that one, or for some time, and returns it.
func WatchRun(ctx context.Context, reg *registry.Registry, id, version int64, wait time.Duration) (registry.RunState, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	again := time.NewTicker(watchEvery / 2)
	defer again.Stop()
	for waiting := version > 0 && wait > 0; waiting; {
		changed := reg.ProgressTaken()
		is, err := reg.RunVersion(ctx, id)
		if err != nil {
			return registry.RunState{}, err
		}
		if is != version {
			break
		}
		select {
		case <-changed:
		case <-again.C:
		case <-over.C:
			waiting = false
		case <-ctx.Done():
			return registry.RunState{}, ctx.Err()
		}
	}
	return reg.Run(ctx, id)
}

// NewRun is a run that is to be started. Exactly one of not_initialized, hosts and file is given.
type NewRun struct {
	NotInitialized bool     `json:"not_initialized,omitempty" doc:"Every PC whose memory is known not to be initialized."`
	Hosts          []string `json:"hosts,omitempty" maxItems:"10000" doc:"Host IDs, host names or addresses."`
	File           string   `json:"file,omitempty" doc:"The text of a system configuration information file; its clients and relay systems are meant."`
	Name           string   `json:"name,omitempty" maxLength:"200" doc:"What the run is called, such as the file's name."`
	DryRun         bool     `json:"dry_run,omitempty" doc:"Look only, and change nothing."`
	Parallel       int      `json:"parallel,omitempty" minimum:"0" maximum:"4096" doc:"PCs at a time, on each route; 0: 1024."`
	RetryFailed    bool     `json:"retry_failed,omitempty" doc:"Of these PCs, only those whose last attempt failed."`
}

// StartedRun is a run that was started.
type StartedRun struct {
	Run
	Again   bool     `json:"again"`   // the same request had started it before
	Remarks []string `json:"remarks"` // what was taken otherwise than asked for
}

// errRequest is a request that asks for no run.
var errRequest = errors.New("name not_initialized, hosts or file, and one of them only")

// StartRun starts a run. key is the idempotency key, "" for none.
func StartRun(ctx context.Context, reg *registry.Registry, n NewRun, key, who string, l registry.Language) (StartedRun, error) {
	q := registry.RunRequest{
		NotInitialized: n.NotInitialized, Hosts: n.Hosts, Source: amtinit.Printable(n.Name, 200),
		DryRun: n.DryRun, Parallel: n.Parallel, RetryFailed: n.RetryFailed, Key: key, By: who,
	}
	given := 0
	for _, is := range []bool{n.NotInitialized, len(n.Hosts) > 0, n.File != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return StartedRun{}, errRequest
	}
	switch {
	case n.NotInitialized:
		q.Source = cmp.Or(q.Source, "not initialized")
	case len(n.Hosts) > 0:
		q.Source = cmp.Or(q.Source, amtinit.Printable(strings.Join(n.Hosts[:min(3, len(n.Hosts))], " "), 200))
	default:
		q.Source, q.Entries = cmp.Or(q.Source, "file"), []sysconfig.Entry{}
		for e, err := range sysconfig.Read(strings.NewReader(n.File)) {
			if err != nil {
				return StartedRun{}, &fileError{err}
			}
			q.Entries = append(q.Entries, e)
		}
	}
	id, again, remarks, err := reg.NewRun(ctx, q)
	if err != nil {
		return StartedRun{}, err
	}
	s, err := reg.Run(ctx, id)
	started := StartedRun{ShowRun(s, l), again, []string{}}
	for _, r := range remarks {
		started.Remarks = append(started.Remarks, r.In(l))
	}
	return started, err
}

// CancelRun calls a run off, and tells how it stands then: it may have ended with that.
func CancelRun(ctx context.Context, reg *registry.Registry, id int64, who string, l registry.Language) (Run, error) {
	machine, _ := os.Hostname() // is only shown
	left := attempt(&amtinit.JournalTarget{Reason: amtinit.Cancelled}, registry.Run{Machine: machine})
	if err := reg.CancelRun(ctx, id, who, left); err != nil {
		return Run{}, err
	}
	s, err := reg.Run(ctx, id)
	return ShowRun(s, l), err
}

// fileError is a system configuration information file that cannot be read.
type fileError struct{ err error }

func (e *fileError) Error() string {
	return fmt.Sprintf("the system configuration information file: %v", e.err)
}
func (e *fileError) Unwrap() error { return e.err }

// runErrors are the statuses of what goes wrong with runs.
var runErrors = []struct {
	err    error
	status int
}{
	{errRequest, http.StatusUnprocessableEntity},
	{registry.ErrNoTargets, http.StatusUnprocessableEntity},
	{registry.ErrTooManyTargets, http.StatusUnprocessableEntity},
	{registry.ErrAmbiguousName, http.StatusUnprocessableEntity},
	{registry.ErrLongKey, http.StatusUnprocessableEntity},
	{registry.ErrOtherRequest, http.StatusUnprocessableEntity},
	{registry.ErrRunEnded, http.StatusConflict},
}

type (
	RunPage struct {
		Runs []Run `json:"runs"`
		Next int64 `json:"next"`
	}
	RunTargetPage struct {
		Targets []registry.RunTarget `json:"targets"`
		Next    int64                `json:"next"`
	}
	InRun struct {
		ID int64 `path:"id" minimum:"1" doc:"Number of the run."`
	}
)

const runsPath = "/api/v1/initializations"

func (a *api) registerRuns(h huma.API) {
	start := act(http.MethodPost, "start-initialization", runsPath, "Initialize the memory of many PCs, each by the machine that is nearest to it.", 422)
	start.DefaultStatus = http.StatusAccepted
	start.MaxBodyBytes = MaxRunFile + maxBody
	on(a, h, start, a.startRun)
	on(a, h, get("list-initializations", runsPath, "List the runs, the newest first.", 422), a.runs)
	on(a, h, get("get-initialization", runsPath+"/{id}", "One run; with version and wait, once it has changed.", 404, 422), a.run)
	on(a, h, get("list-initialization-targets", runsPath+"/{id}/targets", "The PCs of a run.", 404, 422), a.runTargets)
	on(a, h, act(http.MethodPost, "cancel-initialization", runsPath+"/{id}/cancel", "Call a run off: PCs that nobody has begun with are left alone.", 404, 409, 422), a.cancelRun)
}

func (a *api) startRun(ctx context.Context, in *struct {
	InLanguage
	Key  string `header:"Idempotency-Key" maxLength:"128" doc:"The same request again under this key is the same run. At most 128 bytes."`
	Body NewRun
}) (StartedRun, error) {
	return StartRun(ctx, a.reg, in.Body, in.Key, who(ctx), in.language())
}

func (a *api) runs(ctx context.Context, in *struct {
	InPage
	InLanguage
}) (RunPage, error) {
	page, next, err := a.reg.Runs(ctx, in.After, in.Limit)
	out := RunPage{Runs: []Run{}, Next: next}
	for _, s := range page {
		out.Runs = append(out.Runs, ShowRun(s, in.language()))
	}
	return out, err
}

func (a *api) run(ctx context.Context, in *struct {
	InRun
	InLanguage
	Version int64 `query:"version" minimum:"0" doc:"Answer when the run has another version than this one; 0 or nothing: at once."`
	Wait    int   `query:"wait" minimum:"0" maximum:"30" doc:"But after so many seconds at the latest."`
}) (Run, error) {
	s, err := WatchRun(ctx, a.reg, in.ID, in.Version, min(time.Duration(in.Wait)*time.Second, maxWatch))
	return ShowRun(s, in.language()), err
}

func (a *api) runTargets(ctx context.Context, in *struct {
	InRun
	InPage
	Outcome string `query:"outcome" maxLength:"64" doc:"Only those with this outcome: initialized, already, or a reason."`
}) (RunTargetPage, error) {
	page, next, err := a.reg.RunTargets(ctx, in.ID, in.Outcome, in.After, in.Limit)
	return RunTargetPage{append([]registry.RunTarget{}, page...), next}, err
}

func (a *api) cancelRun(ctx context.Context, in *struct {
	InRun
	InLanguage
}) (Run, error) {
	return CancelRun(ctx, a.reg, in.ID, who(ctx), in.language())
}
