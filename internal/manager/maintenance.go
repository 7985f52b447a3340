package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"samehost/internal/amtinit"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/intake"
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

// Retirement is what retiring a PC did. The meaning of its JSON names never changes.
type Retirement struct {
	Retired *registry.Maintenance `json:"retired"`       // null: it was retired or succeeded before
	Cleared *ClearedAMT           `json:"amt,omitempty"` // where clearing was asked for
}

// Retire retires the asset of a host ID. With clear it first does what ClearAMT does, so that a failure leaves the asset in sight; then
// it is no error that the asset was retired or succeeded before. It fails as ClearAMT and registry.Retire do.
func Retire(ctx context.Context, reg *registry.Registry, id hostid.ID, clear *amtinit.Options, by registry.Actor) (done Retirement, err error) {
	if clear != nil {
		cleared, err := ClearAMT(ctx, reg, id, *clear, by)
		if err != nil {
			return done, err
		}
		done.Cleared = &cleared
	}
	m, err := reg.Retire(ctx, id, by)
	switch {
	case err == nil:
		done.Retired = &m
	case clear != nil && (errors.Is(err, registry.ErrSucceeded) || errors.Is(err, registry.ErrState)):
		err = nil
	}
	return done, err
}

// maxClear bounds the search for the AMT of one PC on behalf of a request, so that the answer comes before the connection is given up.
const maxClear = intake.WriteTimeout - 15*time.Second

// ErrNoAMT says that this manager knows no AMT management user.
var ErrNoAMT = errors.New("there is no [amt] table: write the AMT management user into it")

// caller is the administrator that a request is from, as maintenance has him.
func caller(ctx context.Context) registry.Actor {
	return registry.Actor{Who: who(ctx), Trigger: registry.ByAPI}
}

// The answers that are lists.
type (
	DeletionPage struct {
		Deletions []registry.Maintenance `json:"deletions"`
		Next      int64                  `json:"next"`
	}
	DuplicatePage struct {
		Duplicates []registry.Duplicate `json:"duplicates"`
		Next       int64                `json:"next"`
	}
)

// The bodies of requests.
type (
	NewRetirement struct {
		ClearAMT bool `json:"clear_amt,omitempty" doc:"First remove our application, and nothing else, from its AMT."`
	}
	NewReplacement struct {
		Successor string `json:"successor" minLength:"32" maxLength:"32" pattern:"^[0-9a-f]*[1-9a-f][0-9a-f]*$" doc:"Any host ID of the PC that takes its place."`
	}
	NewArchiveRun struct {
		OlderThan int  `json:"older_than" minimum:"1" maximum:"36500" doc:"Assets that have not been heard for so many days."`
		DryRun    bool `json:"dry_run,omitempty" doc:"Only say which."`
	}
	Pair struct {
		HostID string `json:"host_id" minLength:"32" maxLength:"32" pattern:"^[0-9a-f]*[1-9a-f][0-9a-f]*$" doc:"Any host ID of one of them."`
		Other  string `json:"other_host_id" minLength:"32" maxLength:"32" pattern:"^[0-9a-f]*[1-9a-f][0-9a-f]*$" doc:"Any host ID of the other one."`
		Verb   string `json:"verb" enum:"merge,keep-both" doc:"merge: they are one PC. keep-both: they are two, and never proposed again."`
	}
)

func (a *api) registerMaintenance(h huma.API) {
	on(a, h, act(http.MethodDelete, "delete-asset", "/api/v1/assets/{host_id}", "Take an asset out of every list; nothing of it is erased.", 404, 409, 422), a.deleteAsset)
	on(a, h, act(http.MethodPost, "restore-asset", "/api/v1/assets/{host_id}/restore", "Take back that an asset was deleted, else that it was archived.", 404, 409, 422), a.restoreAsset)
	on(a, h, act(http.MethodPost, "retire-asset", "/api/v1/assets/{host_id}/retire", "Say that a PC leaves.", 404, 409, 422, 502), a.retire)
	on(a, h, act(http.MethodPost, "unretire-asset", "/api/v1/assets/{host_id}/unretire", "Take back that a PC left.", 404, 409, 422), a.unretire)
	on(a, h, act(http.MethodPost, "replace-asset", "/api/v1/assets/{host_id}/replace", "Put a new PC in the place of this one.", 404, 409, 422), a.replace)
	on(a, h, act(http.MethodPost, "undo-replace", "/api/v1/assets/{host_id}/undo-replace", "Take back that another PC took the place of this one.", 404, 409, 422), a.undoReplace)
	on(a, h, get("list-deletions", "/api/v1/deletions", "What was deleted, and what came back, the oldest first.", 422), a.deletions)
	on(a, h, act(http.MethodPost, "restore-deletion", "/api/v1/deletions/{id}/restore", "Take back one deletion.", 404, 409, 422), a.restoreDeletion)
	on(a, h, act(http.MethodPost, "archive-assets", "/api/v1/archive", "Take assets out of the list that have long been silent.", 422), a.archive)
	on(a, h, get("list-duplicates", "/api/v1/duplicates", "Pairs of assets that agree, though their host IDs differ.", 422), a.duplicates)
	on(a, h, act(http.MethodPost, "resolve-duplicate", "/api/v1/duplicates/resolve", "Say of two assets that agree that they are one PC, or two.", 404, 409, 422), a.resolveDuplicate)
}

func (a *api) deleteAsset(ctx context.Context, in *struct{ InHost }) (registry.Maintenance, error) {
	return a.reg.Delete(ctx, in.id(), caller(ctx))
}

func (a *api) restoreAsset(ctx context.Context, in *struct{ InHost }) (registry.Maintenance, error) {
	return a.reg.Restore(ctx, in.id(), caller(ctx))
}

func (a *api) retire(ctx context.Context, in *struct {
	InHost
	Body *NewRetirement
}) (Retirement, error) {
	if in.Body == nil || !in.Body.ClearAMT {
		return Retire(ctx, a.reg, in.id(), nil, caller(ctx))
	}
	if a.amt == nil {
		return Retirement{}, ErrNoAMT
	}
	o, err := a.amt()
	if err != nil {
		return Retirement{}, err
	}
	clearing, cancel := context.WithTimeout(ctx, maxClear)
	defer cancel()
	return Retire(clearing, a.reg, in.id(), &o, caller(ctx))
}

func (a *api) unretire(ctx context.Context, in *struct{ InHost }) (registry.Maintenance, error) {
	return a.reg.Unretire(ctx, in.id(), caller(ctx))
}

func (a *api) replace(ctx context.Context, in *struct {
	InHost
	Body NewReplacement
}) (registry.Maintenance, error) {
	return a.reg.Replace(ctx, in.id(), InHost{in.Body.Successor}.id(), caller(ctx))
}

func (a *api) undoReplace(ctx context.Context, in *struct{ InHost }) (registry.Maintenance, error) {
	return a.reg.UndoReplace(ctx, in.id(), caller(ctx))
}

func (a *api) deletions(ctx context.Context, in *struct {
	InPage
	Newest bool `query:"newest" doc:"The newest first, and not the oldest."`
}) (DeletionPage, error) {
	page, next, err := a.reg.DeletionsPage(ctx, in.Newest, in.After, in.Limit)
	return DeletionPage{append([]registry.Maintenance{}, page...), next}, err
}

func (a *api) restoreDeletion(ctx context.Context, in *struct {
	ID int64 `path:"id" minimum:"1" doc:"Number of the deletion."`
}) (registry.Maintenance, error) {
	return a.reg.RestoreDeletion(ctx, in.ID, caller(ctx))
}

func (a *api) archive(ctx context.Context, in *struct{ Body NewArchiveRun }) (registry.ArchiveRun, error) {
	return a.reg.Archive(ctx, in.Body.OlderThan, in.Body.DryRun, caller(ctx))
}

func (a *api) duplicates(ctx context.Context, in *struct {
	InPage
	By []registry.Agreement `query:"by" enum:"mac,ip,name" default:"mac,ip,name" doc:"Agree in each of these."`
}) (DuplicatePage, error) {
	all, err := a.reg.Duplicates(ctx, in.By)
	from := min(in.After, int64(len(all))) // the number of those on the pages before
	out := DuplicatePage{Duplicates: append([]registry.Duplicate{}, all[from:min(from+int64(in.Limit), int64(len(all)))]...)}
	if shown := from + int64(len(out.Duplicates)); shown < int64(len(all)) {
		out.Next = shown
	}
	return out, err
}

func (a *api) resolveDuplicate(ctx context.Context, in *struct{ Body Pair }) (registry.Resolution, error) {
	return a.reg.DecideDuplicate(ctx, InHost{in.Body.HostID}.id(), InHost{in.Body.Other}.id(), registry.Verb(in.Body.Verb), who(ctx))
}
