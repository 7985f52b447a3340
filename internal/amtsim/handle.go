package amtsim

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pending is what a request leaves to be done once its reply is out.
type pending int

const (
	pendingNothing     pending = iota
	pendingRestart             // instead of the reply
	pendingUnprovision         // after it
)

// enumeration is one open enumeration context.
type enumeration struct {
	id    string
	class *class
	next  int
	mode  string
	used  time.Time
}

// handle answers one WS-Management request that was let in. It appends the envelope to out and gives the HTTP status; 0,
// 401 and 403 stand for answers that are no envelope. It runs under the device's lock.
func (d *Device) handle(m *message, err error, user *account, from side, out []byte) (reply []byte, code int) {
	switch err {
	case nil:
	case errSOAPVersion:
		return d.fault(m, faultVersion, out)
	case errMustUnderstand:
		return d.fault(m, faultMustUnderstand, out)
	case errNoAction:
		return d.fault(m, faultHeader, out)
	case errSchema:
		return d.fault(m, faultSchema, out)
	default:
		return out, 0 // no XML at all
	}
	if m.identify {
		d.count.calls["Identify"]++
		return appendIdentify(out, d.release.number()), http.StatusOK
	}
	c := classOf[m.resource]
	if c == nil || c.storage && d.faults.No3PDS {
		return d.fault(m, faultUnreachable, out)
	}
	if !user.may(c.realm) {
		switch d.faults.LacksRealm {
		case "401":
			return out, http.StatusUnauthorized
		case "403":
			return out, http.StatusForbidden
		}
		return d.fault(m, faultDenied, out)
	}
	switch m.action {
	case actionGet:
		return d.handleGet(m, c, out)
	case actionEnumerate:
		return d.handleEnumerate(m, c, out)
	case actionPull:
		return d.handlePull(m, c, out)
	case actionRelease:
		return d.handleRelease(m, c, out)
	}
	name, found := strings.CutPrefix(m.action, c.uri+"/")
	if method := c.byName[name]; found && method != nil {
		return d.handleInvoke(m, c, method, user, from, out)
	}
	return d.fault(m, faultAction, out)
}

func (d *Device) fault(m *message, f fault, out []byte) ([]byte, int) {
	return appendFault(out, m, f, d.nextMessage()), f.http
}

func (d *Device) nextMessage() uint64 {
	d.messages++
	return d.messages
}

func (d *Device) handleGet(m *message, c *class, out []byte) ([]byte, int) {
	d.count.calls[c.get]++
	if m.body >= 0 {
		return d.fault(m, faultSchema, out)
	}
	all := c.instances(d)
	at := slices.IndexFunc(all, func(i instance) bool { return i.matches(m.selectors) })
	// Without a selector only a class of one instance can be meant.
	if at < 0 || len(all) > 1 && len(m.selectors) == 0 {
		return d.fault(m, faultSelectors, out)
	}
	if c.common {
		out = appendReplyHead(out, m, actionGet+"Response", d.nextMessage(), c.uri, nsCommon)
	} else {
		out = appendReplyHead(out, m, actionGet+"Response", d.nextMessage(), c.uri)
	}
	return append(all[at].append(out, 'g', c.name), replyTail...), http.StatusOK
}

func (d *Device) handleEnumerate(m *message, c *class, out []byte) ([]byte, int) {
	d.count.calls[c.enumerate]++
	if m.body < 0 || m.elements[m.body].name != "Enumerate" || m.elements[m.body].space != nsEnumeration {
		return d.fault(m, faultSchema, out)
	}
	mode := "EnumerateObject"
	if e := m.childOf(m.body, nsWSMan, "EnumerationMode"); e != nil {
		switch mode = strings.TrimSpace(e.text); mode {
		case "EnumerateObject", "EnumerateEPR", "EnumerateObjectAndEPR":
		default:
			return d.fault(m, faultSchema, out)
		}
	}
	if m.childOf(m.body, nsEnumeration, "Filter") != nil || m.childOf(m.body, nsWSMan, "Filter") != nil {
		return d.fault(m, faultFiltering, out)
	}
	d.expireEnumerations()
	if len(d.enumerations) >= maxEnumerations {
		d.enumerations = slices.Delete(d.enumerations, 0, 1)
	}
	d.lastContext++
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], d.lastContext)
	e := &enumeration{id: fmt.Sprintf("%X-0000-0000-0000-000000000000", n), class: c, mode: mode, used: d.now()}
	d.enumerations = append(d.enumerations, e)
	out = appendReplyHead(out, m, actionEnumerate+"Response", d.nextMessage(), nsEnumeration)
	out = append(out, `<g:EnumerateResponse>`...)
	out = appendElement(out, 'g', "EnumerationContext", e.id)
	return append(out, `</g:EnumerateResponse>`+replyTail...), http.StatusOK
}

func (d *Device) expireEnumerations() {
	now := d.now()
	d.enumerations = slices.DeleteFunc(d.enumerations, func(e *enumeration) bool { return now.Sub(e.used) >= enumerationLife })
}

// context finds the enumeration that a Pull or Release names.
func (d *Device) context(m *message, c *class, element string) (*enumeration, *fault) {
	if m.body < 0 || m.elements[m.body].name != element || m.elements[m.body].space != nsEnumeration {
		return nil, &faultSchema
	}
	named := m.childOf(m.body, nsEnumeration, "EnumerationContext")
	if named == nil {
		return nil, &faultSchema
	}
	d.expireEnumerations()
	id := strings.TrimSpace(named.text)
	for _, e := range d.enumerations {
		if e.id == id && e.class == c {
			return e, nil
		}
	}
	return nil, &faultContext
}

func (d *Device) endEnumeration(e *enumeration) {
	d.enumerations = slices.DeleteFunc(d.enumerations, func(o *enumeration) bool { return o == e })
}

func (d *Device) handleRelease(m *message, c *class, out []byte) ([]byte, int) {
	e, f := d.context(m, c, "Release")
	if f != nil {
		return d.fault(m, *f, out)
	}
	d.endEnumeration(e)
	out = appendReplyHead(out, m, actionRelease+"Response", d.nextMessage(), nsEnumeration)
	return append(out, replyTail...), http.StatusOK
}

func (d *Device) handlePull(m *message, c *class, out []byte) ([]byte, int) {
	d.count.calls[c.pull]++
	e, f := d.context(m, c, "Pull")
	if f != nil {
		return d.fault(m, *f, out)
	}
	wanted := pulledWithoutAsking
	if max := m.childOf(m.body, nsEnumeration, "MaxElements"); max != nil {
		n, err := strconv.ParseUint(strings.TrimSpace(max.text), 10, 32)
		if err != nil || n == 0 {
			return d.fault(m, faultSchema, out)
		}
		wanted = int(min(n, maxPulled))
	}
	all := c.instances(d)
	from := min(e.next, len(all))
	to := min(from+wanted, len(all))
	e.next, e.used = to, d.now()

	namespaces := []string{nsEnumeration, c.uri, nsCommon}
	if !c.common {
		namespaces = namespaces[:2]
	}
	out = appendReplyHead(out, m, actionPull+"Response", d.nextMessage(), namespaces...)
	out = append(out, `<g:PullResponse>`...)
	if to < len(all) {
		out = appendElement(out, 'g', "EnumerationContext", e.id)
	}
	out = append(out, `<g:Items>`...)
	for i := from; i < to; i++ {
		if e.mode == "EnumerateObjectAndEPR" {
			out = append(out, `<c:Item>`...)
		}
		if e.mode != "EnumerateEPR" {
			out = all[i].append(out, 'h', c.name)
		}
		if e.mode != "EnumerateObject" {
			out = append(out, `<b:EndpointReference>`...)
			out = appendEPR(out, c.uri, all[i].keyValues())
			out = append(out, `</b:EndpointReference>`...)
		}
		if e.mode == "EnumerateObjectAndEPR" {
			out = append(out, `</c:Item>`...)
		}
	}
	out = append(out, `</g:Items>`...)
	if to == len(all) {
		out = append(out, `<g:EndOfSequence></g:EndOfSequence>`...)
		d.endEnumeration(e)
	}
	return append(out, `</g:PullResponse>`+replyTail...), http.StatusOK
}

func (d *Device) handleInvoke(m *message, c *class, method *method, user *account, from side, out []byte) ([]byte, int) {
	d.count.calls[method.name]++
	if all := c.instances(d); !all[0].matches(m.selectors) {
		return d.fault(m, faultSelectors, out)
	}
	input := int32(-1)
	if m.body >= 0 {
		// Some clients leave _INPUT off, some send no element at all where there are no parameters.
		e := &m.elements[m.body]
		if e.space != c.uri || strings.TrimSuffix(e.name, "_INPUT") != method.name {
			return d.fault(m, faultSchema, out)
		}
		input = e.child
		if input < 0 && !isBlank(e.text) {
			return d.fault(m, faultSchema, out)
		}
	}
	var ok bool
	if d.args, ok = m.arguments(input, c.uri, method.in, d.args); !ok {
		return d.fault(m, faultSchema, out)
	}
	if n := d.faults.RestartAfterCalls; n != nil {
		if d.methodCalls >= *n {
			d.faults.RestartAfterCalls = nil
			d.pending = pendingRestart
			return out, http.StatusOK
		}
		d.methodCalls++
	}
	d.restarting = d.faults.RestartInCall == method.name
	out = appendReplyHead(out, m, m.action+"Response", d.nextMessage(), c.uri)
	out = append(append(append(out, `<g:`...), method.name...), `_OUTPUT>`...)
	call := &call{d: d, from: from, user: user, args: d.args, out: out}
	result := d.gate(call, c, method)
	if result == 0 {
		result = method.run(call)
	} else if method.keep {
		call.u32("BytesWritten", 0)
	}
	out = call.out
	if d.restarting {
		d.restarting, d.faults.RestartInCall, d.pending = false, "", pendingRestart
	}
	if d.dirty {
		if err := d.save(); err != nil {
			d.logf("device %d: %v", d.options.Index, err)
			return d.fault(m, faultInternal, out[:0])
		}
	}
	out = appendUint(out, 'g', "ReturnValue", uint32(result))
	out = append(append(append(out, `</g:`...), method.name...), `_OUTPUT>`+replyTail...)
	return out, http.StatusOK
}

// gate holds what every storage method shares: the state of the machine, the session, and the switches that end it.
func (d *Device) gate(c *call, class *class, method *method) status {
	if !class.storage {
		return 0
	}
	switch {
	case !d.provisioned():
		return codeUnprovisioned
	case d.faults.Busy:
		return codeBusy
	}
	f := &d.mem.Storage
	f.expire(d.now())
	if len(method.in) == 0 || method.in[0].kind != asSession {
		return 0
	}
	if n := d.faults.DropSessionAfter; n != nil {
		if d.sessionCalls >= *n {
			d.faults.DropSessionAfter = nil
			f.endSessions()
		}
		d.sessionCalls++
	}
	if c.app = f.session(c.args[0].text, c.from); c.app == nil {
		return codeUnknownSession
	}
	c.app.sessionUsed = d.now()
	return 0
}
