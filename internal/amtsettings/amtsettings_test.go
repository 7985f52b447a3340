package amtsettings

import (
	"os"
	"path/filepath"
	"testing"

	"samehost/internal/checkin"
	"samehost/internal/config"
)

func TestWithKept(t *testing.T) {
	t.Parallel()
	told, untold, damaged := t.TempDir(), t.TempDir(), t.TempDir()
	k := checkin.KeptSettings{Settings: checkin.Settings{AMT: &checkin.AMTSettings{User: "told", Password: checkin.NewPassword("P@ssw0rd"), Port: "16993", TLS: true}}}
	k.Serial, k.Version = 1, 1
	if err := checkin.KeepSettings(told, checkin.SettingsFileName, k); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, checkin.SettingsFileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir         string
		fromManager bool
		user        string
		fails       bool
	}{
		"told":                   {told, true, "told", false},
		"told, but not asked":    {told, false, "own", false},
		"not told yet":           {untold, true, "own", false},
		"no data folder":         {"", true, "own", false},
		"damaged":                {damaged, true, "own", true},
		"damaged, but not asked": {damaged, false, "own", false},
	} {
		a, err := WithKept(config.AMT{InUse: true, User: "own", FromManager: c.fromManager}, c.dir)
		if a.User != c.user || (err != nil) != c.fails {
			t.Errorf("%s: user %q, %v", name, a.User, err)
		}
		if c.user == "told" {
			if p, err := a.Password(); err != nil || p.Reveal() != "P@ssw0rd" || a.Port != "16993" || !a.TLS {
				t.Errorf("%s: %+v, %v", name, a, err)
			}
		}
	}
}
