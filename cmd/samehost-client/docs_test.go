package main

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// Both manuals name every word that the client prints, and every option.
func TestManualsAreComplete(t *testing.T) {
	t.Parallel()
	var words []string
	for _, s := range []hostid.State{hostid.Stored, hostid.Empty, hostid.NotInitialized, hostid.Unavailable, hostid.Corrupt, hostid.Newer, hostid.Foreign, hostid.Differs} {
		words = append(words, fmt.Sprintf("| `%s` |", s))
	}
	for _, o := range []hostid.Origin{hostid.Kept, hostid.Restored, hostid.Generated, hostid.Provisional} {
		words = append(words, fmt.Sprintf("| `%s` |", o))
	}
	for _, r := range []checkin.RefusalCode{checkin.Malformed, checkin.WrongAudience, checkin.NeedsEnrolment, checkin.BadToken} {
		words = append(words, fmt.Sprintf("| `refused (%s)` |", r))
	}
	for _, object := range []any{agent.Outcome{}, agent.Status{}, hostid.StoreState{}} {
		for f := range reflect.TypeOf(object).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			words = append(words, "`"+name+"`")
		}
	}
	words = append(words, "`install`", "`run`", "`checkin`", "`status`", "`uninstall`", "--purge", "--erase-nvm", "--no-service", "--json", "--config")
	for _, manual := range []string{"../../docs/operations/client.en.md", "../../docs/operations/client.ja.md"} {
		b, err := os.ReadFile(manual)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s lacks %q", manual, w)
			}
		}
	}
}
