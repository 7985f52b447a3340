package checkin_test

import (
	"strings"
	"testing"

	"samehost/internal/checkin"
)

// A relay that could spell a report in another way would make two reports, and thereby a fork, of one.
func TestOneSpelling(t *testing.T) {
	t.Parallel()
	s := signRaw(t, report())
	if _, err := checkin.Verify(s); err != nil {
		t.Fatal(err)
	}
	end := len(s.JWS) - 1
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	spare := letters[strings.IndexByte(letters, s.JWS[end])|1] // 64 bytes leave four bits of the last letter unused
	for name, jws := range map[string]string{
		"line end after":        s.JWS + "\n",
		"line end before":       "\n" + s.JWS,
		"line end in a part":    s.JWS[:9] + "\n" + s.JWS[9:],
		"carriage return":       s.JWS[:end] + "\r" + s.JWS[end:],
		"spare bits":            s.JWS[:end] + string(spare),
		"padding":               s.JWS + "==",
		"blank before a period": strings.Replace(s.JWS, ".", " .", 1),
	} {
		if _, err := checkin.Verify(checkin.SignedReport{JWS: jws}); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}
