package amtsim

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
)

// FleetOptions say which devices a process simulates.
type FleetOptions struct {
	Device  Options    // what all have in common; addresses, Index, StateFile and Faults are set per device
	Devices int        // how many, 1 to MaxDevices
	Network netip.Addr // device i listens on the i-th address, this being the first
	Local   netip.Addr // the same for the local interface; invalid: none
	Port    int        // without TLS
	TLSPort int        // 0: none
	Dir     string     // folder of the state files; "": memory only
	Faults  map[int]Faults
}

// MaxDevices is the number of addresses that 127.0.0.0/8 can give to two interfaces.
const MaxDevices = 1 << 22

// Fleet is many devices in one process.
type Fleet struct {
	Devices []*Device // device i at i-1
}

// reserved are the file descriptors that a process needs beside its listeners: standard ones, the poller, the control
// API, a state file being written, and some connections at a time.
const reserved = 64

// TooManyError says that the process may not open a listener for every interface of every device.
type TooManyError struct{ Devices, Fit, Limit int }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%d devices need more listeners than this process may open: %d devices fit into its limit of %d open files; raise it with ulimit -n, or start fewer",
		e.Devices, e.Fit, e.Limit)
}

// StartFleet starts all devices, or none.
func StartFleet(o FleetOptions) (*Fleet, error) {
	if o.Devices < 1 || o.Devices > MaxDevices {
		return nil, fmt.Errorf("%d devices: from 1 to %d are possible", o.Devices, MaxDevices)
	}
	if o.Port < 1 || o.Port > 65535 || o.TLSPort < 0 || o.TLSPort > 65535 || o.Port == o.TLSPort {
		return nil, fmt.Errorf("ports %d and %d: they must differ and be from 1 to 65535 (a TLS port of 0 opens none)", o.Port, o.TLSPort)
	}
	network, err := lastAddress(o.Network, o.Devices)
	if err != nil {
		return nil, err
	}
	each := 1
	if o.Local.IsValid() {
		each = 2
		local, err := lastAddress(o.Local, o.Devices)
		if err != nil {
			return nil, err
		}
		if o.Local.Compare(network) <= 0 && o.Network.Compare(local) <= 0 {
			return nil, fmt.Errorf("the addresses of the two interfaces overlap: network %s to %s, local %s to %s", o.Network, network, o.Local, local)
		}
	}
	if o.TLSPort != 0 {
		each *= 2
	}
	if limit := openFiles(); limit > 0 && o.Devices*each+reserved > limit {
		return nil, &TooManyError{o.Devices, max(limit-reserved, 0) / each, limit}
	}
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, err
		}
	}

	f := &Fleet{Devices: make([]*Device, o.Devices)}
	errs := make([]error, o.Devices)
	var wait sync.WaitGroup
	places := make(chan struct{}, 16) // silent listeners take a tenth of a second each
	networkAddr, localAddr := o.Network, o.Local
	for i := range o.Devices {
		d := o.Device
		d.Index = i + 1
		d.Faults = o.Faults[i+1]
		d.Network, d.Local, d.NetworkTLS, d.LocalTLS = addrPort(networkAddr, o.Port), "none", "none", "none"
		if o.TLSPort != 0 {
			d.NetworkTLS = addrPort(networkAddr, o.TLSPort)
		}
		if o.Local.IsValid() {
			d.Local = addrPort(localAddr, o.Port)
			if o.TLSPort != 0 {
				d.LocalTLS = addrPort(localAddr, o.TLSPort)
			}
			localAddr = localAddr.Next()
		}
		networkAddr = networkAddr.Next()
		if o.Dir != "" {
			d.StateFile = stateFile(o.Dir, d.Index)
		}
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			f.Devices[i], errs[i] = Start(d)
		})
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("device %d: %w", i+1, err)
		}
	}
	return f, nil
}

func addrPort(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }

// lastAddress checks that n addresses from first on are loopback addresses.
func lastAddress(first netip.Addr, n int) (netip.Addr, error) {
	if !first.IsLoopback() {
		return first, fmt.Errorf("%s is no loopback address: simulated firmware listens on no other", first)
	}
	last := first
	if first.Is4() {
		b := first.As4()
		at := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		at += uint64(n - 1)
		last = netip.AddrFrom4([4]byte{byte(at >> 24), byte(at >> 16), byte(at >> 8), byte(at)})
	} else if n > 1 {
		return first, fmt.Errorf("%s: there is one IPv6 loopback address, so one device only", first)
	}
	if !last.IsLoopback() || last == netip.AddrFrom4([4]byte{127, 255, 255, 255}) {
		return first, fmt.Errorf("%d addresses from %s on do not fit into 127.0.0.0/8", n, first)
	}
	return last, nil
}

// Close ends all devices.
func (f *Fleet) Close() {
	for _, d := range f.Devices {
		if d != nil {
			d.Close()
		}
	}
}

// WriteSystemFile writes the devices as a system configuration information file (.NDD): one client per line with its
// network address, host name and MAC address, and without a host ID, which a fresh PC does not have.
func (f *Fleet) WriteSystemFile(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "' %d simulated PCs\n", len(f.Devices))
	for _, d := range f.Devices {
		address := hostOf(d.options.Network)
		fmt.Fprintf(b, "%s %s TYPE=client,MAC=%s,COMMENT=simulated,ROOT=\\,DATE=%s\n", address, d.id.host,
			strings.ToUpper(d.id.mac), d.now().Format("2006/01/02 15:04:05"))
	}
	return b.Flush()
}

// ServeControl serves the control API on a loopback address until the listener is closed.
func (f *Fleet) ServeControl(l net.Listener) error {
	s := &http.Server{Handler: f.Control(), ReadHeaderTimeout: controlTimeout}
	return s.Serve(l)
}

// ListenControl opens the listener of the control API.
func ListenControl(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("control address %q: %w", address, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, fmt.Errorf("control address %q: the port is no number", address)
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("control address %q: only loopback addresses are accepted", address)
	}
	return net.Listen("tcp", address)
}
