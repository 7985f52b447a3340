package amtsim

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tlsTrust trusts the device's certificate and nothing else, after checking the pin against it.
func tlsTrust(t *testing.T, d *Device) *tls.Config {
	t.Helper()
	s := d.Snapshot()
	block, _ := pem.Decode([]byte(s.TLSCertificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if want := "sha256:" + base64.StdEncoding.EncodeToString(sum[:]); s.TLSPin != want {
		t.Errorf("pin %s, want %s", s.TLSPin, want)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{RootCAs: pool}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	d := start(t, Options{Seed: 7, Index: 12, Release: "11.8.50.3425"})
	c := newClient(t, d.NetworkURL())
	s := d.Snapshot()
	if !regexp.MustCompile(`^[0-9A-F]{32}$`).MatchString(s.PlatformGUID) {
		t.Fatalf("PlatformGUID %q", s.PlatformGUID)
	}
	selector := func(pairs ...string) string {
		b := "<w:SelectorSet>"
		for i := 0; i < len(pairs); i += 2 {
			b += `<w:Selector Name="` + pairs[i] + `">` + pairs[i+1] + `</w:Selector>`
		}
		return b + "</w:SelectorSet>"
	}
	for _, test := range []struct{ class, selectors, property, want string }{
		{nsCIM + "CIM_ComputerSystemPackage", "", "PlatformGUID", s.PlatformGUID},
		{gen, "", "HostName", "pc-0012"},
		{gen, "", "DigestRealm", s.DigestRealm},
		{gen, selector("InstanceID", "Intel(r) AMT: General Settings"), "DomainName", "example.test"},
		{gen, "<w:SelectorSet></w:SelectorSet>", "DomainName", "example.test"},
		{gen, selector("__cimnamespace", "root/cimv2"), "DomainName", "example.test"},
		{sac, selector("Name", "Intel(r) AMT Setup and Configuration Service"), "ProvisioningState", "2"},
		{nsCIM + "CIM_Chassis", "", "SerialNumber", s.SystemSerial},
		{nsCIM + "CIM_Chassis", selector("Tag", "CIM_Chassis", "CreationClassName", "CIM_Chassis"), "Manufacturer", "Example Computers"},
		{nsCIM + "CIM_Card", "", "SerialNumber", s.BoardSerial},
		{nsAMT + "AMT_EthernetPortSettings", selector("InstanceID", "Intel(r) AMT Ethernet Port Settings 0"), "MACAddress", s.MAC},
		{nsCIM + "CIM_SoftwareIdentity", selector("InstanceID", "AMT"), "VersionString", "11.8.50"},
		{nsCIM + "CIM_SoftwareIdentity", selector("InstanceID", "Build Number"), "VersionString", "3425"},
		{aut, "", "AllowHttpQopAuthOnly", "1"},
		{adm, selector("CreationClassName", "AMT_ThirdPartyDataStorageAdministrationService", "Name", "Intel(r) AMT Third Party Data Storage Administration Service",
			"SystemCreationClassName", "CIM_ComputerSystem", "SystemName", "Intel(r) AMT"), "EnabledState", "5"},
	} {
		a := c.send(actionGet, test.class, test.selectors, "")
		if got := a.get(test.property); a.code != 200 || got != test.want {
			t.Errorf("Get %s %s: HTTP %d, %s = %q, want %q", test.class, test.selectors, a.code, test.property, got, test.want)
		}
		// Properties stand in alphabetical order.
		last := ""
		for _, line := range a.body {
			name, _, _ := strings.Cut(line, "=")
			if name != "Address" && name != "ResourceURI" && name != "Selector" {
				if name < last {
					t.Errorf("%s: %s after %s", test.class, name, last)
				}
				last = name
			}
		}
	}
	for _, test := range []struct{ action, class, selectors, body, want string }{
		{actionGet, gen, selector("InstanceID", "other"), "", "400 e:InvalidSelectors"},
		{actionGet, gen, selector("HostName", "pc-0012"), "", "400 e:InvalidSelectors"}, // no key
		{actionGet, nsCIM + "CIM_SoftwareIdentity", "", "", "400 e:InvalidSelectors"},   // which of eleven?
		{actionGet, gen, "<w:SelectorSet><w:Selector>x</w:Selector></w:SelectorSet>", "", "400 e:SchemaValidationError"},
		{actionGet, nsCIM + "CIM_Nothing", "", "", "400 b:DestinationUnreachable"},
		{actionGet, "", "", "", "400 b:DestinationUnreachable"},
		{actionGet, gen, "", "<x/>", "400 e:SchemaValidationError"},
		{nsTransfer + "/Put", gen, "", "", "400 b:ActionNotSupported"},
		{gen + "/Reboot", gen, "", "", "400 b:ActionNotSupported"},
		{sto + "/GetMTU", adm, "", "", "400 b:ActionNotSupported"},
		{"", gen, "", "", "400 b:MessageInformationHeaderRequired"},
		{sto + "/GetMTU", sto, selector("Name", "other"), "", "400 e:InvalidSelectors"},
		{actionGet, gen, `<w:OptionSet xmlns:s="` + nsSOAP + `" s:mustUnderstand="true"><w:Option Name="x">y</w:Option></w:OptionSet>`, "", "400 "},
		{actionGet, gen, `<w:OptionSet><w:Option Name="x">y</w:Option></w:OptionSet>`, "", "200 "},
		{actionGet, gen, `<w:MaxEnvelopeSize xmlns:s="` + nsSOAP + `" s:mustUnderstand="true">153600</w:MaxEnvelopeSize>`, "", "200 "},
		{actionGet, gen, `<x:Any xmlns:x="urn:x">y</x:Any>`, "", "200 "},
	} {
		a := c.send(test.action, test.class, test.selectors, test.body)
		if got := fmt.Sprint(a.code, " ", a.sub); got != test.want {
			t.Errorf("%s %s %s: %s, want %s", test.action, test.class, test.selectors, got, test.want)
		}
	}
	// GetUuid says the same as PlatformGUID.
	got, err := base64.StdEncoding.DecodeString(c.must(sac, "GetUuid").get("UUID"))
	if err != nil || fmt.Sprintf("%X", got) != s.PlatformGUID {
		t.Errorf("GetUuid %X, PlatformGUID %s", got, s.PlatformGUID)
	}
	// SOAP 1.1 is another version.
	code, body := c.post(strings.Replace(envelope(actionGet, gen, "1", "", ""), nsSOAP, "http://schemas.xmlsoap.org/soap/envelope/", 1))
	if code != 400 || !strings.Contains(body, "a:VersionMismatch") {
		t.Errorf("SOAP 1.1: HTTP %d %s", code, body)
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	c := newClient(t, d.NetworkURL())
	code, body := c.post(`<s:Envelope xmlns:s="` + nsSOAP + `" xmlns:wsmid="` + nsIdentity + `"><s:Header/><s:Body><wsmid:Identify/></s:Body></s:Envelope>`)
	a := parseAnswer(t, code, body)
	if code != 200 || a.get("ProtocolVersion") != nsWSMan || a.get("ProductVersion") != "AMT 11.8.50" {
		t.Errorf("HTTP %d %s", code, body)
	}
}

func TestEnumeration(t *testing.T) {
	t.Parallel()
	clock := newClock()
	d := start(t, Options{Now: clock.now})
	c := newClient(t, d.NetworkURL())
	software := nsCIM + "CIM_SoftwareIdentity"
	enumerate := func(class, inside string) string {
		t.Helper()
		a := c.send(actionEnumerate, class, "", `<n:Enumerate xmlns:n="`+nsEnumeration+`">`+inside+`</n:Enumerate>`)
		if a.code != 200 {
			t.Fatalf("Enumerate: HTTP %d %s", a.code, a.raw)
		}
		return a.get("EnumerationContext")
	}
	pull := func(class, context, more string) answer {
		t.Helper()
		return c.send(actionPull, class, "", `<n:Pull xmlns:n="`+nsEnumeration+`"><n:EnumerationContext>`+context+`</n:EnumerationContext>`+more+`</n:Pull>`)
	}
	max := func(n string) string { return `<n:MaxElements>` + n + `</n:MaxElements>` }

	context := enumerate(software, "")
	var names []string
	for i := 0; ; i++ {
		a := pull(software, context, max("4"))
		names = append(names, a.all("InstanceID")...)
		if strings.Contains(a.raw, "EndOfSequence") {
			if a.get("EnumerationContext") != "" || i != 2 {
				t.Errorf("pull %d ends the sequence: %s", i, a.raw)
			}
			break
		}
		if !strings.Contains(a.raw, "<g:PullResponse><g:EnumerationContext>"+context+"</g:EnumerationContext><g:Items><h:CIM_SoftwareIdentity>") {
			t.Fatalf("pull %d: %s", i, a.raw)
		}
	}
	if d := cmp.Diff([]string{"Flash", "Netstack", "AMTApps", "AMT", "Sku", "VendorID", "Build Number", "Recovery Version", "Recovery Build Num",
		"Legacy Mode", "AMT FW Core Version"}, names); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	// A context ends with its sequence, by Release, by age, and when too many are open.
	gone := func(name, class, context string) {
		t.Helper()
		if a := pull(class, context, ""); a.sub != "c:InvalidEnumerationContext" {
			t.Errorf("%s: HTTP %d %s", name, a.code, a.outputs())
		}
	}
	gone("after the end", software, context)
	gone("invented", software, "FF000000-0000-0000-0000-000000000000")
	context = enumerate(software, "")
	gone("of another class", gen, context)
	if a := pull(software, context, ""); len(a.all("InstanceID")) != 1 {
		t.Errorf("a Pull without MaxElements gives %d", len(a.all("InstanceID")))
	}
	if a := c.send(actionRelease, software, "", `<n:Release xmlns:n="`+nsEnumeration+`"><n:EnumerationContext>`+context+`</n:EnumerationContext></n:Release>`); a.code != 200 || a.action != actionRelease+"Response" {
		t.Errorf("Release: HTTP %d %s", a.code, a.raw)
	}
	gone("released", software, context)
	context = enumerate(software, "")
	clock.add(enumerationLife)
	gone("old", software, context)
	context = enumerate(software, "")
	for range maxEnumerations {
		enumerate(software, "")
	}
	gone("pushed out", software, context)
	context = enumerate(software, "")
	d.Restart()
	gone("before a restart", software, context)

	// Modes.
	wsman := ` xmlns:w="` + nsWSMan + `"`
	context = enumerate(sto, `<w:OptimizeEnumeration`+wsman+`/><w:MaxElements`+wsman+`>50</w:MaxElements><w:EnumerationMode`+wsman+`>EnumerateObjectAndEPR</w:EnumerationMode>`)
	a := pull(sto, context, max("10"))
	want := `<g:Items><c:Item><h:AMT_ThirdPartyDataStorageService>`
	if !strings.Contains(a.raw, want) || !strings.Contains(a.raw, `<b:EndpointReference><b:Address>`+anonymous+`</b:Address><b:ReferenceParameters><c:ResourceURI>`+sto+
		`</c:ResourceURI><c:SelectorSet><c:Selector Name="CreationClassName">AMT_ThirdPartyDataStorageService</c:Selector>`) {
		t.Errorf("EnumerateObjectAndEPR: %s", a.raw)
	}
	context = enumerate(sto, `<w:EnumerationMode`+wsman+`>EnumerateEPR</w:EnumerationMode>`)
	if a := pull(sto, context, max("10")); strings.Contains(a.raw, "ElementName") || !strings.Contains(a.raw, "<g:Items><b:EndpointReference>") {
		t.Errorf("EnumerateEPR: %s", a.raw)
	}
	for name, body := range map[string]string{
		"no body":      "",
		"unknown mode": `<n:Enumerate xmlns:n="` + nsEnumeration + `"><w:EnumerationMode` + wsman + `>Some</w:EnumerationMode></n:Enumerate>`,
	} {
		if a := c.send(actionEnumerate, sto, "", body); a.sub != "e:SchemaValidationError" {
			t.Errorf("%s: %s", name, a.outputs())
		}
	}
	if a := c.send(actionEnumerate, sto, "", `<n:Enumerate xmlns:n="`+nsEnumeration+`"><n:Filter>x</n:Filter></n:Enumerate>`); a.sub != "c:FilteringNotSupported" {
		t.Errorf("Filter: %s", a.outputs())
	}
}

// keptOpen is a connection on which a request was answered and the next has begun.
func keptOpen(t *testing.T, url string) *raw {
	t.Helper()
	r := dial(t, url)
	r.send(post(newDigest().answer(challengeOf(t, url)), requestBody()))
	r.body(r.head())
	r.send("POST")
	return r
}

// TestRestart: sessions, locks and connections go; handles and data stay.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(testUUID, "V", "A", "Corp")
	b := a.block("b", true)
	a.must("WriteBlock", "BlockHandle", b, "ByteOffset", "0", "Data", b64("kept"))
	a.must("LockBlock", "BlockHandle", b)
	r := keptOpen(t, s.d.LocalURL())
	s.d.Restart()
	if _, err := r.r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an open connection ends with %v", err)
	}
	// A nonce from before is none of this firmware's.
	old := newDigest()
	old.nc = "00ffffff"
	r = dial(t, s.d.LocalURL())
	r.send(post(old.answer(s.local.challenge), requestBody()))
	if head := r.head(); !strings.HasPrefix(head, "HTTP/1.1 401") {
		t.Errorf("a nonce from before the restart: %s", head)
	}
	play(t, s.local, sto, []step{{a, "GetBytesAvailable", nil, rv(8)}})
	again := s.local.register(testUUID, "V", "A", "Corp")
	if again.handle != a.handle || again.session == a.session {
		t.Errorf("handle %s then %s", a.handle, again.handle)
	}
	play(t, s.local, sto, []step{
		{again, "UnlockBlock", []string{"BlockHandle", b}, rv(19)},
		{again, "ReadBlock", []string{"BlockHandle", b, "ByteOffset", "0", "ByteCount", "4"}, "Data=a2VwdA== ReturnValue=0"},
	})
}

func TestStateFile(t *testing.T) {
	t.Parallel()
	o := Options{StateFile: filepath.Join(t.TempDir(), "state"), Seed: 3, Index: 2, NetworkTLS: defaultAddress}
	d := start(t, o)
	if err := d.AddUser(User{Name: "store", Password: "Store0!!", Access: AccessAny, Realms: []uint32{6}}); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, d.NetworkURL())
	c.must(adm, "AddStorageEaclEntry", "EnterpriseName", "Corp")
	if err := d.SetFaults(Faults{FullEACL: true, FullFPACL: true}); err != nil {
		t.Fatal(err)
	}
	a := newClient(t, d.LocalURL()).register(testUUID, "V", "A", "Corp")
	b := a.block("b", true)
	g := a.must("AddPermissionsGroup", "BlockHandle", b, "GroupPermissions", "2", "GroupName", "g").get("GroupHandle")
	a.must("AddPermissionsGroupMembers", "BlockHandle", b, "GroupHandle", g, "MemberHandles", "4294967281")
	a.must("WriteBlock", "BlockHandle", b, "ByteOffset", "4000", "Data", b64("kept"))
	before := d.Snapshot()
	// The file is read while the first process still runs, as after a kill.
	d2 := start(t, o)
	after := d2.Snapshot()
	for _, s := range []*Snapshot{&before, &after} {
		s.Calls, s.BlockWrites, s.BytesWritten, s.Connections, s.Open, s.FailedLogons = nil, 0, 0, 0, 0, 0
		s.NetworkURL, s.LocalURL, s.NetworkTLSURL = "", "", ""
	}
	if !before.Applications[0].ActiveSession || after.Applications[0].ActiveSession {
		t.Errorf("session before %v, after %v", before.Applications[0].ActiveSession, after.Applications[0].ActiveSession)
	}
	before.Applications[0].ActiveSession = false
	before.Faults = Faults{}
	if n := len(before.Entries); n != 25 {
		t.Errorf("%d allocation entries with full_fpacl and one non-partner", n)
	}
	if n := len(before.Enterprises); n != 4 {
		t.Errorf("%d enterprises with full_eacl", n)
	}
	before.Entries, before.Enterprises = before.Entries[24:], before.Enterprises[:1] // what a switch put there is not kept
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("after a restart of the process (-before +after):\n%s", d)
	}
	if got := newClient(t, d2.LocalURL()).as("store", "Store0!!").invoke(sto, "GetMTU").code; got != 200 {
		t.Errorf("the user kept: HTTP %d", got)
	}

	for name, change := range map[string]func(*Options){
		"another seed":   func(o *Options) { o.Seed++ },
		"another device": func(o *Options) { o.Index++ },
		"garbage":        func(o *Options) { os.WriteFile(o.StateFile, []byte("{"), 0o600) },
		"not a state":    func(o *Options) { os.WriteFile(o.StateFile, []byte(`{"seed":3,"device":2,"x":1}`), 0o600) },
		"nonsense": func(o *Options) {
			os.WriteFile(o.StateFile, []byte(`{"seed":3,"device":2,"storage":{"blocks":[{"handle":1,"owner":1,"size":4096}]}}`), 0o600)
		},
	} {
		o := o
		change(&o)
		if d, err := Start(o); err == nil {
			d.Close()
			t.Errorf("%s: started", name)
		} else if !strings.Contains(err.Error(), o.StateFile) {
			t.Errorf("%s: %v does not name the file", name, err)
		}
	}
}

// TestStateFileCannotBeWritten: the reply must not promise what the flash did not keep.
func TestStateFileCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := start(t, Options{StateFile: filepath.Join(dir, "state")})
	if err := os.Mkdir(filepath.Join(dir, "state.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	a := newClient(t, d.NetworkURL()).invoke(adm, "AddStorageEaclEntry", "EnterpriseName", "Corp")
	if a.code != 500 || a.sub != "e:InternalError" || a.get("Detail") != "AMT-STATUS 1" {
		t.Errorf("HTTP %d %s", a.code, a.raw)
	}
}

func TestUnprovision(t *testing.T) {
	t.Parallel()
	for name, unprovision := range map[string]func(*scene){
		"by WS-Man":      func(s *scene) { s.network.must(sac, "Unprovision", "ProvisioningMode", "1") },
		"by the machine": func(s *scene) { s.d.Unprovision() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			if err := s.d.AddUser(User{Name: "store", Password: "Store0!!", Access: AccessAny, Realms: []uint32{3}}); err != nil {
				t.Fatal(err)
			}
			s.local.register(testUUID, "V", "A", "Corp").block("b", false)
			before := s.d.Snapshot()
			unprovision(s)
			// By WS-Man it happens after the reply.
			eventually(t, func() bool { return !s.d.Snapshot().Provisioned && refused(s.d.NetworkURL()) != nil })
			after := s.d.Snapshot()
			if len(after.Blocks)+len(after.Applications)+len(after.Enterprises)+len(after.Entries)+len(after.Users) != 0 {
				t.Errorf("left: %+v", after)
			}
			if after.DigestRealm == before.DigestRealm {
				t.Error("the digest realm is the same")
			}
			if after.PlatformGUID != before.PlatformGUID {
				t.Error("the machine is another")
			}
			// The local side answers, but not about storage.
			local := newClient(t, s.d.LocalURL())
			if got := local.send(actionGet, sac, "", "").get("ProvisioningState"); got != "0" {
				t.Errorf("ProvisioningState %s", got)
			}
			play(t, local, sto, []step{{nil, "GetMTU", nil, rv(32)}})
			if err := s.d.Provision("client"); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, s.d.NetworkURL())
			if a := c.send(actionGet, sac, "", ""); a.get("ProvisioningMode") != "4" || a.get("ProvisioningState") != "2" {
				t.Errorf("provisioned again: %s", a.outputs())
			}
			play(t, c, adm, []step{{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "Corp"}, "Handle=1 ReturnValue=0"}})
		})
	}
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come about in 20 s")
		}
	}
}

// refused dials a base URL, and says why that did not work.
func refused(url string) error {
	c, err := net.DialTimeout("tcp", url[strings.Index(url, "//")+2:], 300*time.Millisecond)
	if err == nil {
		c.Close()
	}
	return err
}

func TestReachability(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	type reach struct{ network, local string }
	probe := func(url string) string {
		switch err := refused(url); {
		case err == nil:
			return "open"
		case errors.Is(err, syscall.ECONNREFUSED):
			return "refused"
		default:
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				return "silent"
			}
			return err.Error()
		}
	}
	for i, test := range []struct {
		f    Faults
		want reach
	}{
		{Faults{}, reach{"open", "open"}},
		{Faults{Refuse: true}, reach{"refused", "refused"}},
		{Faults{Refuse: true, Side: "local"}, reach{"open", "refused"}},
		{Faults{Silent: true}, reach{"silent", "silent"}},
		{Faults{Silent: true, Side: "network"}, reach{"silent", "open"}},
		{Faults{Refuse: true, Side: "network"}, reach{"refused", "open"}},
		{Faults{Silent: true, Unprovisioned: true}, reach{"refused", "silent"}},
		{Faults{Unprovisioned: true}, reach{"refused", "open"}},
		{Faults{}, reach{"open", "open"}},
	} {
		if err := d.SetFaults(test.f); err != nil {
			t.Fatal(err)
		}
		if got := (reach{probe(d.NetworkURL()), probe(d.LocalURL())}); got != test.want {
			t.Errorf("step %d, %+v: %+v, want %+v", i, test.f, got, test.want)
		}
	}
	// After silence and refusal the firmware serves as before.
	newClient(t, d.NetworkURL()).must(sto, "GetMTU")
	newClient(t, d.LocalURL()).must(sto, "GetMTU")
	// Open connections are reset, not left hanging.
	for _, f := range []Faults{{Refuse: true}, {Silent: true}} {
		r := keptOpen(t, d.NetworkURL())
		if err := d.SetFaults(f); err != nil {
			t.Fatal(err)
		}
		if _, err := r.r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%+v: an open connection ends with %v", f, err)
		}
		if err := d.SetFaults(Faults{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHangAndLatency(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	c := newClient(t, d.NetworkURL())
	c.must(sto, "GetMTU")
	if err := d.SetFaults(Faults{HangAfterCalls: new(2)}); err != nil {
		t.Fatal(err)
	}
	c.must(sto, "GetMTU")
	c.must(sto, "GetMTU")
	c.http.Timeout = 200 * time.Millisecond
	if _, _, err := c.try(envelope(actionGet, gen, "1", "", "")); err == nil {
		t.Error("the third call was answered")
	}
	c.http.Timeout = 20 * time.Second
	eventually(t, func() bool { return d.hanging() == 0 }) // the device has seen that the first client went away
	answered := make(chan error)
	go func() {
		_, _, err := newClient(t, d.NetworkURL()).try(envelope(actionGet, gen, "1", "", ""))
		answered <- err
	}()
	eventually(t, func() bool { return d.hanging() == 1 })
	// Taking the switch away breaks what hangs, and serves again.
	if err := d.SetFaults(Faults{LatencyMS: 150}); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil {
		t.Error("a hanging call was answered")
	}
	began := time.Now()
	newClient(t, d.NetworkURL()).must(sto, "GetMTU")
	if took := time.Since(began); took < 300*time.Millisecond { // challenge and answer
		t.Errorf("two replies took %v with 150 ms before each", took)
	}
	if err := d.SetFaults(Faults{LatencyMS: 60000, Side: "local"}); err != nil {
		t.Fatal(err)
	}
	newClient(t, d.NetworkURL()).must(sto, "GetMTU")
}

func (d *Device) hanging() int {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	n := 0
	for h := range d.conns {
		if h.hung {
			n++
		}
	}
	return n
}

func TestStorageFaults(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(testUUID, "V", "A", "Corp")
	b := a.block("b", false)
	write := func(offset, data string) []string {
		return []string{"BlockHandle", b, "ByteOffset", offset, "Data", b64(data)}
	}
	read := []string{"BlockHandle", b, "ByteOffset", "0", "ByteCount", "12"}
	set := func(f Faults) {
		t.Helper()
		if err := s.d.SetFaults(f); err != nil {
			t.Fatal(err)
		}
	}
	set(Faults{Busy: true})
	play(t, s.local, sto, []step{
		{nil, "GetMTU", nil, rv(2)},
		{a, "WriteBlock", write("0", "x"), "BytesWritten=0 ReturnValue=2"},
	})
	set(Faults{CutWriteAfter: new(7)})
	play(t, s.local, sto, []step{
		{a, "WriteBlock", write("0", "01234"), "BytesWritten=5 ReturnValue=0"},
		{a, "WriteBlock", write("5", "56789"), "BytesWritten=2 ReturnValue=1"},
		{a, "WriteBlock", write("7", "789"), "BytesWritten=0 ReturnValue=1"},
		{a, "ReadBlock", read, "Data=" + b64("0123456\xff\xff\xff\xff\xff") + " ReturnValue=0"},
	})
	set(Faults{CutWriteAfter: new(0)})
	play(t, s.local, sto, []step{{a, "WriteBlock", write("0", "x"), "BytesWritten=0 ReturnValue=1"}})
	set(Faults{ShortWrite: 3})
	play(t, s.local, sto, []step{
		{a, "WriteBlock", write("0", "abcdef"), "BytesWritten=3 ReturnValue=0"},
		{a, "WriteBlock", write("3", "def"), "BytesWritten=3 ReturnValue=0"},
	})
	set(Faults{ShortWrite: 3, ShortWriteStatus: 1})
	play(t, s.local, sto, []step{{a, "WriteBlock", write("6", "ghij"), "BytesWritten=3 ReturnValue=1"}})
	set(Faults{CorruptReads: true})
	play(t, s.local, sto, []step{{a, "ReadBlock", read, "Data=" + b64("abcdeffhi\xff\xff\xff") + " ReturnValue=0"}})
	set(Faults{WornOut: true})
	play(t, s.local, sto, []step{
		{nil, "GetWriteEraseLimit", nil, "WriteEraseLimit=0 ReturnValue=0"},
		{a, "WriteBlock", write("0", "x"), "BytesWritten=0 ReturnValue=38"},
		{a, "ReadBlock", read, "Data=" + b64("abcdefghi\xff\xff\xff") + " ReturnValue=0"},
	})
	set(Faults{LockByOther: true})
	play(t, s.local, sto, []step{
		{a, "ReadBlock", read, rv(18)},
		{a, "WriteBlock", write("0", "x"), "BytesWritten=0 ReturnValue=18"},
		{a, "LockBlock", []string{"BlockHandle", b}, rv(18)},
	})
	set(Faults{DropSessionAfter: new(2)})
	play(t, s.local, sto, []step{
		{a, "GetBytesAvailable", nil, "BytesAvailable=45056 ReturnValue=0"},
		{nil, "GetMTU", nil, "Mtu=4096 ReturnValue=0"}, // no session, no count
		{a, "GetBytesAvailable", nil, "BytesAvailable=45056 ReturnValue=0"},
		{a, "GetBytesAvailable", nil, rv(8)},
	})
	a = s.local.register(testUUID, "V", "A", "Corp")
	for range 5 { // once
		a.must("GetBytesAvailable")
	}

	// The firmware restarts in the middle of a call: half the data, no answer.
	set(Faults{RestartInCall: "WriteBlock"})
	a.must("GetBytesAvailable")
	if _, _, err := s.local.try(envelope(sto+"/WriteBlock", sto, "1", "", input(sto, "WriteBlock", append([]string{"SessionHandle", a.session}, write("0", "ABCDEF")...)...))); err == nil {
		t.Error("the call was answered")
	}
	if got := s.d.Faults().RestartInCall; got != "" {
		t.Errorf("restart_in_call is still %s", got)
	}
	play(t, s.local, sto, []step{{a, "ReadBlock", read, rv(8)}})
	a = s.local.register(testUUID, "V", "A", "Corp")
	play(t, s.local, sto, []step{{a, "ReadBlock", read, "Data=" + b64("ABCdefghi\xff\xff\xff") + " ReturnValue=0"}})
	set(Faults{RestartAfterCalls: new(1)})
	a.must("GetBytesAvailable")
	if _, _, err := s.local.try(envelope(sto+"/WriteBlock", sto, "1", "", input(sto, "WriteBlock", append([]string{"SessionHandle", a.session}, write("0", "xxxxxx")...)...))); err == nil {
		t.Error("the call was answered")
	}
	a = s.local.register(testUUID, "V", "A", "Corp")
	play(t, s.local, sto, []step{{a, "ReadBlock", read, "Data=" + b64("ABCdefghi\xff\xff\xff") + " ReturnValue=0"}})

	set(Faults{FullEACL: true, FullFPACL: true})
	c := newClient(t, s.d.NetworkURL())
	play(t, c, adm, []step{
		{nil, "EnumerateStorageEaclEntries", nil, "Handles=1 Handles=2 Handles=3 Handles=4 ReturnValue=0"},
		{nil, "GetStorageEaclEntry", []string{"Handle", "2"}, "EnterpriseName=Other Enterprise 1 ReturnValue=0"},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "More"}, rv(23)},
		{nil, "AddStorageFpaclEntry", []string{"AttrType", "1", "ApplicationName", "x", "VendorName", "x", "IsPartner", "true", "TotalAllocationSize", "4096"}, rv(23)},
	})
	set(Faults{})
	play(t, c, adm, []step{{nil, "EnumerateStorageEaclEntries", nil, "Handles=1 ReturnValue=0"}})
	set(Faults{RemoveEnterprise: "Corp"})
	play(t, c, adm, []step{{nil, "EnumerateStorageEaclEntries", nil, rv(0)}})
	play(t, s.local, sto, []step{
		{a, "GetBytesAvailable", nil, "BytesAvailable=45056 ReturnValue=0"}, // a session that is open stays
		{nil, "RegisterApplication", []string{"CallerUUID", testUUID, "VendorName", "V", "ApplicationName", "A", "EnterpriseName", "Corp"}, rv(9)},
	})
	set(Faults{No3PDS: true})
	if a := c.invoke(sto, "GetMTU"); a.code != 400 || a.sub != "b:DestinationUnreachable" {
		t.Errorf("no_3pds: HTTP %d %s", a.code, a.outputs())
	}
	c.must(sac, "GetUuid")
	set(Faults{Unprovisioned: true})
	play(t, s.local, sto, []step{{nil, "GetMTU", nil, rv(32)}})
	set(Faults{Mode: "client"})
	if got := c.send(actionGet, sac, "", "").get("ProvisioningMode"); got != "4" {
		t.Errorf("mode client: %s", got)
	}
	if s.d.Snapshot().Blocks[0].Handle != 1 {
		t.Error("a switch has cleared the storage")
	}
}

func TestHTTPFaults(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	c := newClient(t, d.NetworkURL())
	set := func(f Faults) {
		t.Helper()
		if err := d.SetFaults(f); err != nil {
			t.Fatal(err)
		}
	}
	exchange := func() *raw {
		r := dial(t, d.NetworkURL())
		r.send(post(newDigest().answer(challengeOf(t, d.NetworkURL())), requestBody()))
		return r
	}
	set(Faults{Password: "Another0!"})
	if a := c.send(actionGet, gen, "", ""); a.code != 401 {
		t.Errorf("password: HTTP %d", a.code)
	}
	c.as("admin", "Another0!").must(sto, "GetMTU")
	set(Faults{LockedOut: true})
	if a := c.send(actionGet, gen, "", ""); a.code != 401 {
		t.Errorf("locked_out: HTTP %d", a.code)
	}
	set(Faults{})
	c.must(sto, "GetMTU")

	set(Faults{NonceUses: 2})
	challenge := challengeOf(t, d.NetworkURL())
	dig := newDigest()
	for i, want := range []string{"200", "200", "401"} {
		dig.nc = fmt.Sprintf("%08d", i+1)
		r := dial(t, d.NetworkURL())
		r.send(post(dig.answer(challenge), requestBody()))
		if head := r.head(); !strings.HasPrefix(head, "HTTP/1.1 "+want) {
			t.Errorf("nonce_uses 2, use %d: %s", i+1, head)
		}
	}
	set(Faults{CloseEachReply: true})
	r := exchange()
	head := r.head()
	if r.body(head); !strings.Contains(head, "\r\nConnection: close\r\n") || !r.ended() {
		t.Errorf("close_each_reply: %s", head)
	}
	for _, size := range []int{1, 1000, 0xFFFF} {
		set(Faults{ChunkSize: size})
		r = exchange()
		body, chunks := r.body(r.head())
		if n := len(chunks) - 1; n != (len(body)+size-1)/size || len(chunks[0]) != 4 {
			t.Errorf("chunk_size %d: %d chunks of %d bytes", size, n, len(body))
		}
	}
	set(Faults{CutReplyAfter: new(100)})
	r = exchange()
	b, err := io.ReadAll(r.r)
	if len(b) != 100 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("cut_reply_after: %d bytes, then %v", len(b), err)
	}
	set(Faults{GarbleEachReply: true})
	r = exchange()
	if body, _ := r.body(r.head()); body != "<a:Envelope " {
		t.Errorf("garble_each_reply: %q", body)
	}
}

func TestParseFaultsFile(t *testing.T) {
	t.Parallel()
	got, err := ParseFaultsFile([]byte(`{"3": {"silent": true}, "10-12": {"full_eacl": true, "hang_after_calls": 0}}`), 20)
	if err != nil {
		t.Fatal(err)
	}
	eacl := Faults{FullEACL: true, HangAfterCalls: new(0)}
	if d := cmp.Diff(map[int]Faults{3: {Silent: true}, 10: eacl, 11: eacl, 12: eacl}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for text, want := range map[string]string{
		`{"3": {"silnet": true}}`:              `unknown field "silnet"`,
		`{"3": {"silent": "yes"}}`:             "silent",
		`{"0": {}}`:                            `"0" is no device number`,
		`{"a": {}}`:                            `"a" is no device number`,
		`{"5-3": {}}`:                          `"5-3" is no device number`,
		`{"21": {}}`:                           "device 21, but the devices are 1 to 20",
		`{"10-21": {}}`:                        "device 21",
		`{"3": {}, "3": {"busy": true}}`:       "device 3 is named twice",
		`{"3": {}, "2-4": {}}`:                 "device 3 is named twice",
		`{"3": {"mode": "big"}}`:               `mode "big" is none of smb, enterprise, client`,
		`{"3": {"restart_in_call": "Reboot"}}`: `"Reboot" is no method`,
		`{"3": {"latency_ms": -1}}`:            "latency_ms -1 is out of range",
		`{"3": {"challenge": "sha-1"}}`:        "challenge",
		`{"3": {"chunk_size": 65536}}`:         "chunk_size",
		`{"3": {}} {}`:                         "something follows",
		`[]`:                                   "cannot unmarshal",
		``:                                     "EOF",
		`{"3": {"side": "both"}}`:              "side",
		`{"3": {"stale": "maybe"}}`:            "stale",
		`{"3": {"lacks_realm": "404"}}`:        "lacks_realm",
	} {
		if _, err := ParseFaultsFile([]byte(text), 20); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestFleet(t *testing.T) {
	t.Parallel()
	// Addresses of this test's own, so that a fixed port is free.
	o := FleetOptions{Devices: 3, Network: netip.MustParseAddr("127.19.0.254"), Local: netip.MustParseAddr("127.19.4.1"), Port: 16992, TLSPort: 16993,
		Dir: filepath.Join(t.TempDir(), "a", "b"), Faults: map[int]Faults{2: {Silent: true}}}
	f, err := StartFleet(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	for i, want := range []string{"127.19.0.254", "127.19.0.255", "127.19.1.0"} {
		d := f.Devices[i]
		if d.NetworkURL() != "http://"+want+":16992" || d.NetworkTLSURL() != "https://"+want+":16993" || d.LocalURL() != fmt.Sprintf("http://127.19.4.%d:16992", i+1) {
			t.Errorf("device %d: %s %s %s", i+1, d.NetworkURL(), d.NetworkTLSURL(), d.LocalURL())
		}
	}
	if err := refused(f.Devices[1].NetworkURL()); err == nil {
		t.Error("device 2 is not silent")
	}
	newClient(t, f.Devices[2].NetworkURL()).must(sto, "GetMTU")
	var ndd bytes.Buffer
	if err := f.WriteSystemFile(&ndd); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^127\.19\.1\.0 pc-0003 TYPE=client,MAC=00-1B-21-[0-9A-F]{2}-[0-9A-F]{2}-[0-9A-F]{2},COMMENT=simulated,ROOT=\\,DATE=\d{4}/\d\d/\d\d \d\d:\d\d:\d\d$`)
	if !line.Match(ndd.Bytes()) || strings.Count(ndd.String(), "\n") != 4 {
		t.Errorf("system file:\n%s", ndd.String())
	}
	seen := map[string]bool{}
	for _, d := range f.Devices {
		s := d.Snapshot()
		for _, id := range []string{s.PlatformGUID, s.MAC, s.SystemSerial, s.BoardSerial, s.DigestRealm, s.TLSPin, s.HostName} {
			if seen[id] {
				t.Errorf("%s belongs to two devices", id)
			}
			seen[id] = true
		}
	}

	for name, test := range map[string]struct {
		change func(*FleetOptions)
		want   string
	}{
		"none":          {func(o *FleetOptions) { o.Devices = 0 }, "0 devices"},
		"not loopback":  {func(o *FleetOptions) { o.Network = netip.MustParseAddr("192.0.2.1") }, "no loopback address"},
		"local neither": {func(o *FleetOptions) { o.Local = netip.MustParseAddr("10.0.0.1") }, "no loopback address"},
		"overlap":       {func(o *FleetOptions) { o.Local = o.Network.Next() }, "overlap"},
		"beyond 127":    {func(o *FleetOptions) { o.Network = netip.MustParseAddr("127.255.255.254") }, "do not fit"},
		"port":          {func(o *FleetOptions) { o.Port = 0 }, "ports"},
		"same ports":    {func(o *FleetOptions) { o.TLSPort = o.Port }, "ports"},
		"many on ::1":   {func(o *FleetOptions) { o.Network = netip.MustParseAddr("::1") }, "one device only"},
		"in use":        {func(o *FleetOptions) { o.Dir = "" }, "address already in use"},
		"release":       {func(o *FleetOptions) { o.Device.Release = "eleven" }, "release"},
		"mode":          {func(o *FleetOptions) { o.Device.Mode = "big" }, "mode"},
	} {
		o := o
		test.change(&o)
		if f, err := StartFleet(o); err == nil {
			f.Close()
			t.Errorf("%s: started", name)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	o.Devices, o.Local = 1<<20, netip.MustParseAddr("127.64.0.1")
	_, err = StartFleet(o)
	if tooMany, ok := errors.AsType[*TooManyError](err); ok {
		if want := (tooMany.Limit - reserved) / 4; tooMany.Fit != want || !strings.Contains(err.Error(), fmt.Sprintf("%d devices fit", want)) {
			t.Errorf("%v", err)
		}
	} else if openFiles() > 0 && openFiles() < 1<<22 {
		t.Errorf("a million devices: %v", err)
	}
}

func TestSeed(t *testing.T) {
	t.Parallel()
	a, b, c := newIdentity(1, 1), newIdentity(1, 1), newIdentity(2, 1)
	if a != b {
		t.Error("the same seed makes another machine")
	}
	if a.uuid == c.uuid || a.mac == c.mac {
		t.Error("another seed makes the same machine")
	}
	certificate := func() string { return string(start(t, Options{Seed: 5, Network: "127.18.0.1:0"}).CertificatePEM()) }
	if first, second := certificate(), certificate(); first != second {
		t.Error("the certificate differs between two starts")
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	f := &Fleet{Devices: []*Device{d}}
	server := httptest.NewServer(f.Control())
	t.Cleanup(server.Close)
	call := func(method, path, body string) (int, map[string]any) {
		t.Helper()
		r, _ := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		var got map[string]any
		if a.Header.Get("Content-Type") == "application/json" {
			if err := json.NewDecoder(a.Body).Decode(&got); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
		}
		return a.StatusCode, got
	}
	c := newClient(t, d.NetworkURL())
	c.must(adm, "AddStorageEaclEntry", "EnterpriseName", "Corp")
	a := newClient(t, d.LocalURL()).register(testUUID, "V", "A", "Corp")
	b := a.block("host-id", true)
	a.must("WriteBlock", "BlockHandle", b, "ByteOffset", "0", "Data", b64("data"))
	_, s := call("GET", "/devices/1", "")
	calls := s["calls"].(map[string]any)
	if calls["WriteBlock"] != 1.0 || calls["AddStorageEaclEntry"] != 1.0 || s["block_writes"] != 1.0 || s["failed_logons"] != 0.0 {
		t.Errorf("counters: %v %v %v", calls, s["block_writes"], s["failed_logons"])
	}
	block := s["blocks"].([]any)[0].(map[string]any)
	data, err := base64.StdEncoding.DecodeString(block["data"].(string))
	if err != nil || len(data) != 4096 || !bytes.HasPrefix(data, []byte("data\xff")) || block["name"] != "host-id" {
		t.Errorf("block: %v", block["name"])
	}
	if app := s["applications"].([]any)[0].(map[string]any); app["uuid"] != testUUID || app["interface"] != "local" || app["active_session"] != true {
		t.Errorf("application: %v", app)
	}
	for _, test := range []struct {
		method, path, body string
		code               int
	}{
		{"GET", "/devices/0", "", 404},
		{"GET", "/devices/2", "", 404},
		{"GET", "/devices/x", "", 404},
		{"PUT", "/devices/1/faults", `{"busy": true}`, 200},
		{"PUT", "/devices/1/faults", `{"buzy": true}`, 400},
		{"PUT", "/devices/1/faults", `{"mode": "x"}`, 400},
		{"PUT", "/devices/1/faults", ``, 400},
		{"POST", "/devices/1/users", `{"name": "store", "password": "Store0!!", "access_permission": 0, "realms": [6]}`, 200},
		{"POST", "/devices/1/users", `{"name": "admin", "password": "x", "access_permission": 0, "realms": [6]}`, 400},
		{"POST", "/devices/1/users", `{"name": "bad name"}`, 400},
		{"DELETE", "/devices/1/users/store", ``, 200},
		{"DELETE", "/devices/1/users/store", ``, 400},
		{"PUT", "/devices/1/blocks/1?offset=1", "XYZ", 200},
		{"PUT", "/devices/1/blocks/9", "XYZ", 400},
		{"PUT", "/devices/1/blocks/1?offset=4095", "XYZ", 400},
		{"POST", "/devices/1/restart", "", 200},
		{"POST", "/devices/1/nothing", "", 404},
	} {
		if code, got := call(test.method, test.path, test.body); code != test.code {
			t.Errorf("%s %s %s: %d %v, want %d", test.method, test.path, test.body, code, got, test.code)
		}
	}
	s2 := d.Snapshot()
	if !s2.Faults.Busy || s2.Applications[0].ActiveSession || !bytes.HasPrefix(s2.Blocks[0].Data, []byte("dXYZ\xff")) || s2.BlockWrites != 1 {
		t.Errorf("after the calls: %+v", s2.Faults)
	}
	if code, s := call("POST", "/devices/1/unprovision", ""); code != 200 || s["provisioned"] != false || len(s["blocks"].([]any)) != 0 {
		t.Errorf("unprovision: %d %v", code, s["provisioned"])
	}
	if code, s := call("POST", "/devices/1/provision?mode=smb", ""); code != 200 || s["provisioned"] != true || s["mode"] != "smb" {
		t.Errorf("provision: %d %v", code, s["mode"])
	}
	if code, _ := call("POST", "/devices/1/provision?mode=x", ""); code != 400 {
		t.Errorf("provision with a wrong mode: %d", code)
	}
	for _, address := range []string{"0.0.0.0:0", "192.0.2.1:80", "localhost:80", "127.0.0.1", "127.0.0.1:x"} {
		if l, err := ListenControl(address); err == nil {
			l.Close()
			t.Errorf("the control API listens on %s", address)
		}
	}
}
