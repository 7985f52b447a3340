package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// archiveEvery is how often the serving manager asks whether a day has passed since assets were last archived.
const archiveEvery = time.Hour

// followArchiving archives by schedule until the context ends.
func followArchiving(ctx context.Context, reg *registry.Registry, afterDays int, log *slog.Logger) {
	if afterDays <= 0 {
		return
	}
	again := time.NewTicker(archiveEvery)
	defer again.Stop()
	for {
		done, err := reg.ArchiveBySchedule(ctx, afterDays)
		switch {
		case err != nil && ctx.Err() == nil:
			log.Error("assets could not be archived; tried again in an hour", "error", WithRemedy(err))
		case done.Held > 0:
			log.Warn("nothing was archived: too many assets have been silent at once; see whether a network is cut off, or run samehost-manager archive",
				"assets", done.Held, "archive_after_days", afterDays)
		case len(done.Assets) > 0:
			log.Info("archived", "assets", len(done.Assets), "archive_after_days", afterDays)
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// ClearedAMT is what became of clearing the AMT of one PC. The meaning of its JSON names never changes.
type ClearedAMT struct {
	HostID     hostid.ID `json:"host_id"`
	Name       string    `json:"name"`
	Address    string    `json:"address"` // that the AMT was reached at
	SystemUUID string    `json:"system_uuid"`
	Removed    bool      `json:"removed"`                     // false: nothing of ours was there
	Left       []string  `json:"other_enterprises,omitempty"` // under which an application of our names stays, since [amt] names another
}

// NotCleared says why the AMT of a PC was not cleared.
type NotCleared struct {
	Cause, Remedy amtinit.Text
	Code          amtinit.Code // "" where it is another PC's AMT
	Where         string
	Err           error
}

func (e *NotCleared) Error() string {
	text := e.Cause.EN
	if e.Where != "" {
		text = e.Where + ": " + text
	}
	if e.Err != nil {
		text += " (" + amtinit.Printable(e.Err.Error(), 200) + ")"
	}
	return text + " " + e.Remedy.EN
}

func (e *NotCleared) Unwrap() error { return e.Err }

var (
	otherPC = amtinit.Text{
		EN: "Nothing was removed: where this PC was looked for, the AMT of another PC answers, as its UUID shows.",
		JA: "削除していません。この PC のアドレスで応答した AMT は、UUID により別の PC のものと判明しました。"}
	otherPCRemedy = amtinit.Text{
		EN: "See at which address the PC is, and that its name leads there; it need not be switched on, but must have power and network.",
		JA: "PC のアドレスと、ホスト名の名前解決の結果を確認してください。PC の起動は不要ですが、電源とネットワークの接続が必要です。"}
)

// ClearAMT removes our own application from the AMT of the PC of a host ID, and nothing else, and writes it into the history. The
// PC is looked for as dcmamtin does it, by its last name and then by its last addresses (with Options.AddressFirst the other way
// round), and is cleared only if the PlatformGUID that the AMT tells is the system UUID that the PC reported. It fails with
// what Whereabouts fails with, and with a *NotCleared.
func ClearAMT(ctx context.Context, reg *registry.Registry, id hostid.ID, o amtinit.Options, by registry.Actor) (ClearedAMT, error) {
	w, err := reg.Whereabouts(ctx, id)
	if err != nil {
		return ClearedAMT{}, err
	}
	done := ClearedAMT{HostID: id, Name: w.Name, SystemUUID: w.SystemUUID}
	is, err := amtinit.Clear(ctx, o, places(w, o.AddressFirst), func(guid string) bool {
		uuid, ok := hardware.DisplayUUID(guid)
		return ok && uuid == w.SystemUUID
	})
	if err != nil {
		return done, err
	}
	if is.Reached.IsValid() {
		done.Address = is.Reached.String()
	}
	done.Removed, done.Left = is.Removed > 0, is.Left
	switch {
	case errors.Is(is.Err, amtinit.ErrOtherPC):
		return done, fmt.Errorf("AMT of %s (host ID %s): %w", w.Name, id, &NotCleared{otherPC, otherPCRemedy, "", done.Address, nil})
	case !is.OK():
		why := amtinit.ReasonOf(is.Code)
		return done, fmt.Errorf("AMT of %s (host ID %s): %w", w.Name, id, &NotCleared{why.Cause, why.Remedy, is.Code, is.Target.String(), is.Err})
	}
	return done, reg.AMTCleared(ctx, w, done.Address, is.Removed, by)
}

// maxPlaces bounds the addresses of one PC that are tried.
const maxPlaces = 8

// places are those where a PC is looked for: names, then addresses, or the other way round.
func places(w registry.Whereabouts, addressFirst bool) []amtinit.Target {
	var names, addresses []amtinit.Target
	for _, n := range []string{w.FQDN, w.Name} {
		if _, err := netip.ParseAddr(n); err != nil && n != "" && (len(names) == 0 || names[0].Host != n) {
			names = append(names, amtinit.Target{Host: n})
		}
	}
	for _, s := range w.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || len(addresses) == maxPlaces {
			continue
		}
		addresses = append(addresses, amtinit.Target{Address: a.Unmap()})
	}
	if addressFirst {
		return append(addresses, names...)
	}
	return append(names, addresses...)
}
