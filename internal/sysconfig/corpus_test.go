package sysconfig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The corpus in testdata/corpus is files as people have them and as they get broken, each NAME.NDD or NAME.hosts with
// what must become of it in NAME.EXT.want: its entries, targets of dcmamtin marked, or the error. cmd/dcmamtin walks the
// same files through the command.
const corpus = "testdata/corpus"

// show is the readable form of what a file holds.
func show(entries []Entry, err error) string {
	if err != nil {
		return fmt.Sprintf("error: %v\n", err)
	}
	if len(entries) == 0 {
		return "no host\n"
	}
	var b strings.Builder
	for _, e := range entries {
		target := "no target"
		if e.Target() {
			target = "target"
		}
		fmt.Fprintf(&b, "line %d: %s %s %q", e.Line, target, e.Address, e.Name)
		for _, a := range e.Aliases {
			fmt.Fprintf(&b, " alias %q", a)
		}
		for _, k := range known {
			if v := e.get(k); v != "" {
				fmt.Fprintf(&b, " %s=%q", k, v)
			}
		}
		for _, o := range e.Unknown {
			fmt.Fprintf(&b, " unknown %s=%q", o.Key, o.Value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestCorpus(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(corpus)
	if err != nil {
		t.Fatal(err)
	}
	inputs, good := 0, 0
	for _, f := range files {
		name := f.Name()
		if of, is := strings.CutSuffix(name, ".want"); is {
			if _, err := os.Stat(filepath.Join(corpus, of)); err != nil {
				t.Errorf("%s wants something of a file that is not there: %v", name, err)
			}
			continue
		}
		if ext := filepath.Ext(name); ext != ".NDD" && ext != ".hosts" {
			t.Errorf("%s is neither a file nor what is wanted of one", name)
			continue
		}
		inputs++
		raw, err := os.ReadFile(filepath.Join(corpus, name))
		if err != nil {
			t.Fatal(err)
		}
		entries, err := readAll(raw)
		got := show(entries, err)
		want, wantErr := os.ReadFile(filepath.Join(corpus, name+".want"))
		if wantErr != nil {
			t.Errorf("%s: nothing says what it should be: %v; it is\n%s", name, wantErr, got)
		} else if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if strings.HasPrefix(name, "bad-") != (err != nil) {
			t.Errorf("%s: its name says something else than %v", name, err)
		}
		if err != nil {
			continue
		}
		good++
		for _, enc := range []Encoding{UTF8, ShiftJIS} {
			var out bytes.Buffer
			err := Write(&out, slices.Values(entries), enc)
			if lacks := (*FieldError)(nil); enc == ShiftJIS && errors.As(err, &lacks) && strings.Contains(err.Error(), "does not exist in Shift_JIS") {
				if !bytes.ContainsFunc(raw, func(r rune) bool { return r >= 0x80 }) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			back, err := readAll(out.Bytes())
			if diff := cmp.Diff(entries, back, sameButLine); err != nil || diff != "" {
				t.Errorf("%s, written and read again: %v\n%s", name, err, diff)
			}
		}
	}
	if inputs < 100 || good < 50 || inputs-good < 50 {
		t.Errorf("%d files, %d of them good: some are missing", inputs, good)
	}
}
