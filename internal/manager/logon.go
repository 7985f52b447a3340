package manager

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"samehost/internal/registry"
)

// Bounds on log-ons. A password takes a tenth of a second of one processor to check, on purpose; nobody who has none may
// take more than a part of this machine, or guess for long.
const (
	// freeFailures are not slowed; each further one doubles the time to wait, from one second to maxWait.
	freeFailures = 5
	maxWait      = time.Minute
	// nameFailures are those under one name from anywhere. From then on it takes one try per nameWait from addresses at which
	// nobody has logged on under that name since this process began.
	nameFailures = 20
	nameWait     = 5 * time.Second
	// forgotten is how long after the last failure everything is as at first.
	forgotten = 15 * time.Minute
	// maxRemembered bounds each table of names and addresses; what failed longest ago goes first.
	maxRemembered = 10_000
	// maxChecks wait for a processor at a time; whoever comes then is told to come again.
	maxChecks = 32
	// remembered is how long a password that was right is not checked again. Another password, or none, holds at once.
	remembered = time.Minute
	// maxCredentials bounds the passwords that are remembered.
	maxCredentials = 1000
)

// logons decides who is an administrator.
type logons struct {
	reg *registry.Registry
	log *slog.Logger
	now func() time.Time
	key [32]byte // of this process: what is remembered is no hash of a password to anybody else

	waiting chan struct{} // holds one for each that wants a processor
	running chan struct{} // and one for each that has one

	mu          sync.Mutex
	credentials map[[sha256.Size]byte]credential
	addresses   map[netip.Prefix]*tries
	names       map[string]*tries
	known       map[knownAt]time.Time // who logged on from where, last
}

type credential struct {
	verifier registry.Verifier
	until    time.Time
}

type tries struct {
	count int
	last  time.Time
}

type knownAt struct {
	name    string
	address netip.Prefix
}

func newLogons(reg *registry.Registry, log *slog.Logger) *logons {
	l := &logons{
		reg: reg, log: log, now: time.Now,
		waiting: make(chan struct{}, maxChecks), running: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		credentials: map[[sha256.Size]byte]credential{}, addresses: map[netip.Prefix]*tries{}, names: map[string]*tries{}, known: map[knownAt]time.Time{},
	}
	rand.Read(l.key[:])
	return l
}

// refusal is why nobody is logged on.
type refusal struct {
	status int
	after  time.Duration // when to try again; 0: not said
	detail string
}

// check returns the administrator that a request is from. A nil refusal says that there is one.
func (l *logons) check(ctx context.Context, r *http.Request) (name string, refused *refusal, err error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		return "", &refusal{http.StatusUnauthorized, 0, "log on with the name and password of an administrator (HTTP Basic)"}, nil
	}
	wrong := &refusal{http.StatusUnauthorized, 0, "no administrator has that name and password"}
	if registry.CheckAdministratorName(name) != nil || len(password) > registry.MaxPassword {
		return "", wrong, nil // cannot be anybody's, and costs nothing
	}
	v, err := l.reg.Verifier(ctx, name)
	if err != nil {
		return "", nil, err
	}
	name = v.Name()
	at := addressOf(r)
	mac := hmac.New(sha256.New, l.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(name), name, password)
	hash := [sha256.Size]byte(mac.Sum(nil))

	if l.remembers(hash, v) {
		return name, nil, nil
	}
	if wait := l.attempt(name, at); wait > 0 {
		return "", &refusal{http.StatusTooManyRequests, wait, "too many failed log-ons; try again later"}, nil
	}
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		l.refund(name, at)
		return "", &refusal{http.StatusServiceUnavailable, time.Second, "too many log-ons at a time; try again"}, nil
	}
	select {
	case l.running <- struct{}{}:
	case <-ctx.Done():
		l.refund(name, at)
		return "", nil, ctx.Err()
	}
	matches := v.Matches(password)
	<-l.running
	if !matches {
		l.log.Warn("log-on refused", "address", at.Addr().String())
		return "", wrong, nil
	}
	l.succeeded(name, at, hash, v)
	return name, nil, nil
}

// addressOf is whom failures are counted to: an IPv4 address, or the /64 that one IPv6 user has all of.
func addressOf(r *http.Request) netip.Prefix {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip := a.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

func (l *logons) remembers(hash [sha256.Size]byte, v registry.Verifier) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.credentials[hash]
	return ok && c.verifier == v && l.now().Before(c.until)
}

// attempt counts a log-on as failed before it is checked, so that many at a time gain nothing, or says how long to wait.
func (l *logons) attempt(name string, at netip.Prefix) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	address, ofName := entry(l.addresses, at, now), entry(l.names, name, now)
	if n := address.count - freeFailures; n >= 0 {
		wait := min(time.Second<<min(n, 10), maxWait)
		if left := address.last.Add(wait).Sub(now); left > 0 {
			return left
		}
	}
	if _, here := l.known[knownAt{name, at}]; !here && ofName.count >= nameFailures {
		if left := ofName.last.Add(nameWait).Sub(now); left > 0 {
			return left
		}
	}
	for _, f := range []*tries{address, ofName} {
		f.count, f.last = f.count+1, now
	}
	return 0
}

// refund takes back an attempt that was not checked.
func (l *logons) refund(name string, at netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, f := range []*tries{entry(l.addresses, at, now), entry(l.names, name, now)} {
		f.count = max(0, f.count-1)
	}
}

// succeeded forgets the failures of that address, and takes this one from the name's: others' stay counted.
func (l *logons) succeeded(name string, at netip.Prefix, hash [sha256.Size]byte, v registry.Verifier) {
	l.refund(name, at)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	delete(l.addresses, at)
	for h, c := range l.credentials {
		if !now.Before(c.until) || len(l.credentials) >= maxCredentials {
			delete(l.credentials, h)
		}
	}
	l.credentials[hash] = credential{v, now.Add(remembered)}
	if _, there := l.known[knownAt{name, at}]; !there {
		makeRoom(l.known, func(t time.Time) time.Time { return t })
	}
	l.known[knownAt{name, at}] = now
}

// entry is what is counted for a key; what is forgotten begins anew.
func entry[K comparable](table map[K]*tries, key K, now time.Time) *tries {
	f := table[key]
	if f == nil {
		makeRoom(table, func(f *tries) time.Time { return f.last })
		f = &tries{}
		table[key] = f
	}
	if now.Sub(f.last) > forgotten {
		f.count = 0
	}
	return f
}

// makeRoom removes the oldest of a few entries of a table that is full: finding the oldest of all with each request would be
// work that a stranger can cause.
func makeRoom[K comparable, V any](table map[K]V, at func(V) time.Time) {
	if len(table) < maxRemembered {
		return
	}
	var oldest K
	var when time.Time
	looked := 0
	for k, v := range table { // in the map's random order
		if looked == 0 || at(v).Before(when) {
			oldest, when = k, at(v)
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(table, oldest)
}

// seconds is a time to wait as Retry-After has it (RFC 9110, 10.2.3).
func seconds(d time.Duration) string { return strconv.Itoa(int((d + time.Second - 1) / time.Second)) }

// UserList is every administrator.
type UserList struct {
	Users []registry.Administrator `json:"users"`
}

// ChangedUser says what became of an administrator: added, removed, or his password changed.
type ChangedUser struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

// The bodies of requests.
type (
	NewUser struct {
		Name     string `json:"name" minLength:"1" maxLength:"64" doc:"Letters, digits and . _ - @, up to 64 bytes."`
		Password string `json:"password" format:"password" doc:"15 characters or more, up to 1024 bytes."`
	}
	NewPassword struct {
		Password string `json:"password" format:"password" doc:"15 characters or more, up to 1024 bytes."`
	}
	InUser struct {
		Name string `path:"name" minLength:"1" maxLength:"64" doc:"An administrator."`
	}
)

func (a *api) registerUsers(h huma.API) {
	on(a, h, get("list-users", "/api/v1/users", "The administrators, without their passwords."), a.users)
	add := act(http.MethodPost, "add-user", "/api/v1/users", "Add an administrator.", 409, 422)
	add.DefaultStatus = http.StatusCreated
	on(a, h, add, a.addUser)
	on(a, h, act(http.MethodDelete, "remove-user", "/api/v1/users/{name}", "Remove an administrator; the last one stays.", 404, 409, 422), a.removeUser)
	on(a, h, act(http.MethodPut, "set-password", "/api/v1/users/{name}/password", "Set another password; the old one is void at once.", 404, 422), a.setPassword)
}

func (a *api) users(ctx context.Context, _ *none) (UserList, error) {
	all, err := a.reg.Administrators(ctx)
	return UserList{append([]registry.Administrator{}, all...)}, err
}

func (a *api) addUser(ctx context.Context, in *struct{ Body NewUser }) (ChangedUser, error) {
	return ChangedUser{in.Body.Name, "added"}, a.reg.CreateAdministrator(ctx, in.Body.Name, in.Body.Password, who(ctx))
}

func (a *api) removeUser(ctx context.Context, in *struct{ InUser }) (ChangedUser, error) {
	return ChangedUser{in.Name, "removed"}, a.reg.RemoveAdministrator(ctx, in.Name, who(ctx))
}

func (a *api) setPassword(ctx context.Context, in *struct {
	InUser
	Body NewPassword
}) (ChangedUser, error) {
	return ChangedUser{in.Name, "changed"}, a.reg.ChangePassword(ctx, in.Name, in.Body.Password, who(ctx))
}
