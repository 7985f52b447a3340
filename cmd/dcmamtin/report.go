package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/layout"
	"samehost/internal/terminal"
)

// report writes the results to standard output: one line per target, then the summary. What came from a file or
// from firmware passes amtinit.Printable before it gets here or on the way out.
//
// To a file or a pipe each target is one line that says everything. On a terminal the lines are wrapped, and those of many
// targets are brief: the remedies stand in the summary's table, once per reason, and the details in the log.
type report struct {
	w       io.Writer
	columns func() int // that a line may take on the terminal that w is; 0 if it is none
	now     func() time.Time
	began   time.Time
	arguments

	finished int // targets of this run
	warnings map[string]*warned
	err      error // the first one; what follows is not written
}

// warned counts the targets that carry one warning.
type warned struct {
	amtinit.Warning
	count int
	hosts []string // the first ones
}

func newReport(a arguments, s *terminal.Screen) *report {
	return &report{
		w:         s.Results(),
		columns:   func() int { return max(s.Columns()-1, 0) }, // the last one stays free, as with the bar
		now:       time.Now,
		began:     time.Now(),
		arguments: a,
		warnings:  make(map[string]*warned),
	}
}

const (
	maxShown       = 64  // characters of a name in a line
	maxShownError  = 400 // of a detail
	maxEnterprises = 8   // a device has four places

	widestText = 100 // columns; longer lines are hard to read
)

// targetJSON is a line of --json. Field names never change their meaning; docs/operations/dcmamtin.en.md has them.
type targetJSON struct {
	Host         string   `json:"host"`
	Address      string   `json:"address"`
	Port         int      `json:"port,omitempty"`
	TLS          bool     `json:"tls"`
	OK           bool     `json:"ok"`
	Already      bool     `json:"already_initialized"`
	Done         []string `json:"done"`
	NonPartner   bool     `json:"non_partner,omitempty"`
	Registered   bool     `json:"registered,omitempty"`
	Reason       string   `json:"reason,omitempty"`
	MessageID    string   `json:"message_id,omitempty"`
	Step         string   `json:"step,omitempty"`
	Status       uint32   `json:"status,omitempty"`
	StatusName   string   `json:"status_name,omitempty"`
	Cause        string   `json:"cause,omitempty"`
	Remedy       string   `json:"remedy,omitempty"`
	Detail       string   `json:"detail,omitempty"`
	Version      string   `json:"amt_version,omitempty"`
	PlatformGUID string   `json:"platform_guid,omitempty"`
	Milliseconds int64    `json:"milliseconds"`

	Warnings []warningJSON `json:"warnings,omitempty"`
	DryRun   bool          `json:"dry_run,omitempty"`
	WouldDo  []string      `json:"would_do,omitempty"`
	Findings *findingsJSON `json:"findings,omitempty"` // in a dry run
}

type warningJSON struct {
	ID     string `json:"message_id"`
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

// findingsJSON is what a dry run found out: yes, no or unknown.
type findingsJSON struct {
	Reachable   amtinit.Answer `json:"reachable"`
	AMT         amtinit.Answer `json:"amt"`
	LetsIn      amtinit.Answer `json:"lets_in"`
	Storage     amtinit.Answer `json:"storage"`
	Initialized amtinit.Answer `json:"initialized"`
	Room        amtinit.Answer `json:"room"`
	Enterprises []string       `json:"enterprises"`
}

// summaryJSON is the last line of --json.
type summaryJSON struct {
	Summary struct {
		Targets     int                  `json:"targets"`
		Initialized int                  `json:"initialized"`
		Already     int                  `json:"already_initialized"`
		Failed      int                  `json:"failed"`
		NotTried    int                  `json:"not_tried"`
		Reasons     map[amtinit.Code]int `json:"reasons"`
		ExitCode    int                  `json:"exit_code"`
		Log         string               `json:"log"`

		Hosts           map[amtinit.Code][]string `json:"hosts"`    // the first of each reason
		Warnings        map[string]int            `json:"warnings"` // targets by message ID
		Milliseconds    int64                     `json:"milliseconds"`
		DryRun          bool                      `json:"dry_run,omitempty"`
		WouldInitialize int                       `json:"would_initialize,omitempty"`
	} `json:"summary"`
}

// done lists what the target's memory got, in a dry run what it would get.
func done(o amtinit.Outcome) []string { return append([]string{}, o.Done()...) }

// address is where the target answered, else what the file said, without the port.
func address(o amtinit.Outcome) string {
	if o.Reached.IsValid() {
		return o.Reached.Addr().String()
	}
	if o.Address.IsValid() {
		return o.Address.String()
	}
	return ""
}

func (r *report) target(o amtinit.Outcome) {
	r.finished++
	for _, w := range o.Warnings {
		if r.warnings[w.ID] == nil {
			r.warnings[w.ID] = &warned{Warning: w}
		}
		seen := r.warnings[w.ID]
		if seen.count++; len(seen.hosts) < amtinit.FirstHosts {
			seen.hosts = append(seen.hosts, o.Target.String())
		}
	}
	if r.json {
		r.targetJSON(o)
		return
	}
	width := r.columns()
	parts := r.targetText(o, width > 0 && r.file != "")
	if width == 0 {
		r.line(strings.Join(parts, " | "))
		return
	}
	for i, part := range parts {
		if i == 0 {
			parts[i] = layout.Hanging("", 2, part, min(width, widestText))
		} else {
			parts[i] = layout.Hanging("  ", 4, part, min(width, widestText))
		}
	}
	r.line(strings.Join(parts, "\n"))
}

// targetText is everything about a target: the result, in a dry run what was found, and warnings. If brief, it lacks what
// follows in the summary or stands in the log.
func (r *report) targetText(o amtinit.Outcome, brief bool) (parts []string) {
	var b strings.Builder
	b.WriteString(amtinit.Printable(o.Target.String(), maxShown))
	if a := address(o); a != "" && a != o.Target.String() {
		fmt.Fprintf(&b, " (%s)", a)
	}
	b.WriteString(": ")
	message := func(mark amtinit.Text, id string, cause amtinit.Text, detail string, remedy amtinit.Text) {
		fmt.Fprintf(&b, "%s %s %s", mark.In(r.lang), id, cause.In(r.lang))
		if brief {
			return
		}
		if detail != "" {
			fmt.Fprintf(&b, " [%s]", amtinit.Printable(detail, maxShownError))
		}
		fmt.Fprintf(&b, " %s %s", terminal.TextRemedy.In(r.lang), remedy.In(r.lang))
	}
	switch {
	case !o.OK():
		mark, detail := textFailed, ""
		if r.dryRun {
			mark = textWouldFail
		}
		if o.Err != nil {
			detail = o.Err.Error()
		}
		reason := amtinit.ReasonOf(o.Code)
		message(mark, reason.ID, reason.Cause, detail, reason.Remedy)
	case o.Result.AlreadyInitialized():
		b.WriteString(textAlready.In(r.lang))
	default:
		did, texts := textInitialized, textDone
		if r.dryRun {
			did, texts = textWouldInitialize, textWouldDo
		}
		var list []string
		for _, d := range done(o) {
			list = append(list, texts[d].In(r.lang))
		}
		b.WriteString(did.In(r.lang))
		if !brief || r.dryRun {
			fmt.Fprintf(&b, textDetail.In(r.lang), strings.Join(list, terminal.TextComma.In(r.lang)))
		}
	}
	parts = append(parts, b.String())
	if r.dryRun {
		parts = append(parts, r.findings(o)...)
	}
	for _, w := range o.Warnings {
		b.Reset()
		if brief {
			fmt.Fprintf(&b, "%s %s", textWarning.In(r.lang), w.ID)
		} else {
			message(textWarning, w.ID, w.Cause, "", w.Remedy)
		}
		parts = append(parts, b.String())
	}
	return parts
}

// findings is what a dry run found out about a target, as far as it came.
func (r *report) findings(o amtinit.Outcome) (parts []string) {
	f := o.Findings()
	version := amtinit.Printable(o.Result.About.Version, maxShown)
	var found []string
	for _, q := range []struct {
		answer  amtinit.Answer
		yes, no amtinit.Text
	}{
		{f.Reachable, textReachable, textUnreachable},
		{f.AMT, textSpeaksAMT, textSpeaksNoAMT},
		{f.LetsIn, textLetsIn, textLetsNotIn},
		{f.Storage, textHas3PDS, textHasNo3PDS},
		{f.Initialized, textIsInitialized, textIsNotInitialized},
		{f.Room, textHasRoom, textHasNoRoom},
	} {
		switch {
		case q.yes == textSpeaksAMT && q.answer == amtinit.Yes && version != "":
			found = append(found, fmt.Sprintf(textVersion.In(r.lang), version))
		case q.answer == amtinit.Yes:
			found = append(found, q.yes.In(r.lang))
		case q.answer == amtinit.No:
			found = append(found, q.no.In(r.lang))
		}
	}
	if len(found) > 0 {
		parts = append(parts, strings.Join(found, terminal.TextComma.In(r.lang)))
	}
	if len(f.Enterprises) > 0 {
		names := make([]string, 0, len(f.Enterprises))
		for _, e := range f.Enterprises[:min(len(f.Enterprises), maxEnterprises)] {
			names = append(names, `"`+amtinit.Printable(e, maxShown)+`"`)
		}
		parts = append(parts, fmt.Sprintf(textEnterprises.In(r.lang), terminal.List(r.lang, names, len(f.Enterprises))))
	}
	return parts
}

func (r *report) targetJSON(o amtinit.Outcome) {
	line := targetJSON{
		Host:         amtinit.Printable(o.Target.String(), maxShownError),
		Address:      address(o),
		Port:         int(o.Reached.Port()),
		TLS:          o.TLS,
		OK:           o.OK(),
		Done:         done(o),
		DryRun:       r.dryRun,
		Version:      amtinit.Printable(o.Result.About.Version, maxShown),
		PlatformGUID: amtinit.Printable(o.Result.About.PlatformGUID, maxShown),
		Milliseconds: o.Took.Milliseconds(),
	}
	if o.OK() {
		line.Already = o.Result.AlreadyInitialized()
		line.NonPartner = o.Result.NonPartner
		line.Registered = o.Result.Registered
	} else {
		reason := amtinit.ReasonOf(o.Code)
		line.Reason, line.MessageID, line.Step = string(o.Code), reason.ID, string(o.Step)
		line.Cause, line.Remedy = reason.Cause.In(r.lang), reason.Remedy.In(r.lang)
		if o.Status != 0 {
			line.Status, line.StatusName = uint32(o.Status), o.Status.Name()
		}
		if o.Err != nil {
			line.Detail = amtinit.Printable(o.Err.Error(), maxShownError)
		}
	}
	for _, w := range o.Warnings {
		line.Warnings = append(line.Warnings, warningJSON{w.ID, w.Cause.In(r.lang), w.Remedy.In(r.lang)})
	}
	if r.dryRun {
		f := o.Findings()
		line.Done, line.WouldDo = []string{}, line.Done
		line.Findings = &findingsJSON{f.Reachable, f.AMT, f.LetsIn, f.Storage, f.Initialized, f.Room, []string{}}
		for _, e := range f.Enterprises {
			line.Findings.Enterprises = append(line.Findings.Enterprises, amtinit.Printable(e, maxShown))
		}
	}
	r.object(line)
}

// leastRated is how long a run takes at least of which a rate says something: a shorter one is over before it goes evenly.
const leastRated = 10 * time.Second

// summary ends the report of a run over so many targets: the reasons and what to do about them, the totals, and how the
// targets that failed are tried again.
func (r *report) summary(s amtinit.Summary, targets, exit int, log string) {
	took := r.now().Sub(r.began)
	untried := targets - s.OK - s.Failed
	if r.json {
		r.summaryJSON(s, targets, exit, log, took)
		return
	}
	width := r.columns()
	if width == 0 {
		width = layout.Screen
	}
	width = min(width, widestText)

	heading := textReasons
	if r.dryRun {
		heading = textReasonsDry
	}
	r.table(width, heading, r.reasonRows(s))
	r.table(width, textWarnings, r.warningRows())

	r.line("")
	if r.dryRun {
		r.fitted(width, textDryRun.In(r.lang))
	}
	totals := fmt.Sprintf(textSummary.In(r.lang), targets, s.OK, s.Already, s.Failed, untried)
	if r.dryRun {
		totals = fmt.Sprintf(textSummaryDry.In(r.lang), targets, s.Already, s.OK-s.Already, s.Failed, untried)
	}
	r.fitted(width, totals)
	if s.Warned > 0 {
		r.fitted(width, fmt.Sprintf(textWarned.In(r.lang), s.Warned))
	}
	if took > 0 {
		line := fmt.Sprintf(textTook.In(r.lang), terminal.Duration(took, r.lang))
		if took >= leastRated && r.finished > 0 {
			line += fmt.Sprintf(textRate.In(r.lang), terminal.RateText(float64(r.finished)/took.Seconds()))
		}
		r.fitted(width, line)
	}
	// Paths and commands are not broken: they are there to be copied.
	r.line(fmt.Sprintf(textLogAt.In(r.lang), exit, log))
	// What the lockout guard left alone did not fail: --retry-failed would leave it alone again.
	if s.Failed > 0 && s.OK+s.Failed == targets && s.Reasons[amtinit.Interrupted] == 0 && r.file != "" && !r.dryRun {
		r.line(textRetry.In(r.lang))
		r.line("  " + r.again("--retry-failed"))
	}
}

func (r *report) summaryJSON(s amtinit.Summary, targets, exit int, log string, took time.Duration) {
	var line summaryJSON
	sum := &line.Summary
	sum.Targets, sum.Initialized, sum.Already = targets, s.OK, s.Already
	sum.Failed, sum.NotTried = s.Failed, targets-s.OK-s.Failed
	sum.Reasons, sum.ExitCode, sum.Log = s.Reasons, exit, log
	sum.Milliseconds = took.Milliseconds()
	sum.Hosts = make(map[amtinit.Code][]string)
	for code, hosts := range s.Hosts {
		for _, h := range hosts {
			sum.Hosts[code] = append(sum.Hosts[code], amtinit.Printable(h, maxShownError))
		}
	}
	sum.Warnings = make(map[string]int)
	for id, w := range r.warnings {
		sum.Warnings[id] = w.count
	}
	if r.dryRun {
		sum.DryRun, sum.Initialized, sum.WouldInitialize = true, s.Already, s.OK-s.Already
	}
	r.object(line)
}

func (r *report) reasonRows(s amtinit.Summary) (rows []terminal.Row) {
	for _, reason := range amtinit.Reasons() {
		if n := s.Reasons[reason.Code]; n > 0 {
			rows = append(rows, terminal.Row{Count: n, ID: reason.ID, Cause: reason.Cause.In(r.lang), Remedy: reason.Remedy.In(r.lang), Hosts: s.Hosts[reason.Code]})
		}
	}
	return rows
}

func (r *report) warningRows() (rows []terminal.Row) {
	for _, id := range slices.Sorted(maps.Keys(r.warnings)) {
		w := r.warnings[id]
		rows = append(rows, terminal.Row{Count: w.count, ID: id, Cause: w.Cause.In(r.lang), Remedy: w.Remedy.In(r.lang), Hosts: w.hosts})
	}
	return rows
}

func (r *report) table(width int, heading amtinit.Text, rows []terminal.Row) {
	for _, line := range terminal.Table(width, r.columns() > 0, r.lang, heading, rows) {
		r.line(line)
	}
}

// fitted writes a line, broken for the columns of a terminal if that is where it goes.
func (r *report) fitted(width int, text string) {
	if r.columns() > 0 {
		text = layout.Hanging("", 2, text, width)
	}
	r.line(text)
}

func (r *report) object(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the structs above hold nothing that cannot be marshalled
	}
	r.line(string(b))
}

func (r *report) line(s string) {
	if r.err != nil {
		return
	}
	_, r.err = io.WriteString(r.w, s+"\n")
}
