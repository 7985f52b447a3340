package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// # Settings
//
// The manager's AMT settings come sealed in replies, or in a file that an administrator carries (samehost-manager amtsetup
// export). They are made durable, handed to whoever works with them (Options.Settings), and named in the next report.
// Serials only grow, so that nobody on the way sets older ones back by holding a reply.

// importName is where ImportSettings leaves settings for the process that works in the data folder.
const importName = "settings-import.json"

// brought are settings of a reply, until they are taken.
type brought struct {
	sealed checkin.SealedSettings
	host   hostid.ID
	epoch  checkin.Token
}

// loadSettings reads what the data folder holds and hands it on.
func (a *Agent) loadSettings() error {
	if a.o.Settings == nil {
		return nil
	}
	k, err := checkin.ReadKeptSettings(a.o.DataDir, checkin.SettingsFileName)
	switch {
	case err == nil:
		a.kept = k
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, hostid.ErrCorrupt):
		name, asideErr := setAside(filepath.Join(a.o.DataDir, checkin.SettingsFileName), "corrupt", a.o.Clock.Wall())
		if asideErr != nil {
			return fmt.Errorf("%w; and it cannot be set aside: %w", err, asideErr)
		}
		a.o.Log.Error("the manager's AMT settings cannot be read; they are asked for again", "reason", err, "kept_as", filepath.Base(name))
	default:
		return err
	}
	a.takeImported()
	a.hand(a.kept.AMT)
	return nil
}

// hand tells whoever works with the settings.
func (a *Agent) hand(s *checkin.AMTSettings) {
	if err := a.o.Settings(s); err != nil {
		a.o.Log.Error("the manager's AMT settings cannot be used", "reason", err)
	}
}

// holds is what reports say of settings; nil where this PC takes none.
func (a *Agent) holds() *checkin.SettingsState {
	if a.o.Settings == nil {
		return nil
	}
	s := a.kept.SettingsState
	return &s
}

// bring notes the settings of a reply. They are opened once the reply is durable.
func (a *Agent) bring(reply checkin.Reply, sent checkin.Report) {
	if held := sent.Settings; held != nil && *held == a.kept.SettingsState {
		a.untold = false
	}
	if reply.Settings != nil && a.o.Settings != nil {
		a.brought = &brought{*reply.Settings, sent.HostID, sent.Epoch}
	}
}

// takeSettings takes what the last reply brought, and reports whether that changed anything. Whatever goes wrong is logged,
// and the manager sends them again, since the next report names those until now.
func (a *Agent) takeSettings(record hostid.Record) bool {
	b := a.brought
	if a.brought = nil; b == nil || b.host != record.HostID || b.sealed.Serial <= a.kept.Serial {
		return false // not for this host, or older than what it has
	}
	s, err := b.sealed.Open(record.Seed.SealingKey(), b.host, b.epoch)
	if err == nil {
		err = a.keep(checkin.KeptSettings{Settings: s, Manager: a.chain.Manager, Came: checkin.BySettingsReply, Since: a.o.Clock.Wall()})
	}
	if err != nil {
		if err.Error() != a.untaken {
			a.o.Log.Warn("the manager's AMT settings are not taken", "reason", err)
			a.untaken = err.Error()
		}
		return false
	}
	a.untaken = ""
	a.o.Log.Info("the manager's AMT settings changed", "version", s.Version)
	a.hand(a.kept.AMT)
	return true
}

// keep makes settings durable.
func (a *Agent) keep(k checkin.KeptSettings) error {
	a.o.Step("before " + checkin.SettingsFileName)
	defer a.o.Step("after " + checkin.SettingsFileName)
	if err := checkin.KeepSettings(a.o.DataDir, checkin.SettingsFileName, k); err != nil {
		return err
	}
	a.kept, a.untold = k, true
	return nil
}

// takeImported takes what ImportSettings left, and reports whether that changed anything.
func (a *Agent) takeImported() bool {
	k, err := checkin.ReadKeptSettings(a.o.DataDir, importName)
	if errors.Is(err, fs.ErrNotExist) || a.o.Settings == nil {
		return false
	}
	if err == nil {
		err = a.fits(k)
	}
	if err == nil {
		k.Serial = a.kept.Serial + 1 // whatever a reply brought before is older
		k.Since = a.o.Clock.Wall()
		if err = a.keep(k); err != nil {
			a.o.Log.Warn("the imported AMT settings are not taken yet", "reason", err)
			return false // tried again
		}
		a.o.Log.Info("AMT settings were imported", "version", k.Version)
	} else {
		a.o.Log.Error("the imported AMT settings are not taken", "reason", err)
	}
	if rmErr := os.Remove(filepath.Join(a.o.DataDir, importName)); rmErr != nil {
		a.o.Log.Warn("imported AMT settings cannot be removed", "reason", rmErr)
	}
	return err == nil
}

func (a *Agent) fits(k checkin.KeptSettings) error {
	manager, _ := a.manager()
	return fits(k, a.kept, manager)
}

// What is wrong with an exported file for a PC.
var (
	ErrOtherManager  = errors.New("the file is another manager's")
	ErrOlderSettings = errors.New("the file is older than the settings that this PC has; have it exported anew")
)

// fits says what speaks against imported settings where others are held already; manager is "" where none is known yet.
func fits(imported, held checkin.KeptSettings, manager checkin.Fingerprint) error {
	switch {
	case manager != "" && imported.Manager != manager:
		return fmt.Errorf("%w: it is signed by %s, and this PC's manager is %s; have it exported there", ErrOtherManager, imported.Manager, manager)
	case held.Manager == imported.Manager && imported.Version < held.Version:
		return ErrOlderSettings
	}
	return nil
}

// ImportSettings opens an exported file and leaves its settings in a data folder for the process that works there, which
// takes them at its next check-in, or when it starts. It fails with checkin.ErrPassphrase, checkin.ErrAltered,
// ErrOtherManager and ErrOlderSettings. tokenFile is the enrolment token's, "" for none: before the first check-in it
// says who the manager is.
func ImportSettings(folder, tokenFile string, file []byte, passphrase string) (checkin.Exported, error) {
	e, err := checkin.ImportSettings(file, passphrase)
	if err != nil {
		return checkin.Exported{}, err
	}
	held, err := checkin.ReadKeptSettings(folder, checkin.SettingsFileName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, hostid.ErrCorrupt) {
		return checkin.Exported{}, err
	}
	var c chain
	if err := readState(filepath.Join(folder, chainName), &c); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, hostid.ErrCorrupt) {
		return checkin.Exported{}, err
	}
	manager := c.Manager
	if tokenFile != "" {
		t, err := ReadToken(tokenFile)
		switch {
		case err == nil:
			manager = t.Manager
		case manager == "" && !errors.Is(err, fs.ErrNotExist):
			return checkin.Exported{}, err
		}
	}
	k := checkin.KeptSettings{
		Settings: checkin.Settings{SettingsState: checkin.SettingsState{Version: e.Version}, AMT: &e.AMT},
		Manager:  e.Manager, Came: checkin.BySettingsFile, Since: time.Now(),
	}
	if err := fits(k, held, manager); err != nil {
		return checkin.Exported{}, err
	}
	return e, checkin.KeepSettings(folder, importName, k)
}

// SettingsStatus is what status shows of the manager's settings; never the secret in them.
type SettingsStatus struct {
	Version uint64    `json:"version"` // as samehost-manager amtsetup show has it; 0: taken back
	Since   time.Time `json:"since"`   // when they came, by this PC's clock
	Came    string    `json:"came"`    // check-in, or file
	Serial  uint64    `json:"serial"`
}

// settingsStatus reads what a data folder holds; nil where there is nothing that can be read.
func settingsStatus(folder string) *SettingsStatus {
	k, err := checkin.ReadKeptSettings(folder, checkin.SettingsFileName)
	if err != nil {
		return nil
	}
	return &SettingsStatus{k.Version, k.Since, k.Came, k.Serial}
}
