// Package amtinit initializes the host ID area of many PCs' AMT over the network: the engine of dcmamtin, and of a
// relay that does the same for its subtree.
//
// # What a run promises
//
// Every target gets exactly one [Outcome]: initialized, or one [Code] with cause and remedy in every language. At
// most Options.Parallel targets are worked on at a time, each over one connection with one call in flight, each
// bounded by Options.Timeout. Connections leave at a bounded rate. A target whose connection is not there after half a
// second gives its place to the next and waits beside: absent PCs slow nobody down, and cost one connect timeout,
// whatever ports and addresses they have.
//
// Initializing is idempotent, because amt.Initialize reads before it writes and never removes anything; so a target
// whose connection broke is tried once more, whatever had been done by then. A refused log-on is never repeated, nor
// is a call that took too long.
//
// # The lockout guard
//
// AMT locks an account after repeated failures, and a wrong password in our own setup would do that to a whole
// company. So no device sees more than two failed log-ons in a run, over all connections to it, counting those whose
// answer was lost. (The second tells a wrong password from a missing realm. A device that has let us in and locks the
// account in the middle may see a third.) And until one device has let us in, at most five devices are being logged
// on to, and a device that refuses keeps its place for good: with a wrong password five devices see it, and the run
// stops. A device that does not answer for five seconds makes room for another, so that no wait lasts for ever; should
// it refuse later, that counts all the same.
//
// What is promised for a device is promised for its address: the names of a PC that the targets have twice are worked on
// one after the other, and share the log-ons that it may see.
//
// # Dry runs
//
// With Options.DryRun a target is only looked at, and [Outcome.Findings] says what was found. OK then means that the
// target would be initialized.
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
	"os"
	"sync"
	"time"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

// Bounds of a run.
const (
	// DefaultParallel: 10,000 simulated PCs at 200 ms per call, on two processors that the simulator and other work
	// shared, took 101 s and 27 MB with 256 at a time, 50 s and 44 MB with 512, 29 s and 76 MB with 1024, 36 s and 142 MB
	// with 2048; with 4096 and 253 MB connects began to fail for want of processor time. At 0 ms all from 1024 on took 15 to
	// 17 s. A process that may open few files does fewer: see withinFiles.
	DefaultParallel = 1024
	MaxParallel     = 4096
	DefaultTimeout  = 30 * time.Second // for a whole target, a retry included

	FirstHosts = 3 // of each reason that a summary names

	// Ports of AMT (Intel: network ports used by Intel AMT).
	PortHTTP = 16992
	PortTLS  = 16993

	connectTimeout = 5 * time.Second // for all ports and addresses that one source gives
	lookupTimeout  = 2 * time.Second
	maxAddresses   = 4 // of one name that are tried

	// quietAfter is when a connect counts as slow: then the other port and the other addresses are tried beside it, and
	// the place goes to another target. A connect takes one round trip, below 0.3 s even around the earth; what takes
	// longer has lost a packet (the next goes out after a second, RFC 6298) or nobody there.
	quietAfter = 500 * time.Millisecond
	// maxQuiet bounds those that wait so: a socket or two and 10 kB each. With every second of 10,000 PCs absent, all
	// of these are waited for at a time, twice.
	maxQuiet = 2500

	// connectRate is how many connections per second leave at most, those after a close included: AMT closes the first
	// one of each PC with its 401. The firewall of a small office is made for some thousand new connections per second,
	// and thresholds against floods begin at that; 10,000 PCs need 20,000, so 8 s.
	connectRate = 2500
	// connectBurst leave at once, after a pause: as many as a tick of 16 ms (the timer of Windows) would have let go.
	connectBurst = 32

	guardPlaces = 5 // devices that may refuse the log-on before the run stops
	// guardPatience is how long a device that does not answer keeps one of these places. AMT answers a log-on within a
	// second or two.
	guardPatience = 5 * time.Second
	maxLogOns     = 2 // that a device refuses, or may have refused, in a run

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
	Number  int        // names it in a run that a manager has split; 0 elsewhere
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

	Warnings []Warning // what is wrong with the device besides

	letIn bool // it accepted the log-on
}

// OK reports that the area is initialized, by us now or before; after a dry run, that it is or could be.
func (o Outcome) OK() bool { return o.Code == "" }

// Summary counts the outcomes of a run.
type Summary struct {
	OK       int          // initialized (a dry run: could be), Already among them
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
	e, err := newEngine(o)
	if err != nil {
		return Summary{}, err
	}
	return e.run(ctx, targets, sink), nil
}

func newEngine(o Options) (engine, error) {
	own, err := ownAddresses()
	if err != nil {
		return engine{}, fmt.Errorf("read this machine's network addresses: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return engine{}, fmt.Errorf("read this machine's name: %w", err)
	}
	return engine{Options: o, own: own, ownName: name, dial: dial, lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}, nil
}

// withinFiles lowers what a process does at a time to what one may that may have that many files open; 0 is unknown. A
// target takes two sockets at most: two questions to the name server, or both ports. Without a file to spare the log would
// lose the lines that say so.
func withinFiles(parallel, files int) (working, quiet int) {
	const others = 32 // standard files, configuration, target list, log, journal, poller
	if files == 0 {
		return parallel, maxQuiet
	}
	targets := max((files-others)/2, 1)
	working = min(parallel, targets)
	return working, min(maxQuiet, targets-working)
}

type engine struct {
	Options
	own     map[netip.Addr]bool
	ownName string
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	dial    func(ctx context.Context, at netip.AddrPort) (net.Conn, error)
	clear   func(ctx context.Context, c *wsman.Client) (amt.Result, error) // instead of amt.Initialize
	guard   *guard
	devices devices
	pace    pace
	working chan struct{} // holds one value for each target that is worked on
	quiet   chan struct{} // holds one value for each that waits for a connection and has given its working place away
}

func (e *engine) run(ctx context.Context, targets iter.Seq[Target], sink func(Outcome)) Summary {
	if e.Parallel <= 0 {
		e.Parallel = DefaultParallel
	}
	working, quiet := withinFiles(e.Parallel, openFiles())
	e.working, e.quiet = make(chan struct{}, working), make(chan struct{}, quiet)
	if e.Timeout <= 0 {
		e.Timeout = DefaultTimeout
	}
	if e.Enterprise == "" {
		e.Enterprise = amt.DefaultEnterprise
	}
	e.guard = newGuard(e.IgnoreLogonFailures)
	e.pace = pace{every: time.Second / connectRate, burst: connectBurst}

	var (
		mu  sync.Mutex
		sum = Summary{Reasons: make(map[Code]int)}
		all sync.WaitGroup
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
		}
		sink(out)
	}

	e.working <- struct{}{} // the place is taken before the target is pulled
	for t := range targets {
		if e.guard.stopped() {
			finish(Outcome{Target: t, Code: NotTried, Step: Connect})
			continue
		}
		e.pace.wait(ctx) // for the target's first connection: no more are begun than can connect
		all.Go(func() {
			p := &place{e: e}
			finish(e.work(ctx, t, p))
			p.leave()
		})
		e.working <- struct{}{}
		if ctx.Err() != nil {
			break
		}
	}
	all.Wait()
	return sum
}

// place is a target's right to be worked on. While it waits for a connection that does not come, it gives the right to
// another: an absent PC costs a socket and five seconds, and slows nobody down.
type place struct {
	e    *engine
	used bool // the connection that the target was begun with has been made

	mu      sync.Mutex
	waiting *time.Timer
	settled bool // it will not be given away any more
	quiet   bool // it was
}

// connecting begins the time after which the place is given away.
func (p *place) connecting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = time.AfterFunc(quietAfter, p.give)
	}
}

func (p *place) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled {
		return
	}
	select {
	case p.e.quiet <- struct{}{}:
		p.quiet = true
		<-p.e.working
	default: // too many wait already: this one keeps its place
	}
}

func (p *place) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = true
	if p.waiting != nil {
		p.waiting.Stop()
	}
}

// take waits for a place, where it was given away.
func (p *place) take(ctx context.Context) error {
	p.settle()
	if !p.quiet {
		return nil
	}
	select {
	case p.e.working <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-p.e.quiet
	p.quiet = false
	return nil
}

func (p *place) leave() {
	p.settle()
	if p.quiet {
		<-p.e.quiet
	} else {
		<-p.e.working
	}
}

// failure carries an error together with what it means for the target.
type failure struct {
	code Code
	step Step
	err  error
}

func (e *engine) work(ctx context.Context, t Target, p *place) (out Outcome) {
	began := time.Now()
	out = Outcome{Target: t}
	defer func() { out.hideSecret(e.Password) }()
	f := e.attempt(ctx, &out, p)
	out.Took = time.Since(began)
	out.Warnings = warningsOf(out.Result.About)
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

func (e *engine) attempt(ctx context.Context, out *Outcome, p *place) *failure {
	began := time.Now()
	finding, cancel := context.WithTimeout(ctx, e.Timeout)
	device, f := e.find(finding, out.Target, p)
	cancel()
	if f != nil {
		return f
	}
	defer device.close()
	out.Reached, out.TLS = device.at, device.tls
	if device.tls && e.RootCAs == nil && len(e.PinSPKI) == 0 {
		return &failure{NoTrust, Connect, wsman.ErrNoTrust}
	}

	// The waits for a place and for the guard are not the device's fault and do not count against its time.
	left, waiting := e.Timeout-time.Since(began), time.Now()
	if err := p.take(ctx); err != nil {
		return &failure{Interrupted, Connect, err}
	}
	same, err := e.devices.enter(ctx, device.at.Addr())
	if err != nil {
		return &failure{Interrupted, Connect, err}
	}
	defer e.devices.leave(device.at.Addr(), same)
	// What it said under another name is what there is to say; and those that waited while it said nothing would take as
	// long again, one after the other.
	if same.logOns.Left <= 0 || same.failure.code == TimedOut {
		return same.repeat(out)
	}
	pass, err := e.guard.enter(ctx)
	if errors.Is(err, errStopped) {
		return &failure{NotTried, Connect, err}
	}
	if err != nil {
		return &failure{Interrupted, Connect, err}
	}
	if time.Since(waiting) > connectTimeout {
		device.close() // who knows whether the device has kept it: dial makes another
	}
	working, cancel := context.WithTimeout(ctx, left)
	defer cancel()

	logOns := &same.logOns
	logOns.LetIn = func() {
		out.letIn = true
		e.guard.letIn()
	}
	code, err := e.initialize(working, device, logOns, out)
	if code == EnterpriseMode {
		// The mode wants TLS. It has both ports open, and the one without TLS is the first that was tried.
		if secure := e.besideWithTLS(working, device); secure != nil {
			defer secure.close()
			out.Reached, out.TLS = secure.at, true
			code, err = e.initialize(working, secure, logOns, out)
		}
	}
	e.guard.leave(pass, code == LogOnRefused)
	same.letIn, same.result = out.letIn, out.Result
	same.failure = failure{code, Initialize, err}
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
	secure := &device{e: e, host: d.host, at: netip.AddrPortFrom(d.at.Addr(), PortTLS), tls: true}
	conn, err := e.connect(ctx, secure.at)
	if err != nil {
		return nil
	}
	secure.ready = conn
	return secure
}

// initialize works on a device that was found, and leaves in out what it saw. If the connection breaks, it does all of it
// once more: whatever call the break hit, the work begins by reading what is there, adds only what is missing, and an
// entry that was added twice is refused by the device as a duplicate. What was refused, and what took too long, is not
// repeated.
func (e *engine) initialize(ctx context.Context, d *device, logOns *wsman.LogOns, out *Outcome) (code Code, err error) {
	var before amt.Result // what the connection that broke did counts: it was not so before we came
	for again := true; ; again = false {
		r, failed := e.initializeOnce(ctx, d, logOns)
		if !again && errors.Is(failed, wsman.ErrLogOnsSpent) {
			return code, err // what there is to say is that the connection broke
		}
		err = failed
		r.EnterpriseAdded = r.EnterpriseAdded || before.EnterpriseAdded
		r.AllocationAdded = r.AllocationAdded || before.AllocationAdded
		r.AllocationEnlarged = r.AllocationEnlarged || before.AllocationEnlarged
		out.Result, before = r, r
		if err == nil {
			return "", nil
		}
		if code = classify(err, r); code != ConnectionBroken || !again {
			return code, err
		}
		if sleep(ctx, retryWait+rand.N(retryJitter)) != nil {
			return code, err
		}
	}
}

func (e *engine) initializeOnce(ctx context.Context, d *device, logOns *wsman.LogOns) (amt.Result, error) {
	c, err := wsman.NewClient(wsman.Endpoint{
		URL:      d.url(),
		User:     e.User,
		Password: e.Password,
		RootCAs:  e.RootCAs,
		PinSPKI:  e.PinSPKI,
		Dial:     d.dial,
		MaxReply: maxReply,
		LogOns:   logOns,
	})
	if err != nil {
		return amt.Result{}, err
	}
	defer c.Close()
	if e.clear != nil {
		return e.clear(ctx, c)
	}
	if e.DryRun {
		return amt.Inspect(ctx, c, e.Enterprise)
	}
	return amt.Initialize(ctx, c, e.Enterprise)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

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
