package wsman

import (
	"fmt"
	"strconv"
	"strings"
)

// errUnrelated is an ErrBadReply: a well-formed answer, to another message.
var errUnrelated = fmt.Errorf("%w: it answers another message", ErrBadReply)

// openReply reads an envelope up to and with the start tag of what its Body holds. It checks that this is an answer to
// the message; a fault in it is returned as *Fault.
func (d *decoder) openReply(doc string, m message, status int) error {
	action, err := d.openBody(doc, m)
	if err != nil {
		return err
	}
	if d.is(nsSOAP, "Fault") {
		f, err := d.fault(status, action)
		if err != nil {
			return err
		}
		if err := d.finish(); err != nil {
			return err
		}
		return f
	}
	if !m.answeredBy(action) {
		return fmt.Errorf("%w: action %.200q", ErrBadReply, action)
	}
	return nil
}

// faultReply reads the body of a status other than 200. An error means that it holds no fault.
func (d *decoder) faultReply(doc string, m message, status int) (*Fault, error) {
	err := d.openReply(doc, m, status)
	if f, ok := err.(*Fault); ok {
		return f, nil
	}
	if err == nil {
		err = fmt.Errorf("%w: HTTP %d without a fault", ErrBadReply, status)
	}
	return nil, err
}

// openBody reads the envelope's header and enters its body.
func (d *decoder) openBody(doc string, m message) (action string, err error) {
	if err := d.start(doc); err != nil {
		return "", err
	}
	if more, err := d.child(); err != nil {
		return "", err
	} else if !more || !d.is(nsSOAP, "Envelope") {
		return "", fmt.Errorf("%w: no SOAP 1.2 envelope", ErrBadReply)
	}
	related := m.identify
	for {
		more, err := d.child()
		if err != nil {
			return "", err
		}
		switch {
		case !more:
			return "", fmt.Errorf("%w: an envelope without Body", ErrBadReply)
		case d.is(nsSOAP, "Header"):
			if action, err = d.header(m, &related); err != nil {
				return "", err
			}
		case d.is(nsSOAP, "Body"):
			more, err := d.child()
			if err != nil {
				return "", err
			}
			if !more {
				return "", fmt.Errorf("%w: an empty Body", ErrBadReply)
			}
			// A fault may come from a layer that could not read the request's header, and so relate to nothing.
			if !related && !d.is(nsSOAP, "Fault") {
				return "", errUnrelated
			}
			return action, nil
		default:
			if err := d.skip(); err != nil {
				return "", err
			}
		}
	}
}

// header reads what matters of the SOAP header. A RelatesTo that names another message is an error; related is set by
// one that names ours.
func (d *decoder) header(m message, related *bool) (action string, err error) {
	for {
		more, err := d.child()
		if err != nil || !more {
			return action, err
		}
		switch {
		case d.is(nsAddressing, "RelatesTo"):
			id, err := d.textOnly()
			if err != nil {
				return "", err
			}
			if !m.identify && strings.TrimSpace(id) != strconv.FormatUint(m.id, 10) {
				return "", errUnrelated
			}
			*related = true
		case d.is(nsAddressing, "Action"):
			if action, err = d.textOnly(); err != nil {
				return "", err
			}
			action = strings.TrimSpace(action)
		default:
			if err := d.skip(); err != nil {
				return "", err
			}
		}
	}
}

// answeredBy compares the answer's action: the request's with "Response" at its end.
func (m message) answeredBy(action string) bool {
	if m.identify {
		return true
	}
	rest, ok := strings.CutSuffix(action, "Response")
	if ok && m.method != "" {
		if rest, ok = strings.CutSuffix(rest, m.method); ok {
			rest, ok = strings.CutSuffix(rest, "/")
		}
	}
	return ok && rest == m.action
}

// finish reads to the end of the document, so that half an answer, or one with something behind it, is none.
func (d *decoder) finish() error {
	for {
		t, err := d.next()
		if err != nil || t == tokenEOF {
			return err
		}
	}
}

// instance reads the element that has just begun.
func (d *decoder) instance() (Instance, error) {
	in := Instance{Class: d.local}
	for {
		more, err := d.child()
		if err != nil || !more {
			return in, err
		}
		if err := d.property(d.local, &in); err != nil {
			return Instance{}, err
		}
	}
}

// maxPath bounds the name under which an inner element is listed: each is made anew, so a hostile reply must not make
// them much larger than itself.
const maxPath = 256

// property reads the element that has just begun and lists it, or what it holds, under path.
func (d *decoder) property(path string, in *Instance) error {
	if nothing := d.attr(nsInstance, "nil"); nothing == "true" || nothing == "1" {
		return d.skip()
	}
	var text pieces
	inner := false
	for {
		t, err := d.next()
		if err != nil {
			return err
		}
		switch t {
		case tokenText:
			text.add(d.text)
		case tokenStart:
			inner = true
			step := d.local
			if d.is(nsWSMan, "Selector") {
				step += "[" + d.attr("", "Name") + "]"
			}
			if len(path)+1+len(step) > maxPath {
				return d.errorf("a path of more than %d bytes", maxPath)
			}
			if err := d.property(path+"/"+step, in); err != nil {
				return err
			}
		case tokenEnd:
			if !inner {
				if in.elements == nil {
					in.elements = make([]element, 0, 16) // most instances and all 3PDS outputs
				}
				in.elements = append(in.elements, element{path, text.String()})
			}
			return nil
		}
	}
}

// page is one reply of an enumeration.
type page struct {
	context   string
	instances []Instance
	last      bool
}

// page reads an EnumerateResponse or PullResponse, whose start tag was just read, to the document's end, and adds its
// items to all.
func (d *decoder) page(name string, all []Instance) (page, error) {
	p := page{instances: all}
	if !d.is(nsEnumeration, name) {
		return p, fmt.Errorf("%w: %.40s instead of %s", ErrBadReply, d.local, name)
	}
	for {
		more, err := d.child()
		if err != nil {
			return p, err
		}
		if !more {
			return p, d.finish()
		}
		switch {
		case d.is(nsEnumeration, "EnumerationContext"):
			p.context, err = d.textOnly()
		case d.is(nsEnumeration, "Items"), d.is(nsWSMan, "Items"):
			err = d.items(&p)
		case d.is(nsEnumeration, "EndOfSequence"), d.is(nsWSMan, "EndOfSequence"):
			p.last = true
			err = d.skip()
		default:
			err = d.skip()
		}
		if err != nil {
			return p, err
		}
	}
}

func (d *decoder) items(p *page) error {
	for {
		more, err := d.child()
		if err != nil || !more {
			return err
		}
		in, err := d.instance()
		if err != nil {
			return err
		}
		if len(p.instances) == maxInstances {
			return fmt.Errorf("%w: more than %d instances", ErrTooLarge, maxInstances)
		}
		p.instances = append(p.instances, in)
	}
}
