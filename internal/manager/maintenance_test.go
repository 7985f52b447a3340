package manager

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/amtsim"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// known makes a registry with one PC of these facts, found at that address.
func known(t *testing.T, uuid string, addresses ...string) (*registry.Registry, hostid.ID) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	reg, err := registry.Create(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "r.db"), registry.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	return reg, enrolled(t, reg, key, "", uuid, addresses...)
}

func enrolled(t *testing.T, reg *registry.Registry, key ed25519.PrivateKey, name, uuid string, addresses ...string) hostid.ID {
	t.Helper()
	tok, err := reg.CreateToken(t.Context(), time.Time{}, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	seed := hostid.NewSeed()
	r := checkin.Report{
		Audience: checkin.FingerprintOf(key.Public().(ed25519.PublicKey)), HostID: hostid.NewID(), SealKey: seed.SealingKey().PublicKey().Bytes(),
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Counter: 1,
		Facts: hardware.Facts{SystemUUID: uuid, BoardSerial: "board " + name}, Names: checkin.Names{Host: name}, Addresses: addresses, Origin: hostid.Generated,
	}
	s, err := checkin.Sign(r, seed.SigningKey(), &tok)
	if err == nil {
		_, err = reg.CheckIn(context.WithoutCancel(t.Context()), s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.HostID
}

// The AMT of a PC is cleared where it proves to be that PC's, and nowhere else.
func TestClearAMT(t *testing.T) {
	t.Parallel()
	start := func(address string, index int) (d *amtsim.Device, uuid string) {
		t.Helper()
		d, err := amtsim.Start(amtsim.Options{Network: address + ":16992", Local: "none", Index: index})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		uuid, ok := hardware.DisplayUUID(d.Snapshot().PlatformGUID)
		if !ok || strings.ReplaceAll(strings.ToUpper(uuid), "-", "") == d.Snapshot().PlatformGUID {
			t.Fatalf("UUID %q", uuid) // one whose byte order makes no difference would show nothing
		}
		return d, uuid
	}
	_, uuid := start("127.133.2.1", 1)
	_, other := start("127.133.2.2", 2)
	o := amtinit.Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, Port: 16992}
	by := registry.Actor{Who: "alice", Trigger: registry.ByCommand}

	reg, id := known(t, uuid, "127.133.2.2", "127.133.2.1")
	got, err := ClearAMT(t.Context(), reg, id, o, by)
	if err != nil || got.Removed || got.Address != "127.133.2.1:16992" || got.SystemUUID != uuid {
		t.Errorf("%+v, %v", got, err)
	}
	events, err := reg.HistoryOf(t.Context(), id)
	if err != nil || events[len(events)-1].Kind != "amt-clear" || !strings.Contains(events[len(events)-1].Sentence(registry.English), "127.133.2.1") {
		t.Errorf("events %+v, %v", events, err)
	}

	reg, id = known(t, uuid, "127.133.2.2")
	var failed *NotCleared
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.As(err, &failed) || !strings.Contains(err.Error(), "AMT of another PC") {
		t.Errorf("at another PC's: %v", err)
	}
	reg, id = known(t, "", "127.133.2.1")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.Is(err, registry.ErrNoUUID) {
		t.Errorf("no UUID: %v", err)
	}
	reg, id = known(t, uuid, "127.133.2.1")
	enrolled(t, reg, ed25519.NewKeyFromSeed(make([]byte, 32)), "twin", uuid, "127.133.2.9")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.Is(err, registry.ErrSharedUUID) {
		t.Errorf("shared UUID: %v", err)
	}
	reg, id = known(t, other, "127.133.2.9")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.As(err, &failed) || failed.Code != amtinit.NothingAnswers {
		t.Errorf("nobody there: %v", err)
	}
	o.Password = "wrong password"
	reg, id = known(t, other, "127.133.2.2")
	if _, err = ClearAMT(t.Context(), reg, id, o, by); !errors.As(err, &failed) || failed.Code != amtinit.LogOnRefused || strings.Contains(fmt.Sprint(err), "wrong password") {
		t.Errorf("wrong password: %v", err)
	}
	if _, err = ClearAMT(t.Context(), reg, hostid.NewID(), o, by); !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	w := registry.Whereabouts{Name: "pc1", FQDN: "pc1.example", Addresses: []string{"192.0.2.1", "fe80::1", "0.0.0.0", "::ffff:192.0.2.2", "no address"}}
	for first, want := range map[bool]string{
		false: "pc1.example pc1 192.0.2.1 192.0.2.2",
		true:  "192.0.2.1 192.0.2.2 pc1.example pc1",
	} {
		var got []string
		for _, p := range places(w, first) {
			got = append(got, p.String())
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("address first %t: %s", first, s)
		}
	}
}
