package amtinit

import (
	"errors"
	"net/netip"
	"testing"

	"samehost/internal/amtsim"
)

// The AMT of the right PC is cleared, wherever it is found; nobody else's is touched, and a refused log-on ends the search.
func TestClearFindsTheRightDevice(t *testing.T) {
	t.Parallel()
	const port = 16992
	start := func(address string, index int) *amtsim.Device {
		t.Helper()
		d, err := amtsim.Start(amtsim.Options{Network: netip.AddrPortFrom(netip.MustParseAddr(address), port).String(), Local: "none", Index: index})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	wrong, right := start("127.133.1.1", 1), start("127.133.1.2", 2)
	target := func(s string) Target { return Target{Address: netip.MustParseAddr(s)} }
	o := access(netip.AddrPortFrom(netip.MustParseAddr("127.133.1.1"), port))
	if out := initializeOne(t, netip.MustParseAddrPort("127.133.1.2:16992"), o); !out.OK() {
		t.Fatalf("%+v", out)
	}
	ours := func(guid string) bool { return guid == right.Snapshot().PlatformGUID }
	nobody := target("127.133.1.9")

	got, err := Clear(t.Context(), o, []Target{nobody, target("127.133.1.1"), target("127.133.1.2")}, ours)
	if err != nil || !got.OK() || got.Removed != 0 || got.Reached.String() != "127.133.1.2:16992" || got.Result.About.PlatformGUID != right.Snapshot().PlatformGUID {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = Clear(t.Context(), o, []Target{target("127.133.1.1"), nobody}, ours)
	if err != nil || got.OK() || !errors.Is(got.Err, ErrOtherPC) || got.Reached.String() != "127.133.1.1:16992" {
		t.Errorf("another PC's: %+v, %v", got, err)
	}
	got, err = Clear(t.Context(), o, []Target{nobody}, ours)
	if err != nil || got.Code != NothingAnswers {
		t.Errorf("nobody: %+v, %v", got, err)
	}
	if got, err = Clear(t.Context(), o, nil, ours); err != nil || got.Code != Unresolvable {
		t.Errorf("nowhere: %+v, %v", got, err)
	}
	before := right.Snapshot().FailedLogons
	o.Password = "wrong password"
	got, err = Clear(t.Context(), o, []Target{target("127.133.1.1"), target("127.133.1.2")}, ours)
	if err != nil || got.Code != LogOnRefused {
		t.Errorf("wrong password: %+v, %v", got, err)
	}
	if a, b := wrong.Snapshot().FailedLogons, right.Snapshot().FailedLogons-before; a == 0 || a > 2 || b != 0 {
		t.Errorf("%d and %d failed log-ons", a, b)
	}
	if n := wrong.Snapshot().Calls["AdminRemoveApplication"] + right.Snapshot().Calls["AdminRemoveApplication"]; n != 0 {
		t.Errorf("%d removals", n)
	}
}
