package wsman

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGetAfterChallenge(t *testing.T) {
	t.Parallel()
	d := newDevice(t, logOn(okGet))
	c := newTestClient(t, Endpoint{URL: d.url()})
	for range 3 {
		in, err := c.Get(testContext(t), generalSettings, Selector{"InstanceID", `<&"a">`})
		if err != nil {
			t.Fatal(err)
		}
		if realm, ok := in.Value("DigestRealm"); in.Class != "AMT_GeneralSettings" || realm != testRealm || !ok {
			t.Errorf("class %q, realm %q, %v", in.Class, realm, ok)
		}
	}
	conns, requests := d.seen()
	if conns != 2 || len(requests) != 4 {
		t.Errorf("%d connections and %d requests; want one more than calls of each, since the 401 closes", conns, len(requests))
	}
	if requests[0].authorized() {
		t.Error("the first request carries credentials")
	}
	var counts []string
	for _, r := range requests[1:] {
		counts = append(counts, r.param("nc"))
	}
	if diff := cmp.Diff([]string{"00000001", "00000002", "00000003"}, counts); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(requests[0].body, `<w:Selector Name="InstanceID">&lt;&amp;&quot;a&quot;&gt;</w:Selector>`) {
		t.Errorf("selector not escaped: %s", requests[0].body)
	}
}
