package manager

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// keepEvery is how often the serving manager looks whether others have changed the AMT settings: another manager on the
// same database, or a command on another machine.
const keepEvery = 10 * time.Second

// KeepAMTSettings makes the data folder hold the AMT settings for all hosts as the registry has them, where dcmamtin on this
// machine and this program find them (checkin.SettingsFileName); it writes only what changed.
func KeepAMTSettings(ctx context.Context, reg *registry.Registry, dir string) error {
	s, err := reg.AMTSettingsFor(ctx)
	if err != nil {
		return err
	}
	held, err := checkin.ReadKeptSettings(dir, checkin.SettingsFileName)
	switch {
	case err == nil && held.Version == s.Version, errors.Is(err, fs.ErrNotExist) && s.AMT == nil:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, hostid.ErrCorrupt):
		return permission(err)
	}
	return checkin.KeepSettings(dir, checkin.SettingsFileName, checkin.KeptSettings{Settings: s, Came: checkin.BySettingsManager, Since: time.Now()})
}

// followAMTSettings keeps them until the context ends.
func followAMTSettings(ctx context.Context, reg *registry.Registry, dir string, log *slog.Logger) {
	again := time.NewTicker(keepEvery)
	defer again.Stop()
	for shown := ""; ; {
		said := ""
		if err := KeepAMTSettings(ctx, reg, dir); err != nil && ctx.Err() == nil {
			if said = WithRemedy(err).Error(); said != shown { // what lasts is logged once
				log.Error("the AMT settings cannot be kept for dcmamtin on this machine", "error", said)
			}
		}
		shown = said
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// maxSettingsBody is room for certificates.
const maxSettingsBody = 64 << 10

// NewAMTSettings are AMT settings as they are sent. What is left out has its default, not what was set before.
type NewAMTSettings struct {
	User       string `json:"user,omitempty" maxLength:"64" doc:"The AMT management user; default admin."`
	Password   string `json:"password" minLength:"1" maxLength:"1024" doc:"Its password. It is told to nobody but the PCs."`
	Port       string `json:"port,omitempty" maxLength:"5" doc:"auto (the default) or a number."`
	TLS        bool   `json:"tls,omitempty" doc:"TLS on the numbered port; with port auto 16993 only."`
	TLSCA      string `json:"tls_ca,omitempty" maxLength:"16384" doc:"Certificates that vouch for the devices, PEM."`
	TLSPin     string `json:"tls_pin,omitempty" maxLength:"71" doc:"Or the device's public key: sha256: and 64 lower-case hex digits."`
	Enterprise string `json:"enterprise,omitempty" maxLength:"64" doc:"Entry in the enterprise access list; default samehost."`
}

// InScope says for whom settings are.
type InScope struct {
	For string `query:"for" minLength:"32" maxLength:"32" pattern:"^[0-9a-f]*[1-9a-f][0-9a-f]*$" doc:"Host ID: for that host and whatever reports through it. Without: for all others."`
}

func (in InScope) id() (id hostid.ID) {
	if in.For != "" {
		id = InHost{in.For}.id()
	}
	return id
}

// AMTSettingsList is the answer about them.
type AMTSettingsList struct {
	Settings []registry.ScopedSettings `json:"settings"`
}

// AMTSettingsSet is what became of setting them.
type AMTSettingsSet struct {
	Version uint64 `json:"version"`
	Changed bool   `json:"changed"` // false: they were set already
}

func (a *api) registerAMTSettings(h huma.API) {
	on(a, h, get("list-amt-settings", "/api/v1/amt-settings", "The AMT management users that relays and clients are told, without passwords."), a.amtSettings)
	set := act(http.MethodPut, "set-amt-settings", "/api/v1/amt-settings", "Set the AMT management user that relays and clients are told with their next check-in.", 404, 422)
	set.MaxBodyBytes = maxSettingsBody
	on(a, h, set, a.setAMTSettings)
	on(a, h, act(http.MethodDelete, "clear-amt-settings", "/api/v1/amt-settings", "Take them back: hosts go by those further up, or by their own files.", 404, 422), a.clearAMTSettings)
}

func (a *api) amtSettings(ctx context.Context, _ *none) (AMTSettingsList, error) {
	all, err := a.reg.AMTSettings(ctx)
	return AMTSettingsList{all}, err
}

func (a *api) setAMTSettings(ctx context.Context, in *struct {
	InScope
	Body NewAMTSettings
}) (AMTSettingsSet, error) {
	b := in.Body
	version, changed, err := a.reg.SetAMTSettings(ctx, in.id(), checkin.AMTSettings{
		User: b.User, Password: checkin.NewPassword(b.Password), Port: b.Port, TLS: b.TLS, TLSCA: b.TLSCA, TLSPin: b.TLSPin, Enterprise: b.Enterprise,
	}, who(ctx))
	if err == nil {
		err = KeepAMTSettings(ctx, a.reg, a.folder)
	}
	return AMTSettingsSet{version, changed}, err
}

func (a *api) clearAMTSettings(ctx context.Context, in *struct{ InScope }) (none, error) {
	err := a.reg.ClearAMTSettings(ctx, in.id(), who(ctx))
	if err == nil {
		err = KeepAMTSettings(ctx, a.reg, a.folder)
	}
	return none{}, err
}

// settingsErrors are the statuses of what goes wrong with them.
var settingsErrors = []struct {
	err    error
	status int
}{
	{registry.ErrSettings, http.StatusUnprocessableEntity},
	{registry.ErrSettingsKey, http.StatusConflict},
}

// ExportAMTSettings makes a file of the AMT settings that hold for a host (zero: for all hosts), sealed by a passphrase and signed by
// the manager's key (checkin.ExportSettings). Where none hold it fails with registry.ErrUnknown.
func ExportAMTSettings(ctx context.Context, reg *registry.Registry, dir string, scope hostid.ID, passphrase string) (file []byte, version uint64, err error) {
	var way []hostid.ID
	if !scope.IsZero() {
		if way, err = reg.Way(ctx, scope); err != nil {
			return nil, 0, err
		}
	}
	s, err := reg.AMTSettingsFor(ctx, way...)
	if err == nil && s.AMT == nil {
		err = ErrNoAMTSettings
	}
	if err != nil {
		return nil, 0, err
	}
	key, err := readKey(dir)
	if err != nil {
		return nil, 0, err
	}
	file, err = checkin.ExportSettings(s.Version, *s.AMT, time.Now(), key, passphrase)
	return file, s.Version, err
}

// ErrNoAMTSettings says that there is nothing to export.
var ErrNoAMTSettings = errors.New("no AMT settings hold there: set some with samehost-manager amtsetup set")
