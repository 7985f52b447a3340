package wsman

import (
	"errors"
	"testing"

	"samehost/internal/amtsim"
)

// The clients of one device share what may still go wrong.
func TestLogOnsAreBoundedOverClients(t *testing.T) {
	t.Parallel()
	const class = "http://intel.com/wbem/wscim/1/amt-schema/1/AMT_GeneralSettings"
	d, err := amtsim.Start(amtsim.Options{Local: "none"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	letIn := 0
	logOns := &LogOns{Left: 2, LetIn: func() { letIn++ }}
	client := func(password Secret) *Client {
		return newTestClient(t, Endpoint{URL: d.NetworkURL(), User: amtsim.DefaultUser, Password: password, LogOns: logOns})
	}
	get := func(c *Client, want error, left, calls int) {
		t.Helper()
		if _, err := c.Get(testContext(t), class); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if logOns.Left != left || letIn != calls {
			t.Errorf("%d log-ons left, let in %d times, want %d and %d", logOns.Left, letIn, left, calls)
		}
	}
	right := client(amtsim.DefaultPassword)
	get(right, nil, 2, 1)
	get(right, nil, 2, 1)
	if err := d.SetFaults(amtsim.Faults{NonceUses: 1}); err != nil { // a nonce that has run out is no failed log-on
		t.Fatal(err)
	}
	for range 3 {
		get(right, nil, 2, 1)
	}
	if err := d.SetFaults(amtsim.Faults{}); err != nil {
		t.Fatal(err)
	}
	get(client("Wr0ng!word"), ErrLogOn, 1, 1)
	wrong := client("Wr0ng!word")
	get(wrong, ErrLogOn, 0, 1)
	get(wrong, ErrLogOnsSpent, 0, 1)
	get(client(amtsim.DefaultPassword), ErrLogOnsSpent, 0, 1)
	get(right, nil, 0, 1) // it has proved itself
	if n := d.Snapshot().FailedLogons; n != 2 {
		t.Errorf("%d failed log-ons, want 2", n)
	}
}
