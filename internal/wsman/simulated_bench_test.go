package wsman_test

import (
	"testing"

	"samehost/internal/amtsim"
	"samehost/internal/wsman"
)

const amtSchema = "http://intel.com/wbem/wscim/1/amt-schema/1/"

// simulated starts a simulated device in this process, and a client of it that has logged on. Allocations counted with
// it are the client's and the firmware's together.
func simulated(b *testing.B) (*amtsim.Device, *wsman.Client) {
	b.Helper()
	d, err := amtsim.Start(amtsim.Options{User: "admin", Password: "P@ssw0rd!"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	c, err := wsman.NewClient(wsman.Endpoint{URL: d.NetworkURL(), User: "admin", Password: "P@ssw0rd!"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if _, err := c.Get(b.Context(), amtSchema+"AMT_GeneralSettings"); err != nil {
		b.Fatal(err)
	}
	return d, c
}

// BenchmarkGetSimulated is BenchmarkGet against the simulated firmware. Connections: one that the challenge closes, and
// one for all calls.
func BenchmarkGetSimulated(b *testing.B) {
	d, c := simulated(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(b.Context(), amtSchema+"AMT_GeneralSettings"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(d.Snapshot().Connections), "conns")
}

// BenchmarkInvokeSimulated is the smallest Invoke, GetMTU, against the simulated firmware.
func BenchmarkInvokeSimulated(b *testing.B) {
	d, c := simulated(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Invoke(b.Context(), amtSchema+"AMT_ThirdPartyDataStorageService", "GetMTU"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(d.Snapshot().Connections), "conns")
}

// BenchmarkSimulatorGets is what two busy clients get out of one simulator on the processors they share with it.
func BenchmarkSimulatorGets(b *testing.B) {
	d, err := amtsim.Start(amtsim.Options{User: "admin", Password: "P@ssw0rd!"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	b.RunParallel(func(pb *testing.PB) {
		c, err := wsman.NewClient(wsman.Endpoint{URL: d.NetworkURL(), User: "admin", Password: "P@ssw0rd!"})
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		for pb.Next() {
			if _, err := c.Get(b.Context(), amtSchema+"AMT_GeneralSettings"); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}
