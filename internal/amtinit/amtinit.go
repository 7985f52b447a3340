// Package amtinit initializes the host ID area of many PCs' AMT over the network: the engine of dcmamtin, and of a
// relay that does the same for its subtree.
//
// # What a run promises
//
// Every target gets exactly one [Outcome]: initialized, or one [Code] with cause and remedy in every language. At
// most Options.Parallel targets are worked on at a time, each over one connection with one call in flight, each
// bounded by Options.Timeout. Initializing is idempotent, because amt.Initialize reads before it writes and never
// removes anything; so a target whose connection broke is tried once more, whatever had been done by then. A refused
// log-on is never repeated.
//
// # The lockout guard
//
// AMT locks an account after repeated failures, and a wrong password in our own setup would do that to a whole
// company. Until one device has let us in, at most five devices are being logged on to, and a device that refuses
// keeps its place for good. So with a wrong password five devices see it, each two failed log-ons at most (the second
// tells a wrong password from a missing realm), and the run stops.
package amtinit

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

// Bounds of a run.
const (
	// DefaultParallel: 3000 simulated PCs at 200 ms per call took 164 s with 64 at a time, 43 s with 256, 25 s with 512 and
	// 19 s with 1024, with twice the memory. A process that may open few files does fewer: see withinFiles.
	DefaultParallel = 512
	MaxParallel     = 4096
	DefaultTimeout  = 30 * time.Second // for a whole target, a retry included

	FirstHosts = 3 // of each reason that a summary names

	// Ports of AMT (Intel: network ports used by Intel AMT).
	PortHTTP = 16992
	PortTLS  = 16993

	connectTimeout = 5 * time.Second
	lookupTimeout  = 2 * time.Second
	maxAddresses   = 4 // of one name that are tried: each can cost two connect timeouts
	guardPlaces    = 5 // devices that may refuse the log-on before the run stops

	// maxReply bounds what one of thousands of devices can make us hold. The longest answer that initializing asks for is
	// a list of 256 handles, about 10 kB.
	maxReply = 64 << 10

	retryWait   = 200 * time.Millisecond
	retryJitter = 800 * time.Millisecond
)

// Target is one PC to initialize.
type Target struct {
	Host    string     // host name; "" if only the address is known
	Address netip.Addr // the zero Addr if only the name is known
}

// String is the name that outcomes and log lines call the target by.
func (t Target) String() string {
	if t.Host != "" {
		return t.Host
	}
	return t.Address.String()
}

// Options say how to reach the devices and how to log on to them.
type Options struct {
	User       string
	Password   wsman.Secret
	Enterprise string // "" means amt.DefaultEnterprise

	Port    int            // 0: 16992, then 16993 with TLS; else exactly this port
	TLS     bool           // TLS on a numbered port
	RootCAs *x509.CertPool // TLS needs RootCAs or PinSPKI, see wsman.Endpoint
	PinSPKI []byte

	Parallel     int           // 1 to MaxParallel; 0 means DefaultParallel
	Timeout      time.Duration // 0 means DefaultTimeout
	AddressFirst bool          // the target's address first, its name if nothing answers there; default the reverse

	IgnoreLogonFailures bool // no lockout guard
	DryRun              bool // look only: amt.Inspect instead of amt.Initialize
}

// Step is how far a target came.
type Step string

// The steps.
const (
	Resolve    Step = "resolve"
	Connect    Step = "connect"
	Initialize Step = "initialize"
)

// Outcome is what became of one target.
type Outcome struct {
	Target
	Reached netip.AddrPort // where a device answered; the zero value if none did
	TLS     bool
	Code    Code       // why it failed; "" if it did not
	Step    Step       // where it failed
	Status  amt.Status // what AMT answered to the failing call; 0 if that was not it
	Err     error      // detail of the failure; may quote the device
	Result  amt.Result // what was found before a failure, too
	Took    time.Duration

	Warnings []Warning // what is wrong with the device besides, in a dry run
}

// OK reports that the area is initialized, by us now or before.
func (o Outcome) OK() bool { return o.Code == "" }

// Summary counts the outcomes of a run.
type Summary struct {
	OK       int          // initialized, Already among them
	Already  int          // nothing had to be changed
	Failed   int          // tried and not initialized
	NotTried int          // left alone by the lockout guard
	Reasons  map[Code]int // of Failed and NotTried
	Warned   int          // with at least one warning, whatever else became of them

	Hosts map[Code][]string // the first hosts of each reason, at most FirstHosts
}

// Run works through the targets and hands each outcome to sink, one at a time, in the order they finish. It pulls a
// target only when it can begin it at once, so a caller stops a run gracefully by ending the sequence; cancelling ctx
// breaks off what is in flight. After the lockout guard stopped the run, the rest of the sequence is NotTried.
func Run(ctx context.Context, o Options, targets iter.Seq[Target], sink func(Outcome)) (Summary, error) {
	own, err := ownAddresses()
	if err != nil {
		return Summary{}, fmt.Errorf("read this machine's network addresses: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return Summary{}, fmt.Errorf("read this machine's name: %w", err)
	}
	e := engine{Options: o, own: own, ownName: name, lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}
	return e.run(ctx, targets, sink), nil
}

// withinFiles lowers parallel to what a process may do that may have that many files open; 0 is unknown. A target takes
// one socket, two while its name is looked up, and without a file to spare the log would lose the lines that say so.
func withinFiles(parallel, files int) int {
	const others = 32 // standard files, configuration, target list, log, poller
	if files == 0 {
		return parallel
	}
	return max(min(parallel, (files-others)/2), 1)
}

type engine struct {
	Options
	own     map[netip.Addr]bool
	ownName string
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	guard   *guard
}

func (e *engine) run(ctx context.Context, targets iter.Seq[Target], sink func(Outcome)) Summary {
	if e.Parallel <= 0 {
		e.Parallel = DefaultParallel
	}
	e.Parallel = withinFiles(e.Parallel, openFiles())
	if e.Timeout <= 0 {
		e.Timeout = DefaultTimeout
	}
	if e.Enterprise == "" {
		e.Enterprise = amt.DefaultEnterprise
	}
	e.guard = newGuard(e.IgnoreLogonFailures)

	var (
		mu      sync.Mutex
		sum     = Summary{Reasons: make(map[Code]int), Hosts: make(map[Code][]string)}
		working sync.WaitGroup
		slots   = make(chan struct{}, e.Parallel)
	)
	finish := func(out Outcome) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case out.OK():
			sum.OK++
			if out.Result.AlreadyInitialized() {
				sum.Already++
			}
		case out.Code == NotTried:
			sum.NotTried++
		default:
			sum.Failed++
		}
		if !out.OK() {
			sum.Reasons[out.Code]++
			if hosts := sum.Hosts[out.Code]; len(hosts) < FirstHosts {
				sum.Hosts[out.Code] = append(hosts, out.Target.String())
			}
		}
		if len(out.Warnings) > 0 {
			sum.Warned++
		}
		sink(out)
	}

	slots <- struct{}{} // the place is taken before the target is pulled
	for t := range targets {
		if e.guard.stopped() {
			finish(Outcome{Target: t, Code: NotTried, Step: Connect})
			continue
		}
		working.Go(func() {
			defer func() { <-slots }()
			finish(e.work(ctx, t))
		})
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
	}
	working.Wait()
	return sum
}

// failure carries an error together with what it means for the target.
type failure struct {
	code Code
	step Step
	err  error
}

func (e *engine) work(ctx context.Context, t Target) Outcome {
	began := time.Now()
	out := Outcome{Target: t}
	f := e.attempt(ctx, &out)
	out.Took = time.Since(began)
	if f == nil {
		return out
	}
	out.Code, out.Step, out.Err = f.code, f.step, f.err
	if ctx.Err() != nil && f.code != NotTried {
		out.Code = Interrupted
	}
	if status, ok := errors.AsType[amt.Status](f.err); ok {
		out.Status = status
	}
	return out
}

func (e *engine) attempt(ctx context.Context, out *Outcome) *failure {
	began := time.Now()
	finding, cancel := context.WithTimeout(ctx, e.Timeout)
	device, f := e.find(finding, out.Target)
	cancel()
	if f != nil {
		return f
	}
	defer device.close()
	out.Reached, out.TLS = device.at, device.tls
	if device.tls && e.RootCAs == nil && len(e.PinSPKI) == 0 {
		return &failure{NoTrust, Connect, wsman.ErrNoTrust}
	}

	// The wait for the guard is not the device's fault and does not count against its time.
	left := e.Timeout - time.Since(began)
	place, err := e.guard.enter(ctx)
	if errors.Is(err, errStopped) {
		return &failure{NotTried, Connect, err}
	}
	if err != nil {
		return &failure{Interrupted, Connect, err}
	}
	working, cancel := context.WithTimeout(ctx, left)
	defer cancel()

	code, err := e.initialize(working, device, out)
	if code == EnterpriseMode {
		// The mode wants TLS. It has both ports open, and the one without TLS is the first that was tried.
		if secure := e.besideWithTLS(working, device); secure != nil {
			defer secure.close()
			out.Reached, out.TLS = secure.at, true
			code, err = e.initialize(working, secure, out)
		}
	}
	e.guard.leave(place, code)
	if code != "" {
		return &failure{code, Initialize, err}
	}
	return nil
}

// besideWithTLS connects to the TLS port of a device that was found without TLS, if the options leave the port open and
// have something to judge TLS by; nil if it takes no connection.
func (e *engine) besideWithTLS(ctx context.Context, d *device) *device {
	if d.tls || e.Port != 0 || e.RootCAs == nil && len(e.PinSPKI) == 0 {
		return nil
	}
	secure := &device{host: d.host, at: netip.AddrPortFrom(d.at.Addr(), PortTLS), tls: true}
	conn, err := connect(ctx, secure.at)
	if err != nil {
		return nil
	}
	secure.ready = conn
	return secure
}

// initialize works on a device that was found, once more if the connection breaks, and leaves in out what it saw.
func (e *engine) initialize(ctx context.Context, d *device, out *Outcome) (code Code, err error) {
	var before amt.Result // what the connection that broke did counts: it was not so before we came
	for again := true; ; again = false {
		out.Result, err = e.initializeOnce(ctx, d)
		out.Result.EnterpriseAdded = out.Result.EnterpriseAdded || before.EnterpriseAdded
		out.Result.AllocationAdded = out.Result.AllocationAdded || before.AllocationAdded
		out.Result.AllocationEnlarged = out.Result.AllocationEnlarged || before.AllocationEnlarged
		if err == nil {
			return "", nil
		}
		before = out.Result
		if code = classify(err, out.Result); code != ConnectionBroken || !again {
			return code, err
		}
		if sleep(ctx, retryWait+rand.N(retryJitter)) != nil {
			return code, err
		}
	}
}

func (e *engine) initializeOnce(ctx context.Context, d *device) (amt.Result, error) {
	c, err := wsman.NewClient(wsman.Endpoint{
		URL:      d.url(),
		User:     e.User,
		Password: e.Password,
		RootCAs:  e.RootCAs,
		PinSPKI:  e.PinSPKI,
		Dial:     d.dial,
		MaxReply: maxReply,
	})
	if err != nil {
		return amt.Result{}, err
	}
	defer c.Close()
	return amt.Initialize(ctx, c, e.Enterprise)
}

// device is an AMT port that took a connection.
type device struct {
	host  string // for the certificate; "" if only the address is known
	at    netip.AddrPort
	tls   bool
	ready net.Conn // the connection that found it; used first, so that a device sees no connection without a request
}

func (d *device) url() string {
	u := url.URL{Scheme: "http", Host: d.at.String(), Path: "/wsman"}
	if d.tls {
		u.Scheme = "https"
		if isHostName(d.host) {
			u.Host = net.JoinHostPort(d.host, fmt.Sprint(d.at.Port()))
		}
	}
	return u.String()
}

func (d *device) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if c := d.ready; c != nil {
		d.ready = nil
		return c, nil
	}
	return connect(ctx, d.at)
}

func (d *device) close() {
	if d.ready != nil {
		d.ready.Close()
	}
}

// find looks for the target at its addresses, in the order that the options want, and stops at the first that takes
// a connection. The second source of addresses is asked only if nothing answered at the first.
func (e *engine) find(ctx context.Context, t Target) (*device, *failure) {
	byName := func() ([]netip.Addr, *failure) {
		if t.Host == "" {
			return nil, nil
		}
		looking, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		addrs, err := e.lookup(looking, t.Host)
		if err != nil || len(addrs) == 0 {
			return nil, &failure{Unresolvable, Resolve, err}
		}
		return addrs[:min(len(addrs), maxAddresses)], nil
	}
	byFile := func() ([]netip.Addr, *failure) {
		if !t.Address.IsValid() {
			return nil, nil
		}
		return []netip.Addr{t.Address}, nil
	}
	sources := []func() ([]netip.Addr, *failure){byName, byFile}
	if e.AddressFirst {
		sources[0], sources[1] = byFile, byName
	}

	var unresolved, silent *failure
	tried, loopbackOnly := make(map[netip.Addr]bool), true
	for _, source := range sources {
		addrs, f := source()
		if f != nil {
			unresolved = f
			continue
		}
		for _, a := range addrs {
			a = a.Unmap()
			if tried[a] || a.IsUnspecified() || a.IsMulticast() || a == broadcast {
				continue // a connection to 0.0.0.0 would end at this machine
			}
			tried[a] = true
			loopbackOnly = loopbackOnly && a.IsLoopback()
			if e.own[a.WithZone("")] && !a.IsLoopback() {
				return nil, &failure{OwnMachine, Connect, fmt.Errorf("%s is an address of this machine", a)}
			}
			d, f := e.knock(ctx, t, a)
			if d != nil {
				return d, nil
			}
			if f.code == LocalResources || ctx.Err() != nil {
				return nil, f
			}
			silent = f
		}
	}
	switch {
	case silent != nil && loopbackOnly && sameHost(t.Host, e.ownName):
		// Debian's hosts file leads a machine's own name to 127.0.1.1.
		return nil, &failure{OwnMachine, Connect, fmt.Errorf("%s is the name of this machine", t.Host)}
	case silent != nil:
		return nil, silent
	case unresolved != nil:
		return nil, unresolved
	}
	return nil, &failure{Unresolvable, Resolve, errors.New("no address that a PC can have")}
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// knock connects to the AMT port of one address, or to the first of the two that takes the connection.
func (e *engine) knock(ctx context.Context, t Target, a netip.Addr) (*device, *failure) {
	ports := []device{{at: netip.AddrPortFrom(a, PortHTTP)}, {at: netip.AddrPortFrom(a, PortTLS), tls: true}}
	if e.Port != 0 {
		ports = []device{{at: netip.AddrPortFrom(a, uint16(e.Port)), tls: e.TLS}}
	}
	var errs []error
	for _, d := range ports {
		conn, err := connect(ctx, d.at)
		if err == nil {
			d.host, d.ready = t.Host, conn
			return &d, nil
		}
		if exhausted(err) {
			return nil, &failure{LocalResources, Connect, err}
		}
		errs = append(errs, err)
	}
	return nil, &failure{NothingAnswers, Connect, joined(errs)}
}

func connect(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout}
	return d.DialContext(ctx, "tcp", at.String())
}

// joined puts errors on one line; errors.Join would put each on its own.
func joined(errs []error) error {
	err := errs[0]
	for _, next := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, next)
	}
	return err
}

// sameHost compares host names, of which either may lack the domain.
func sameHost(a, b string) bool {
	a, domainA, okA := strings.Cut(strings.TrimSuffix(a, "."), ".")
	b, domainB, okB := strings.Cut(strings.TrimSuffix(b, "."), ".")
	return a != "" && strings.EqualFold(a, b) && (!okA || !okB || strings.EqualFold(domainA, domainB))
}

// isHostName keeps names out of a URL that would change its meaning there.
func isHostName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return s != ""
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func ownAddresses() (map[netip.Addr]bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	own := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(ipnet.IP); ok {
				own[ip.Unmap()] = true
			}
		}
	}
	return own, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// guard is the lockout guard: see the package comment.
type guard struct {
	places chan struct{} // taken by devices being logged on to, kept by those that refused
	open   chan struct{} // closed once a device let us in
	stop   chan struct{} // closed once every place is kept

	mu      sync.Mutex
	opened  bool
	refused int
}

func newGuard(open bool) *guard {
	g := &guard{
		places: make(chan struct{}, guardPlaces),
		open:   make(chan struct{}),
		stop:   make(chan struct{}),
		opened: open,
	}
	if open {
		close(g.open)
	}
	return g
}

var errStopped = errors.New("the first devices that answered all refused the log-on")

// enter waits until this device may be logged on to. held says that leave must give a place back.
func (g *guard) enter(ctx context.Context) (held bool, err error) {
	select {
	case <-g.open:
		return false, nil
	default:
	}
	select {
	case <-g.open:
		return false, nil
	case <-g.stop:
		return false, errStopped
	case g.places <- struct{}{}:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (g *guard) leave(held bool, code Code) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case letIn(code):
		if !g.opened {
			g.opened = true
			close(g.open)
		}
	case code == LogOnRefused && held:
		if g.refused++; g.refused == guardPlaces { // so none of the five was let in
			close(g.stop)
		}
		return
	}
	if held {
		<-g.places
	}
}

func (g *guard) stopped() bool {
	select {
	case <-g.stop:
		return true
	default:
		return false
	}
}

// letIn reports outcomes that prove that our user and password are right for some device.
func letIn(c Code) bool {
	switch c {
	case "", LockedOut, RealmMissing, No3PDS, NotProvisioned, EnterpriseMode, EACLFull, AllocationFull, OutOfStorage,
		WornOut, UnexpectedStatus:
		return true
	}
	return false
}
