package help

import (
	"os"
	"strings"
)

// Language is the one that this system speaks, as LC_ALL, LC_MESSAGES or LANG say or Windows is set: "ja" or "en".
func Language() string {
	for _, l := range []string{os.Getenv("LC_ALL"), os.Getenv("LC_MESSAGES"), os.Getenv("LANG"), systemLanguage()} {
		if l = strings.ToLower(l); l != "" {
			if strings.HasPrefix(l, "ja") {
				return "ja"
			}
			return "en"
		}
	}
	return "en"
}
