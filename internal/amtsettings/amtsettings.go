// Package amtsettings joins what a machine's own file says of the AMT management user with what the manager has told it.
package amtsettings

import (
	"errors"
	"fmt"
	"io/fs"

	"samehost/internal/checkin"
	"samehost/internal/config"
)

// WithKept is the table [amt] with the settings that the manager has told this machine, as they are kept in that data folder,
// where the file leaves them to the manager (config.AMT.FromManager). Without a data folder, or with none kept, it is the table.
func WithKept(a config.AMT, dataDir string) (config.AMT, error) {
	if !a.FromManager || dataDir == "" {
		return a, nil
	}
	k, err := checkin.ReadKeptSettings(dataDir, checkin.SettingsFileName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, nil
	case err != nil:
		return a, fmt.Errorf("%w; write password_file into [amt], or have the manager tell it again (samehost-manager amtsetup set)", err)
	case k.AMT == nil:
		return a, nil
	}
	return a.With(config.Given{
		User: k.AMT.User, Password: config.NewSecret(k.AMT.Password.Reveal()), Port: k.AMT.Port, TLS: k.AMT.TLS,
		TLSCA: k.AMT.TLSCA, TLSPin: k.AMT.TLSPin, Enterprise: k.AMT.Enterprise,
	}), nil
}
