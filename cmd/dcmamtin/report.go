package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"samehost/internal/amtinit"
)

// report writes the results to standard output: one line per target, then the summary. What came from a file or
// from firmware passes amtinit.Printable before it gets here or on the way out.
type report struct {
	w    io.Writer
	json bool
	lang amtinit.Lang
	err  error // the first one; what follows is not written
}

func newReport(a arguments, s *screen) *report {
	return &report{w: s.results(), json: a.json, lang: a.lang}
}

const (
	maxShown      = 64  // characters of a name in a line
	maxShownError = 400 // of a detail
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
	} `json:"summary"`
}

func done(o amtinit.Outcome) []string {
	list := []string{}
	if !o.OK() {
		return list
	}
	if o.Result.EnterpriseAdded {
		list = append(list, "enterprise-added")
	}
	if o.Result.AllocationAdded {
		list = append(list, "allocation-added")
	}
	if o.Result.AllocationEnlarged {
		list = append(list, "allocation-enlarged")
	}
	return list
}

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
	if r.json {
		r.targetJSON(o)
		return
	}
	var b strings.Builder
	b.WriteString(amtinit.Printable(o.Target.String(), maxShown))
	if a := address(o); a != "" && a != o.Target.String() {
		fmt.Fprintf(&b, " (%s)", a)
	}
	b.WriteString(": ")
	switch {
	case !o.OK():
		reason := amtinit.ReasonOf(o.Code)
		fmt.Fprintf(&b, "%s %s %s ", textFailed.In(r.lang), reason.ID, reason.Cause.In(r.lang))
		if o.Err != nil {
			fmt.Fprintf(&b, "[%s] ", amtinit.Printable(o.Err.Error(), maxShownError))
		}
		fmt.Fprintf(&b, "%s %s", textRemedy.In(r.lang), reason.Remedy.In(r.lang))
	case o.Result.AlreadyInitialized():
		b.WriteString(textAlready.In(r.lang))
	default:
		var did []string
		for _, d := range done(o) {
			did = append(did, textDone[d].In(r.lang))
		}
		fmt.Fprintf(&b, "%s (%s)", textInitialized.In(r.lang), strings.Join(did, ", "))
	}
	r.line(b.String())
}

func (r *report) targetJSON(o amtinit.Outcome) {
	line := targetJSON{
		Host:         amtinit.Printable(o.Target.String(), maxShownError),
		Address:      address(o),
		Port:         int(o.Reached.Port()),
		TLS:          o.TLS,
		OK:           o.OK(),
		Done:         done(o),
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
	r.object(line)
}

func (r *report) summary(s amtinit.Summary, targets, exit int, log string) {
	untried := targets - s.OK - s.Failed
	if r.json {
		var line summaryJSON
		line.Summary.Targets, line.Summary.Initialized, line.Summary.Already = targets, s.OK, s.Already
		line.Summary.Failed, line.Summary.NotTried = s.Failed, untried
		line.Summary.Reasons, line.Summary.ExitCode, line.Summary.Log = s.Reasons, exit, log
		r.object(line)
		return
	}
	r.line("")
	r.line(fmt.Sprintf(textSummary.In(r.lang), targets, s.OK, s.Already, s.Failed, untried))
	codes := make([]amtinit.Code, 0, len(s.Reasons))
	for _, reason := range amtinit.Reasons() {
		if s.Reasons[reason.Code] > 0 {
			codes = append(codes, reason.Code)
		}
	}
	slices.SortStableFunc(codes, func(a, b amtinit.Code) int { return s.Reasons[b] - s.Reasons[a] })
	for _, c := range codes {
		reason := amtinit.ReasonOf(c)
		r.line(fmt.Sprintf("%6d  %s  %s", s.Reasons[c], reason.ID, reason.Cause.In(r.lang)))
	}
	r.line(fmt.Sprintf(textLogAt.In(r.lang), exit, log))
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
