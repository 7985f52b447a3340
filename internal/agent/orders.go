package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// # Orders
//
// An order is bound to host ID, epoch and run, and is carried out at once by the process that the reply reaches; what
// has to wait, for a full disk or memory that does not answer, waits in that process. In another run it is void, and
// the manager issues it anew. Durable are, in this order: the reply; what the file gives up (set aside, announced);
// that the order is begun, with what the file will hold and the token to enrol with; the file; the chain, which
// acknowledges it. So after a power cut the file itself says whether the order was carried out.

const ordersName = "orders.json"

// ordersFile is what an order needs across a power cut. It holds a secret while an enrolment token is in it.
type ordersFile struct {
	Begun  *begunOrder   `json:"begun,omitempty"`
	Enrol  *enrolWith    `json:"enrol,omitempty"`
	Failed []failedOrder `json:"failed,omitempty"`
}

// begunOrder is an order whose result is about to be written to the host ID management file.
type begunOrder struct {
	ID     string            `json:"id"`
	Kind   checkin.OrderKind `json:"kind"`
	HostID hostid.ID         `json:"host_id"`
	Result string            `json:"result"` // recordDigest of what the file will hold
}

// enrolWith is the token that came with the order for that host ID. It is forgotten once that is enrolled.
type enrolWith struct {
	HostID hostid.ID `json:"host_id"`
	Token  string    `json:"token"`
}

// failedOrder is an order that cannot be carried out, until the manager was told.
type failedOrder struct {
	ID    string            `json:"id"`
	Kind  checkin.OrderKind `json:"kind"`
	Other hostid.ID         `json:"other,omitzero"`
	Why   string            `json:"why"`
}

func (f failedOrder) observation(mine hostid.ID) checkin.Observation {
	return checkin.Observation{
		Kind: checkin.ObservedOrderFailed, Mine: mine, Other: f.Other, Order: f.ID,
		Detail: fmt.Sprintf("The order %s (%s) was not carried out: %s.", f.Kind, f.ID, f.Why),
	}
}

// DoneOrder is an order that was carried out.
type DoneOrder struct {
	ID     string            `json:"id"`
	Kind   checkin.OrderKind `json:"kind"`
	HostID hostid.ID         `json:"host_id"` // that it was given to
	Time   time.Time         `json:"time"`    // by this PC's clock
}

// OpenOrder is an order that waits, or that cannot be carried out, and why.
type OpenOrder struct {
	ID   string            `json:"id"`
	Kind checkin.OrderKind `json:"kind"`
	Why  string            `json:"why,omitempty"`
}

// What one reply may make this process remember.
const (
	maxOpen    = 16
	maxFailed  = 16
	maxHistory = 16 // orders carried out last; one that comes again is acknowledged again
)

// recordDigest names the content of the host ID management file.
func recordDigest(r hostid.Record) (string, error) {
	frame, err := hostid.EncodeFrame(0, r)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(frame)
	return hex.EncodeToString(sum[:]), nil
}

func loadOrders(folder string, now time.Time) (o ordersFile, unread string, err error) {
	path := filepath.Join(folder, ordersName)
	err = readState(path, &o)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return o, "", nil
	case !errors.Is(err, hostid.ErrCorrupt):
		return ordersFile{}, "", err
	}
	name, asideErr := setAside(path, "corrupt", now)
	if asideErr != nil {
		return ordersFile{}, "", fmt.Errorf("%w; and it cannot be set aside: %w", err, asideErr)
	}
	return ordersFile{}, fmt.Sprintf("%v; kept as %s", err, filepath.Base(name)), nil
}

func (a *Agent) saveOrders(next ordersFile) error {
	if err := a.write(ordersName, next); err != nil {
		return err
	}
	a.orders = next
	return nil
}

// openOrder is an order that this process has yet to carry out.
type openOrder struct {
	checkin.Order
	why string // what it waits for
}

// take sorts a reply's orders: what concerns the chain alone is done in it, what concerns the record is left for
// carryOut. What is not meant for this host in this run is none of ours.
func (a *Agent) take(c chain, orders []checkin.Order, sent checkin.Report) (next chain, open []openOrder) {
	for _, o := range orders {
		if c.did(o.ID, o.HostID) {
			c.acknowledge(o.ID)
			continue
		}
		if o.HostID != c.HostID || o.Epoch != c.Epoch || o.Run != a.run.token || sent.Run != a.run.token || o.ID == "" || len(o.ID) > maxOrderID ||
			slices.ContainsFunc(a.open, func(x openOrder) bool { return x.ID == o.ID }) ||
			slices.ContainsFunc(open, func(x openOrder) bool { return x.ID == o.ID }) {
			continue
		}
		switch o.Kind {
		case checkin.OrderFullReport: // the next report is one: it has this to acknowledge
			c.done(o, a.o.Clock.Wall())
		case checkin.OrderNewEpoch:
			c.done(o, a.o.Clock.Wall())
			c = c.newEpoch(checkin.EpochOrder)
			for i := range open { // they came before it, and are not void for it
				open[i].Epoch = c.Epoch
			}
		case checkin.OrderNewID, checkin.OrderTakeBack, checkin.OrderRebind, checkin.OrderUseNonvolatile:
			if len(a.open)+len(open) < maxOpen {
				open = append(open, openOrder{Order: o})
			}
			continue
		default:
			a.o.Log.Warn("the manager orders what this version cannot do: upgrade samehost-client", "order", o.Kind)
			continue
		}
		a.o.Log.Info("order carried out", "order", o.Kind, "id", o.ID)
	}
	return c, open
}

// maxOrderID is how long the name of an order may be: a report that acknowledges it must carry it whole.
const maxOrderID = 255

// acknowledge puts an order into the next report's Done.
func (c *chain) acknowledge(id string) {
	if !slices.Contains(c.Done, id) && len(c.Done) < maxDone {
		c.Done = append(slices.Clone(c.Done), id)
	}
}

// did reports that the order was carried out: one that comes again is acknowledged again, and not done again.
func (c chain) did(id string, host hostid.ID) bool {
	return slices.ContainsFunc(c.History, func(d DoneOrder) bool { return d.ID == id && d.HostID == host })
}

// done notes an order as carried out.
func (c *chain) done(o checkin.Order, now time.Time) {
	c.acknowledge(o.ID)
	c.History = append(slices.Clone(c.History), DoneOrder{ID: o.ID, Kind: o.Kind, HostID: o.HostID, Time: now.UTC().Truncate(time.Second)})
	c.History = c.History[max(0, len(c.History)-maxHistory):]
}

// finishBegun makes good what a power cut left of an order: the file says whether it was carried out. It comes before
// anything that may change the file.
func (a *Agent) finishBegun(ctx context.Context) error {
	b := a.orders.Begun
	if b == nil {
		return nil
	}
	r, err := hostid.NewFile(a.o.DataDir).Load(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, hostid.ErrUnavailable) || errors.Is(err, hostid.ErrNewer) {
		return fmt.Errorf("whether the order %s was carried out: %w", b.Kind, err)
	}
	if err == nil {
		digest, err := recordDigest(r)
		if err != nil {
			return err
		}
		if digest == b.Result {
			return a.acknowledged(*b, r)
		}
	}
	next := a.orders // it was not begun
	next.Begun = nil
	if next.Enrol != nil && next.Enrol.HostID != r.HostID {
		next.Enrol = nil
	}
	return a.saveOrders(next)
}

// acknowledged notes an order whose result is in the file.
func (a *Agent) acknowledged(b begunOrder, r hostid.Record) error {
	if !a.chain.did(b.ID, b.HostID) {
		next := a.chain
		next.done(checkin.Order{ID: b.ID, Kind: b.Kind, HostID: b.HostID}, a.o.Clock.Wall())
		switch b.Kind {
		case checkin.OrderNewID:
			next = next.newEpoch(checkin.EpochNewID)
			next.HostID, next.Enrolled = r.HostID, false
		case checkin.OrderTakeBack, checkin.OrderUseNonvolatile:
			next = next.newEpoch(checkin.EpochOrder)
			next.HostID, next.Enrolled = r.HostID, false
		}
		if a.unread == "" { // else the chain begins anew, and with it what it acknowledges
			if err := a.saveChain(next); err != nil {
				return err
			}
		} else {
			a.chain = next
		}
		a.o.Log.Info("order carried out", "order", b.Kind, "id", b.ID, "host_id", r.HostID)
	}
	next := a.orders
	next.Begun = nil
	return a.saveOrders(next)
}

// carryOut does the open orders, in the order in which they came. What cannot be done now stays open; an error is the
// context's, or says that what was begun is not noted yet.
func (a *Agent) carryOut(ctx context.Context, facts hardware.Facts, unread string) error {
	left := a.open[:0:0]
	defer func() { a.open = left }()
	for i, o := range a.open {
		if a.chain.did(o.ID, o.HostID) { // noted late
			continue
		}
		if o.HostID != a.chain.HostID || o.Epoch != a.chain.Epoch || o.Run != a.run.token {
			a.o.Log.Info("an order is void: it was for another host ID, epoch or run", "order", o.Kind, "id", o.ID)
			continue
		}
		err := a.do(ctx, o.Order, facts, unread)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			left = append(left, a.open[i:]...)
			return ctx.Err()
		case a.orders.Begun != nil:
			left = append(left, a.open[i:]...)
			return err
		case errors.As(err, new(cannotError)):
			err = a.cannot(o.Order, err)
			if err == nil {
				continue
			}
		}
		if o.why != err.Error() {
			a.o.Log.Warn("an order waits", "order", o.Kind, "id", o.ID, "reason", err)
		}
		o.why = err.Error()
		left = append(left, o)
	}
	return nil
}

// cannotError says that trying an order again will not help.
type cannotError struct{ error }

func cannotf(format string, args ...any) error { return cannotError{fmt.Errorf(format, args...)} }

// do carries out one order.
func (a *Agent) do(ctx context.Context, o checkin.Order, facts hardware.Facts, unread string) error {
	var enrol *enrolWith
	if o.Kind == checkin.OrderNewID {
		token, err := a.tokenOf(ctx, o)
		if err != nil {
			return err
		}
		if token != "" {
			enrol = &enrolWith{Token: token}
		}
	} else if unread != "" && blind(a.evidence(facts)) {
		return fmt.Errorf("the present facts are needed for it, and cannot be read: %s", unread)
	}
	b := begunOrder{ID: o.ID, Kind: o.Kind, HostID: o.HostID}
	begin := func(next hostid.Record) (err error) {
		if b.Result, err = recordDigest(next); err != nil {
			return err
		}
		state := a.orders
		state.Begun = &b
		if enrol != nil {
			enrol.HostID = next.HostID
			state.Enrol = enrol
		}
		return a.saveOrders(state)
	}
	keeper := a.keeper(facts, unread)
	defer a.closeStores(ctx)
	var r hostid.Record
	var err error
	switch o.Kind {
	case checkin.OrderNewID:
		r, err = keeper.TakeNewID(ctx, begin)
	case checkin.OrderTakeBack:
		r, err = keeper.TakeBack(ctx, o.Other, begin)
	case checkin.OrderRebind:
		r, err = keeper.Rebind(ctx, begin)
	case checkin.OrderUseNonvolatile:
		r, err = keeper.UseNonvolatile(ctx, o.Other, begin)
	}
	if errors.Is(err, hostid.ErrNoRecord) {
		return cannotError{err}
	}
	if err != nil {
		// The file may or may not hold the result: a write that fails late leaves either.
		if finishErr := a.finishBegun(ctx); finishErr != nil {
			return errors.Join(err, finishErr)
		}
		if a.chain.did(o.ID, o.HostID) {
			return nil
		}
		return err
	}
	return a.acknowledged(b, r)
}

// cannot notes that an order cannot be carried out, for the next report.
func (a *Agent) cannot(o checkin.Order, why error) error {
	next := a.orders
	next.Failed = slices.DeleteFunc(slices.Clone(next.Failed), func(f failedOrder) bool { return f.ID == o.ID })
	next.Failed = append(next.Failed, failedOrder{ID: o.ID, Kind: o.Kind, Other: o.Other, Why: why.Error()})
	next.Failed = next.Failed[max(0, len(next.Failed)-maxFailed):]
	a.o.Log.Warn("an order cannot be carried out", "order", o.Kind, "id", o.ID, "reason", why)
	return a.saveOrders(next)
}

// tokenOf opens the enrolment token that an order for a new host ID brings; "" if it brings none and this PC has one.
// Without any the new host ID could never enrol, so the order is not carried out.
func (a *Agent) tokenOf(ctx context.Context, o checkin.Order) (string, error) {
	if o.Enrol == "" {
		own, err := a.token()
		switch {
		case err != nil:
			return "", cannotf("it brings no enrolment token for the new host ID, and this PC's own cannot be read: %w", err)
		case own == nil:
			return "", cannotf("it brings no enrolment token for the new host ID, and this PC has none of its own")
		}
		return "", nil
	}
	r, err := hostid.NewFile(a.o.DataDir).Load(ctx)
	if err != nil {
		return "", err
	}
	t, err := checkin.OpenOrder(r.Seed.SealingKey(), o.ID, o.Enrol)
	if err != nil {
		return "", cannotError{err}
	}
	if t.Manager != a.chain.Manager {
		return "", cannotf("the enrolment token in it is for another manager, %s", t.Manager)
	}
	return t.Text(), nil
}

// orderedToken is the enrolment token that came with the order for this host ID; nil if none did.
func (a *Agent) orderedToken(id hostid.ID) *checkin.EnrolmentToken {
	e := a.orders.Enrol
	if e == nil || e.HostID != id {
		return nil
	}
	t, err := checkin.ParseToken(e.Token)
	if err != nil || t.Manager != a.chain.Manager {
		return nil
	}
	return &t
}

// settle forgets what an accepted report has settled: failed orders that it told of, and the token of a host that is
// enrolled now.
func (a *Agent) settle(sent checkin.Report) error {
	next := a.orders
	next.Failed = slices.DeleteFunc(slices.Clone(next.Failed), func(f failedOrder) bool {
		return slices.ContainsFunc(sent.Observations, func(o checkin.Observation) bool { return o.Kind == checkin.ObservedOrderFailed && o.Order == f.ID })
	})
	if next.Enrol != nil && next.Enrol.HostID == sent.HostID {
		next.Enrol = nil
	}
	if len(next.Failed) == len(a.orders.Failed) && next.Enrol == a.orders.Enrol {
		return nil
	}
	return a.saveOrders(next)
}

func (a *Agent) openOrders() (list []OpenOrder) {
	for _, o := range a.open {
		list = append(list, OpenOrder{o.ID, o.Kind, o.why})
	}
	return list
}

func (a *Agent) failedOrders() (list []OpenOrder) {
	for _, f := range a.orders.Failed {
		list = append(list, OpenOrder{f.ID, f.Kind, f.Why})
	}
	return list
}

func (a *Agent) doneOrders() []DoneOrder {
	list := slices.Clone(a.chain.History)
	slices.Reverse(list)
	return list
}
