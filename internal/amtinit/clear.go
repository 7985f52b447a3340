package amtinit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

// Cleared is what became of the work on one PC's AMT.
type Cleared struct {
	Outcome          // of the place that decided
	Removed int      // registrations of our application that are gone
	Left    []string // enterprises other than ours, made printable, under which an application of our names is registered
}

// ErrOtherPC is what Clear fails with where all that answered is another PC's AMT.
var ErrOtherPC = errors.New("this AMT is another PC's")

// Clear removes our own application from the AMT of one PC (amt.Clear), which is looked for at places one after the other. ours
// is asked whether an AMT of that PlatformGUID ("" if it does not tell) is that PC's; where it is not, nothing is changed and
// the next place is tried, and so it is where nothing answers. Anything else ends the search: a device that refuses the
// log-on at one place is not asked again at another. Parallel and DryRun of the options have no meaning here.
func Clear(ctx context.Context, o Options, places []Target, ours func(platformGUID string) bool) (Cleared, error) {
	done := Cleared{Outcome: Outcome{Code: Unresolvable, Step: Resolve, Err: errors.New("no name or address to look for it at")}}
	var other *Cleared
	for _, t := range places {
		e, err := newEngine(o)
		if err != nil {
			return Cleared{}, err
		}
		done = Cleared{}
		e.clear = func(ctx context.Context, c *wsman.Client) (amt.Result, error) {
			is, err := amt.Clear(ctx, c, e.Enterprise, func(about amt.About) error {
				if !ours(about.PlatformGUID) {
					return fmt.Errorf("%w: %s", ErrOtherPC, about.PlatformGUID)
				}
				return nil
			})
			done.Removed, done.Left = max(done.Removed, is.Removed), is.Left // of an attempt that broke, too
			return amt.Result{About: is.About}, err
		}
		e.run(ctx, slices.Values([]Target{t}), func(out Outcome) { done.Outcome = out })
		switch {
		case errors.Is(done.Err, ErrOtherPC):
			was := done
			other = &was
		case done.OK() || done.Removed > 0 || !notThere(done.Code):
			return done, nil
		}
	}
	if other != nil {
		return *other, nil
	}
	return done, nil
}

func notThere(c Code) bool {
	return c == Unresolvable || c == NothingAnswers || c == NotAMT || c == OwnMachine
}
