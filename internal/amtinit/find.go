package amtinit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// device is an AMT port that took a connection.
type device struct {
	e     *engine
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
	return d.e.connect(ctx, d.at)
}

func (d *device) close() {
	if d.ready != nil {
		d.ready.Close()
		d.ready = nil
	}
}

// find looks for the target at its addresses, in the order that the options want. The second source of addresses is asked
// only if nothing answered at the first.
func (e *engine) find(ctx context.Context, t Target, p *place) (*device, *failure) {
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
	var tried []netip.Addr
	loopbackOnly := true
	for _, source := range sources {
		addrs, f := source()
		if f != nil {
			unresolved = f
			continue
		}
		before := len(tried)
		var own netip.Addr
		for _, a := range addrs {
			a = a.Unmap()
			if slices.Contains(tried, a) || a.IsUnspecified() || a.IsMulticast() || a == broadcast {
				continue // a connection to 0.0.0.0 would end at this machine
			}
			if e.own[a.WithZone("")] && !a.IsLoopback() {
				own = a
				break
			}
			loopbackOnly = loopbackOnly && a.IsLoopback()
			tried = append(tried, a)
		}
		if len(tried) > before {
			d, f := e.knock(ctx, t, tried[before:], p)
			if d != nil {
				return d, nil
			}
			if f.code == LocalResources || ctx.Err() != nil {
				return nil, f
			}
			silent = f
		}
		if own.IsValid() {
			return nil, &failure{OwnMachine, Connect, fmt.Errorf("%s is an address of this machine", own)}
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

// knock connects to the AMT port of one of these addresses of a PC. The next is tried as soon as all before have refused,
// and all are once one has not answered within quietAfter; so what does not answer costs one connectTimeout, however many
// there are. The first connection without TLS is taken. One with TLS is taken when no port without TLS can answer in its
// time any more: port = "auto" means 16992, then 16993. See docs/decisions/0050.
func (e *engine) knock(ctx context.Context, t Target, addrs []netip.Addr, p *place) (*device, *failure) {
	var doors []device
	for _, a := range addrs {
		if e.Port != 0 {
			doors = append(doors, device{at: netip.AddrPortFrom(a, uint16(e.Port)), tls: e.TLS})
		} else {
			doors = append(doors, device{at: netip.AddrPortFrom(a, PortHTTP)}, device{at: netip.AddrPortFrom(a, PortTLS), tls: true})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	type reply struct {
		door int
		conn net.Conn
		err  error
	}
	var (
		replies     = make(chan reply, len(doors)) // nobody who connects waits for us
		next, asked int                            // doors begun, and of them those without a reply
		plain       int                            // doors without TLS that may still open
		errs        = make([]error, len(doors))
		secure      *device // open, with TLS
		slow        = time.NewTimer(quietAfter)
	)
	defer slow.Stop()
	for _, d := range doors {
		if !d.tls {
			plain++
		}
	}
	p.connecting()
	ask := func() {
		door, dial := next, e.connect
		if !p.used {
			p.used, dial = true, e.dial // this one was waited for before the target was begun
		}
		next++
		asked++
		go func() {
			conn, err := dial(ctx, doors[door].at)
			replies <- reply{door, conn, err}
		}()
	}
	end := func(d *device, f *failure) (*device, *failure) {
		if secure != nil && secure != d {
			secure.close()
		}
		if asked > 0 {
			cancel()
			go func() {
				for range asked {
					if r := <-replies; r.conn != nil {
						r.conn.Close()
					}
				}
			}()
		}
		return d, f
	}
	for {
		if asked == 0 && (next == len(doors) || ctx.Err() != nil) {
			break
		}
		if asked == 0 {
			ask()
			slow.Reset(quietAfter)
		}
		select {
		case <-slow.C:
			for next < len(doors) {
				ask()
			}
		case r := <-replies:
			asked--
			d := &doors[r.door]
			switch {
			case r.err == nil:
				d.e, d.host, d.ready = e, t.Host, r.conn
				if !d.tls {
					return end(d, nil)
				}
				if secure == nil {
					secure = d
				} else {
					d.close()
				}
			case exhausted(r.err):
				return end(nil, &failure{LocalResources, Connect, r.err})
			default:
				errs[r.door] = r.err
				if !d.tls {
					plain--
				}
			}
			if secure != nil && plain == 0 {
				return end(secure, nil)
			}
		}
	}
	if next == 0 {
		return nil, &failure{NothingAnswers, Connect, ctx.Err()}
	}
	if secure != nil { // the target's time ran out while ports without TLS were waited for
		return secure, nil
	}
	return nil, &failure{NothingAnswers, Connect, joined(errs)}
}

// connect makes a connection when the pace lets it.
func (e *engine) connect(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	if err := e.pace.wait(ctx); err != nil {
		return nil, err
	}
	return e.dial(ctx, at)
}

func dial(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	// Every exchange has a deadline, so nobody waits for keep-alive packets.
	d := net.Dialer{Timeout: connectTimeout, KeepAlive: -1}
	return d.DialContext(ctx, "tcp", at.String())
}

// pace lets events happen at most every so often, but for a burst after a pause: in a time of t at most burst+t/every. The
// zero value lets all happen at once. They happen in the order of the calls.
type pace struct {
	every time.Duration
	burst int

	mu   sync.Mutex
	last time.Time // when the one before may happen, or would have, had there been no pause
}

// wait returns when the next event may happen.
func (p *pace) wait(ctx context.Context) error {
	if p.every == 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-p.every * time.Duration(p.burst)); p.last.Before(earliest) {
		p.last = earliest
	}
	p.last = p.last.Add(p.every)
	wait := p.last.Sub(now)
	p.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	return sleep(ctx, wait)
}

// joined puts errors on one line; errors.Join would put each on its own.
func joined(errs []error) (all error) {
	for _, err := range errs {
		switch {
		case err == nil: // not tried: there was no time left
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
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
