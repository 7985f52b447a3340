package amt

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"samehost/internal/wsman"
)

// canned is a device whose answers are written down: for those that firmware in order does not give. Everything else
// is tested against the simulator.
type canned struct {
	answers map[string]answer // by method, or by class for a Get

	mu    sync.Mutex
	calls []string // "Method(Name=value, ...)" or "Get Class", in order
}

// answer gives outputs as XML elements without a prefix, ReturnValue included. n counts the calls of this method from 0.
type answer func(n int, in []wsman.Param) any

// What an answer may be besides a string of outputs.
type (
	fault      string // a SOAP fault, HTTP 400: "Subcode", or "Subcode: detail"
	httpStatus int    // an answer that is no SOAP
)

// says answers the same each time.
func says(a any) answer { return func(int, []wsman.Param) any { return a } }

func returns(s Status) string { return fmt.Sprintf("<ReturnValue>%d</ReturnValue>", s) }

type envelope struct {
	Header struct {
		Action, ResourceURI, MessageID string
	}
	Body struct {
		Input struct {
			In []struct {
				XMLName xml.Name
				Text    string `xml:",chardata"`
			} `xml:",any"`
		} `xml:",any"`
	}
}

func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var e envelope
	if err == nil {
		err = xml.Unmarshal(b, &e)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	class := e.Header.ResourceURI[strings.LastIndexByte(e.Header.ResourceURI, '/')+1:]
	name, wrap := class, class
	call := "Get " + class
	action := e.Header.Action + "Response"
	var in []wsman.Param
	if method, ok := strings.CutPrefix(e.Header.Action, e.Header.ResourceURI+"/"); ok {
		name, wrap = method, method+"_OUTPUT"
		var list []string
		for _, p := range e.Body.Input.In {
			in = append(in, wsman.Param{Name: p.XMLName.Local, Value: p.Text})
			list = append(list, p.XMLName.Local+"="+p.Text)
		}
		call = class + "." + method + "(" + strings.Join(list, ", ") + ")"
	}
	c.mu.Lock()
	n := 0
	for _, earlier := range c.calls {
		if earlier == call || strings.HasPrefix(earlier, class+"."+name+"(") {
			n++
		}
	}
	c.calls = append(c.calls, call)
	c.mu.Unlock()

	var a any = fault("DestinationUnreachable")
	if f := c.answers[name]; f != nil {
		a = f(n, in)
	}
	const head = `<a:Envelope xmlns:a="http://www.w3.org/2003/05/soap-envelope" xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:e="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd">` +
		`<a:Header><b:RelatesTo>%s</b:RelatesTo><b:Action>%s</b:Action></a:Header><a:Body>`
	w.Header().Set("Content-Type", "application/soap+xml; charset=UTF-8")
	switch a := a.(type) {
	case httpStatus:
		w.WriteHeader(int(a))
		io.WriteString(w, "<html><h2>no SOAP</h2></html>")
		return
	case fault:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, head, e.Header.MessageID, "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault")
		subcode, detail, _ := strings.Cut(string(a), ": ")
		fmt.Fprintf(w, `<a:Fault><a:Code><a:Value>a:Sender</a:Value><a:Subcode><a:Value>e:%s</a:Value></a:Subcode></a:Code>`+
			`<a:Reason><a:Text xml:lang="en-US">so it is</a:Text></a:Reason><a:Detail>%s</a:Detail></a:Fault>`, subcode, detail)
	case string:
		fmt.Fprintf(w, head, e.Header.MessageID, action)
		fmt.Fprintf(w, `<g:%s xmlns:g="%s">%s</g:%[1]s>`, wrap, e.Header.ResourceURI,
			strings.NewReplacer("</", "</g:", "<", "<g:").Replace(a))
	}
	io.WriteString(w, "</a:Body></a:Envelope>")
}

// client starts the device and makes a client for it.
func (c *canned) client(t *testing.T) *wsman.Client {
	t.Helper()
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	return newClient(t, s.URL, "admin", "P@ssw0rd!")
}

// made are the calls so far.
func (c *canned) made() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.calls...)
}

// with is a copy with some answers replaced; nil takes one away.
func (c *canned) with(answers map[string]answer) *canned {
	all := map[string]answer{}
	for k, v := range c.answers {
		all[k] = v
	}
	for k, v := range answers {
		all[k] = v
	}
	return &canned{answers: all}
}

func newClient(t *testing.T, url, user string, password wsman.Secret) *wsman.Client {
	t.Helper()
	c, err := wsman.NewClient(wsman.Endpoint{URL: url, User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// healthy is an initialised device: our enterprise and another's, our allocation entry, our application registered.
var healthy = &canned{answers: map[string]answer{
	"AMT_GeneralSettings":              says("<HostName>pc1</HostName>"),
	"AMT_SetupAndConfigurationService": says("<ProvisioningMode>1</ProvisioningMode><ProvisioningState>2</ProvisioningState>"),
	"CIM_ComputerSystemPackage":        says("<PlatformGUID>13AEE355D2BFBB6117A088AEDD7037EA</PlatformGUID>"),
	"CIM_SoftwareIdentity":             says("<VersionString>11.8.50</VersionString>"),

	"EnumerateStorageEaclEntries": says("<Handles>1</Handles><Handles>2</Handles><ReturnValue>0</ReturnValue>"),
	"GetStorageEaclEntry": func(_ int, in []wsman.Param) any {
		name := "Virtualization"
		if in[0].Value == "2" {
			name = DefaultEnterprise
		}
		return "<EnterpriseName>" + name + "</EnterpriseName><ReturnValue>0</ReturnValue>"
	},
	"GetGlobalStorageAttributes":     says(globals(196608, 8192, 147456, 8192, 49152, 24, 4, 8192)),
	"EnumerateStorageAllocEntries":   says("<Handles>5</Handles><ReturnValue>0</ReturnValue>"),
	"GetStorageAllocEntry":           says(allocEntry(Application, Vendor, true, 8192)),
	"AdminGetRegisteredApplications": says("<ApplicationHandles>9</ApplicationHandles><ReturnValue>0</ReturnValue>"),
	"AdminGetApplicationAttributes": says("<AttrType>1</AttrType><UUID>fB0PbitaTgydO2GoTy6cVw==</UUID><VendorName>samehost</VendorName>" +
		"<ApplicationName>samehost</ApplicationName><EnterpriseName>samehost</EnterpriseName><CurrentAllocationSize>8192</CurrentAllocationSize>" +
		"<ActiveSession>false</ActiveSession><Partner>true</Partner><ReturnValue>0</ReturnValue>"),
}}

func globals(total, allocated, maxPartner, partnerAllocated, maxNonPartner, maxFPACL, maxEACL, perApplication int) string {
	return fmt.Sprintf("<TotalStorage>%d</TotalStorage><TotalAllocatedStorage>%d</TotalAllocatedStorage><MaxPartnerStorage>%d</MaxPartnerStorage>"+
		"<TotalPartnerAllocatedStorage>%d</TotalPartnerAllocatedStorage><MaxNonPartnerStorage>%d</MaxNonPartnerStorage>"+
		"<MaxFpaclEntries>%d</MaxFpaclEntries><MaxAslEntries>16</MaxAslEntries><MaxEaclEntries>%d</MaxEaclEntries>"+
		"<MaxGroupsPerBlock>2</MaxGroupsPerBlock><MaxMembersPerGroup>8</MaxMembersPerGroup>"+
		"<MaxNonPartnerTotalAllocationSize>%d</MaxNonPartnerTotalAllocationSize><ReturnValue>0</ReturnValue>",
		total, allocated, maxPartner, partnerAllocated, maxNonPartner, maxFPACL, maxEACL, perApplication)
}

func allocEntry(application, vendor string, partner bool, size int) string {
	return fmt.Sprintf("<AttrType>1</AttrType><ApplicationName>%s</ApplicationName><VendorName>%s</VendorName><IsPartner>%v</IsPartner>"+
		"<TotalAllocationSize>%d</TotalAllocationSize><ReturnValue>0</ReturnValue>", application, vendor, partner, size)
}
