// Package interop lets clients that others wrote judge the simulated firmware: MeshCentral's AMT stack, the WS-Man
// shell wsl, curl and python3-requests each run the whole third-party data storage flow against the real amtsim.
//
// The client side is judged by lighttpd and Apache in internal/wsman.
package interop

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	user     = "admin"
	password = "P@ssw0rd!"

	amtSchema = "http://intel.com/wbem/wscim/1/amt-schema/1/"
	adm       = amtSchema + "AMT_ThirdPartyDataStorageAdministrationService"
	sto       = amtSchema + "AMT_ThirdPartyDataStorageService"
)

var simulator string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	simulator = filepath.Join(dir, "amtsim")
	out, err := exec.Command("go", "build", "-o", simulator, "samehost/cmd/amtsim").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build amtsim: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// need fails the test where a program is missing: a judge that does not come is no acquittal. `make test` installs
// them all; SAMEHOST_SKIP_INTEROP leaves out, loudly, what cannot be installed.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("SAMEHOST_SKIP_INTEROP") != "" {
		t.Skipf("NOT TESTED: %s is not installed and SAMEHOST_SKIP_INTEROP is set", program)
	}
	t.Fatalf("%s is not installed: run test/install as root, or set SAMEHOST_SKIP_INTEROP to leave this test out", program)
	return ""
}

// simulate starts one simulated PC on addresses of the test's own and returns the address of its network interface.
func simulate(t *testing.T, octet int, args ...string) string {
	t.Helper()
	network := fmt.Sprintf("127.60.%d.1", octet)
	cmd := exec.Command(simulator, append([]string{"--network", network, "--local", "none", "--user", user, "--password", password}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			go func() {
				for lines.Scan() {
				}
			}()
			return network
		}
	}
	t.Fatal("amtsim ended before it was ready")
	return ""
}

// run runs a client with the password in its environment and returns what it printed.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "AMT_PASSWORD="+password, "http_proxy=", "https_proxy="), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMeshCentral(t *testing.T) {
	t.Parallel()
	node := need(t, "node")
	stack := os.Getenv("SAMEHOST_MESHCENTRAL")
	if stack == "" {
		stack, _ = filepath.Abs("../../.build/meshcentral/amt")
	}
	if _, err := os.Stat(filepath.Join(stack, "amt.js")); err != nil {
		if os.Getenv("SAMEHOST_SKIP_INTEROP") != "" {
			t.Skip("NOT TESTED: MeshCentral's AMT stack is not there and SAMEHOST_SKIP_INTEROP is set")
		}
		t.Fatal("MeshCentral's AMT stack is not there: run test/install, or set SAMEHOST_SKIP_INTEROP to leave this test out")
	}
	for i, test := range []struct{ name, port, tls string }{{"HTTP", "16992", "0"}, {"TLS", "16993", "1"}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			host := simulate(t, 1+i, "--tls-port", "16993")
			out := run(t, "", nil, node, testdata(t, "meshcentral.js"), stack, host, test.port, user, test.tls)
			if lastLine(out) != "flow complete" {
				t.Errorf("the flow stopped:\n%s", out)
			}
		})
	}
}

func TestPythonRequests(t *testing.T) {
	t.Parallel()
	python := "/usr/bin/python3" // Debian's, where its package puts requests
	if _, err := os.Stat(python); err != nil {
		python = need(t, "python3")
	}
	host := simulate(t, 3)
	out := run(t, "", nil, python, testdata(t, "flow.py"), "http://"+host+":16992/wsman", user)
	if lastLine(out) != "flow complete" {
		t.Errorf("the flow stopped:\n%s", out)
	}
}

// invoker calls a method and returns the outputs by name.
type invoker func(t *testing.T, class, method string, in ...string) map[string][]string

// flow is the whole third-party data storage flow, for clients that are called once per request.
func flow(t *testing.T, invoke invoker) {
	call := func(class, method string, in ...string) map[string][]string {
		t.Helper()
		out := invoke(t, class, method, in...)
		if got := out["ReturnValue"]; len(got) != 1 || got[0] != "0" {
			t.Fatalf("%s: ReturnValue %q", method, got)
		}
		return out
	}
	one := func(out map[string][]string, name string) string {
		t.Helper()
		if len(out[name]) != 1 {
			t.Fatalf("%s: %q", name, out[name])
		}
		return out[name][0]
	}
	data := base64.StdEncoding.EncodeToString([]byte("host ID"))
	enterprise := one(call(adm, "AddStorageEaclEntry", "EnterpriseName=Example"), "Handle")
	allocation := one(call(adm, "AddStorageFpaclEntry", "AttrType=1", "ApplicationName=app", "VendorName=vendor", "IsPartner=true", "TotalAllocationSize=8192"), "Handle")
	session := "SessionHandle=" + one(call(sto, "RegisterApplication", "CallerUUID=13AEE355D2BFBB6117A088AEDD7037EA", "VendorName=vendor", "ApplicationName=app", "EnterpriseName=Example"), "SessionHandle")
	me := one(call(sto, "GetCurrentApplicationHandle", session), "ApplicationHandle")
	block := "BlockHandle=" + one(call(sto, "AllocateBlock", session, "BytesRequested=4096", "BlockHidden=true", "BlockName=block"), "BlockHandle")
	if got := one(call(sto, "WriteBlock", session, block, "ByteOffset=0", "Data="+data), "BytesWritten"); got != "7" {
		t.Errorf("BytesWritten %s", got)
	}
	if got := one(call(sto, "ReadBlock", session, block, "ByteOffset=0", "ByteCount=7"), "Data"); got != data {
		t.Errorf("read back %q", got)
	}
	if got := one(call(sto, "GetAllocatedBlocks", session, "BlockOwnerApplication="+me), "BlockHandles"); "BlockHandle="+got != block {
		t.Errorf("listed %q, allocated %q", got, block)
	}
	call(sto, "DeallocateBlock", session, block)
	call(sto, "RemoveApplication", session)
	call(adm, "RemoveStorageFpaclEntry", "Handle="+allocation)
	call(adm, "RemoveStorageEaclEntry", "Handle="+enterprise)
}

// outputs reads the outputs of a method from an envelope.
func outputs(t *testing.T, envelope string) map[string][]string {
	t.Helper()
	var e struct {
		Body struct {
			Output struct {
				Fields []struct {
					XMLName xml.Name
					Text    string `xml:",chardata"`
				} `xml:",any"`
			} `xml:",any"`
		}
	}
	if err := xml.Unmarshal([]byte(envelope), &e); err != nil {
		t.Fatalf("%v in %s", err, envelope)
	}
	out := map[string][]string{}
	for _, f := range e.Body.Output.Fields {
		out[f.XMLName.Local] = append(out[f.XMLName.Local], f.Text)
	}
	return out
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	for i, test := range []struct {
		name, url string
		args      []string
	}{
		{"HTTP", "http://%s:16992/wsman", nil},
		{"HTTP with 100-continue", "http://%s:16992/wsman", []string{"-H", "Expect: 100-continue"}},
		{"TLS", "https://%s:16993/wsman", []string{"--insecure"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			host := simulate(t, 4+i, "--tls-port", "16993")
			dir := t.TempDir()
			// The password is curl's business, but not the process list's.
			if err := os.WriteFile(filepath.Join(dir, "curlrc"), []byte("user = \""+user+":"+password+"\"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			n := 0
			flow(t, func(t *testing.T, class, method string, in ...string) map[string][]string {
				t.Helper()
				n++
				var params strings.Builder
				for _, p := range in {
					name, value, _ := strings.Cut(p, "=")
					fmt.Fprintf(&params, "<p:%s>%s</p:%[1]s>", name, value)
				}
				body := fmt.Sprintf(`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:wsman="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header><wsa:Action s:mustUnderstand="true">%s/%s</wsa:Action><wsa:To s:mustUnderstand="true">`+test.url+`</wsa:To><wsman:ResourceURI s:mustUnderstand="true">%[1]s</wsman:ResourceURI><wsa:MessageID s:mustUnderstand="true">uuid:%08d-0000-0000-0000-000000000000</wsa:MessageID><wsa:ReplyTo><wsa:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</wsa:Address></wsa:ReplyTo><wsman:OperationTimeout>PT60.0S</wsman:OperationTimeout></s:Header><s:Body><p:%[2]s_INPUT xmlns:p="%[1]s">%[5]s</p:%[2]s_INPUT></s:Body></s:Envelope>`, class, method, host, n, params.String())
				args := append([]string{"--silent", "--show-error", "--digest", "--config", "curlrc", "--max-time", "30", "--data-binary", "@-", "-H", "Content-Type: application/soap+xml;charset=UTF-8", "--write-out", "\n%{http_code}", fmt.Sprintf(test.url, host)}, test.args...)
				cmd := exec.CommandContext(t.Context(), curl, args...)
				cmd.Dir = dir
				cmd.Stdin = strings.NewReader(body)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", method, err, out)
				}
				envelope, status, _ := strings.Cut(string(out), "\n")
				if i := strings.LastIndexByte(string(out), '\n'); i >= 0 {
					envelope, status = string(out[:i]), string(out[i+1:])
				}
				if status != "200" {
					t.Fatalf("%s: HTTP %s\n%s", method, status, envelope)
				}
				return outputs(t, envelope)
			})
		})
	}
}

func TestWSL(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	need(t, "xmllint")
	need(t, "uuidgen")
	wsl := need(t, "wsl")
	host := simulate(t, 8)
	dir := t.TempDir()
	for name, text := range map[string]string{".curlrc": "digest\nsilent\n", ".wsl-config": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"HOME=" + dir, "WSENDPOINT=" + host + ":16992", "WSUSER=" + user, "WSPASS=" + password, "WSNOSSL=1", "WSDONTASK=y", "TERM=dumb"}
	shell := func(args ...string) string {
		t.Helper()
		return run(t, dir, env, wsl, args...)
	}
	response := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "response.xml"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	shell("identify", "check")
	if got := response(); !strings.Contains(got, "IdentifyResponse") {
		t.Errorf("identify: %s", got)
	}
	shell("get", amtSchema+"AMT_GeneralSettings", "InstanceID=Intel(r) AMT: General Settings")
	if got := response(); !regexp.MustCompile(`DigestRealm>Digest:[0-9A-F]{32}<`).MatchString(got) {
		t.Errorf("get: %s", got)
	}
	shell("enum", sto)
	if got := response(); !strings.Contains(got, "Intel(r) AMT Third Party Data Storage Service") {
		t.Errorf("enumerate: %s", got)
	}
	// wsl can look the instance up itself, but then repeats the selectors with the server's namespace prefix, which its
	// own envelope does not declare; so it is given the instance in a file, as its manual offers.
	for file, uri := range map[string]string{"adm": adm, "sto": sto} {
		class := uri[strings.LastIndexByte(uri, '/')+1:]
		epr := "<wsa:ReferenceParameters>\n<wsman:ResourceURI>" + uri + "</wsman:ResourceURI>\n<wsman:SelectorSet>\n" +
			"<wsman:Selector Name=\"CreationClassName\">" + class + "</wsman:Selector>\n</wsman:SelectorSet>\n</wsa:ReferenceParameters>\n"
		if err := os.WriteFile(filepath.Join(dir, file), []byte(epr), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flow(t, func(t *testing.T, class, method string, in ...string) map[string][]string {
		t.Helper()
		file := "sto"
		if class == adm {
			file = "adm"
		}
		shell(append([]string{"invoke", class, method, "-inst", file}, in...)...)
		return outputs(t, response())
	})
}
