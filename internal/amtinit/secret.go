package amtinit

import (
	"slices"
	"strings"

	"samehost/internal/wsman"
)

// leastSecret is the shortest password that is looked for in what devices say; AMT takes none below eight characters.
const leastSecret = 8

// echo is an error that repeated our password. The password is never sent, only proven; but a device that has it as its own
// could write it into a fault, and from there it would get into logs.
type echo struct {
	error
	secret string
}

func (e echo) Error() string { return hide(e.error.Error(), e.secret) }
func (e echo) Unwrap() error { return e.error }

func hide(text, secret string) string { return strings.ReplaceAll(text, secret, "***") }

// hideSecret takes the password out of everything in the outcome that a device may have written.
func (o *Outcome) hideSecret(password wsman.Secret) {
	secret := string(password)
	if len(secret) < leastSecret {
		return
	}
	if o.Err != nil && strings.Contains(o.Err.Error(), secret) {
		o.Err = echo{o.Err, secret}
	}
	about := &o.Result.About
	about.Version, about.PlatformGUID = hide(about.Version, secret), hide(about.PlatformGUID, secret)
	for i, name := range o.Result.Enterprises {
		if strings.Contains(name, secret) {
			o.Result.Enterprises = slices.Clone(o.Result.Enterprises)
			o.Result.Enterprises[i] = hide(name, secret)
		}
	}
}
