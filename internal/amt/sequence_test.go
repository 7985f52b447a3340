package amt

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"samehost/internal/amtsim"
	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// Faults come one upon another: whatever they leave behind, Load gives the record that was saved last or one of those whose
// Save failed since, nothing is lost but by an administrator, and in the end everything works.
func TestSavesThroughSequencesOfFaults(t *testing.T) {
	t.Parallel()
	methods := []string{"RegisterApplication", "AllocateBlock", "ReadBlock", "WriteBlock"}
	rapid.Check(t, func(rt *rapid.T) {
		d, err := amtsim.Start(amtsim.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer d.Close()
		open := func(url string) *wsman.Client {
			c, err := wsman.NewClient(wsman.Endpoint{URL: url, User: amtsim.DefaultUser, Password: amtsim.DefaultPassword})
			if err != nil {
				rt.Fatal(err)
			}
			return c
		}
		faults := func(f amtsim.Faults) {
			if err := d.SetFaults(f); err != nil {
				rt.Fatal(err)
			}
		}
		admin := open(d.NetworkURL())
		defer admin.Close()
		if _, err := Initialize(t.Context(), admin, DefaultEnterprise); err != nil {
			rt.Fatal(err)
		}
		stores := [2]*Store{}
		for i := range stores {
			stores[i] = NewStore(open(d.LocalURL()), DefaultEnterprise)
			defer stores[i].d.c.Close()
		}
		var possible []hostid.Record // what Load may give
		stored := false              // it must give one of them
		check := func(s *Store, got hostid.Record, err error) {
			switch {
			case err == nil:
				for _, r := range possible {
					if got.Equal(r) {
						return
					}
				}
				rt.Fatalf("Load gives %+v, which is none of the %d possible", got, len(possible))
			case stored && (errors.Is(err, hostid.ErrNotStored) || errors.Is(err, hostid.ErrCorrupt)):
				rt.Fatalf("Load: %v, though a record was stored", err)
			}
		}
		last := 0
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			n := rapid.IntRange(0, 16).Draw(rt, "n")
			bytes := rapid.IntRange(0, 400).Draw(rt, "bytes")
			switch rapid.SampledFrom([]string{"none", "worn", "cut", "drop", "restart", "restart in", "short", "busy", "locked", "remove", "enterprise"}).Draw(rt, "fault") {
			case "none":
				faults(amtsim.Faults{})
			case "worn":
				faults(amtsim.Faults{WornOut: true})
			case "cut":
				faults(amtsim.Faults{CutWriteAfter: &bytes, DropSessionAfter: &n})
			case "drop":
				faults(amtsim.Faults{DropSessionAfter: &n, ShortWrite: bytes + 20, ShortWriteStatus: uint32(n % 2)})
			case "restart":
				faults(amtsim.Faults{RestartAfterCalls: &n})
			case "restart in":
				faults(amtsim.Faults{RestartInCall: methods[n%len(methods)]})
			case "short":
				faults(amtsim.Faults{ShortWrite: bytes})
			case "busy":
				faults(amtsim.Faults{Busy: true})
			case "locked":
				faults(amtsim.Faults{LockByOther: true})
			case "remove": // by an administrator: all of it is gone
				faults(amtsim.Faults{})
				list, err := admin.Invoke(t.Context(), amtSchema+adminClass, "AdminGetRegisteredApplications")
				if err != nil {
					rt.Fatal(err)
				}
				for _, h := range list.Values("ApplicationHandles") {
					if _, err := admin.Invoke(t.Context(), amtSchema+adminClass, "AdminRemoveApplication", wsman.Param{Name: "Handle", Value: h}); err != nil {
						rt.Fatal(err)
					}
				}
				possible, stored = nil, false
			case "enterprise":
				faults(amtsim.Faults{RemoveEnterprise: DefaultEnterprise})
			}
			s := stores[rapid.IntRange(0, 1).Draw(rt, "store")]
			if rapid.Bool().Draw(rt, "load") {
				got, err := s.Load(t.Context())
				check(s, got, err)
				continue
			}
			last++
			r := record(last)
			if err := s.Save(t.Context(), r); err == nil {
				possible, stored = []hostid.Record{r}, true
			} else {
				possible = append(possible, r)
			}
		}
		faults(amtsim.Faults{})
		if _, err := Initialize(t.Context(), admin, DefaultEnterprise); err != nil {
			rt.Fatal(err)
		}
		for _, s := range stores {
			got, err := s.Load(t.Context())
			if err != nil && !errors.Is(err, hostid.ErrNotStored) && !errors.Is(err, hostid.ErrCorrupt) {
				rt.Fatalf("Load after it all: %v", err)
			}
			check(s, got, err)
			last++
			if err := s.Save(t.Context(), record(last)); err != nil {
				rt.Fatalf("Save after it all: %v", err)
			}
			possible, stored = []hostid.Record{record(last)}, true
			got, err = s.Load(t.Context())
			check(s, got, err)
			for i := range blockNames {
				if _, b := rawBlock(d, i); len(b) == 0 {
					rt.Fatalf("block %q holds nothing after a Save", blockNames[i])
				}
			}
		}
	})
}
