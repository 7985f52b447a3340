package checkin

import "testing"

func TestProblemText(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]problem{
		"":                  {},
		"Try again later":   {Title: "Try again later"},
		"no relay":          {Detail: "no relay"},
		"Not a relay: gone": {Title: "Not a relay", Detail: "gone"},
	} {
		if got := p.text(); got != want {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
}
