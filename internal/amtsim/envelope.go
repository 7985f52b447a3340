package amtsim

import (
	"errors"
	"strconv"
	"strings"
)

// Namespaces and actions of the specifications that the firmware speaks (captured).
const (
	nsSOAP        = "http://www.w3.org/2003/05/soap-envelope"
	nsAddressing  = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsWSMan       = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsTransfer    = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	nsEnumeration = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsIdentity    = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
	nsCommon      = "http://schemas.dmtf.org/wbem/wscim/1/common"
	nsAMT         = "http://intel.com/wbem/wscim/1/amt-schema/1/"
	nsCIM         = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
	anonymous     = nsAddressing + "/role/anonymous"

	actionGet       = nsTransfer + "/Get"
	actionEnumerate = nsEnumeration + "/Enumerate"
	actionPull      = nsEnumeration + "/Pull"
	actionRelease   = nsEnumeration + "/Release"

	faultAddressing  = nsAddressing + "/fault"
	faultWSMan       = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
	faultEnumeration = nsEnumeration + "/fault"
)

// fault is a SOAP fault as the firmware words it.
type fault struct {
	http                    int
	action, code, sub, text string
	detail                  string
}

// message is a request envelope taken apart. Its strings are parts of the body.
type message struct {
	document
	action, resource, id string
	selectors            []attribute // name and value
	body                 int32       // the first element in the Body, or -1
	identify             bool
}

// errSOAP11 and its neighbours tell apart the ways in which well-formed XML is no request.
var (
	errSOAPVersion    = errors.New("not a SOAP 1.2 envelope")
	errMustUnderstand = errors.New("a header that must be understood and is not")
	errNoAction       = errors.New("no action")
	errSchema         = errors.New("not the envelope's schema")
)

// read takes a body apart. Prefixes, order of headers and white space are the sender's choice.
func (m *message) read(s string) error {
	m.action, m.resource, m.id, m.body, m.identify = "", "", "", -1, false
	clear(m.selectors)
	m.selectors = m.selectors[:0]
	if err := m.parse(s); err != nil {
		return err
	}
	root := &m.elements[0]
	if root.name != "Envelope" || root.space != nsSOAP {
		return errSOAPVersion
	}
	header, body := int32(-1), int32(-1)
	for i := root.child; i >= 0; i = m.elements[i].next {
		e := &m.elements[i]
		switch {
		case e.space == nsSOAP && e.name == "Header" && header < 0 && body < 0:
			header = i
		case e.space == nsSOAP && e.name == "Body" && body < 0:
			body = i
		default:
			return errSchema
		}
	}
	if body < 0 {
		return errSchema
	}
	m.body = m.elements[body].child
	if m.body >= 0 && m.elements[m.body].next >= 0 {
		return errSchema
	}
	var understood error
	if header >= 0 {
		for i := m.elements[header].child; i >= 0; i = m.elements[i].next {
			if err := m.readHeader(&m.elements[i]); err == errMustUnderstand {
				understood = err // the fault still answers the message's ID, which may stand further on
			} else if err != nil {
				return err
			}
		}
	}
	if understood != nil {
		return understood
	}
	if m.body >= 0 && m.elements[m.body].space == nsIdentity && m.elements[m.body].name == "Identify" {
		m.identify = true
		return nil
	}
	if m.action == "" {
		return errNoAction
	}
	return nil
}

func (m *message) readHeader(e *element) error {
	must, _ := e.attr(nsSOAP, "mustUnderstand")
	must = strings.TrimSpace(must)
	demanded := must == "true" || must == "1"
	switch e.space {
	case nsAddressing:
		switch e.name {
		case "Action":
			if m.action != "" {
				return errSchema
			}
			m.action = strings.TrimSpace(e.text)
			return nil
		case "MessageID":
			m.id = e.text
			return nil
		case "To", "ReplyTo", "FaultTo", "From", "RelatesTo":
			return nil
		}
	case nsWSMan:
		switch e.name {
		case "ResourceURI":
			m.resource = strings.TrimSpace(e.text)
			return nil
		case "SelectorSet":
			for i := e.child; i >= 0; i = m.elements[i].next {
				s := &m.elements[i]
				name, _ := s.attr("", "Name")
				if s.space != nsWSMan || s.name != "Selector" || name == "" || len(m.selectors) >= maxAttributes {
					return errSchema
				}
				m.selectors = append(m.selectors, attribute{name: name, value: s.text})
			}
			return nil
		case "OperationTimeout", "MaxEnvelopeSize", "Locale":
			return nil
		}
	}
	if demanded {
		return errMustUnderstand
	}
	return nil
}

// child finds a child element by name, or nil.
func (m *message) childOf(parent int32, space, name string) *element {
	for i := m.elements[parent].child; i >= 0; i = m.elements[i].next {
		if e := &m.elements[i]; e.name == name && e.space == space {
			return e
		}
	}
	return nil
}

const (
	declaration = `<?xml version="1.0" encoding="UTF-8"?>`

	replyHead = declaration + `<a:Envelope xmlns:a="` + nsSOAP + `" xmlns:b="` + nsAddressing + `" xmlns:c="` + nsWSMan +
		`" xmlns:d="http://schemas.xmlsoap.org/ws/2005/02/trust"` +
		` xmlns:e="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"` +
		` xmlns:f="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd"`

	headers = ` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><a:Header><b:To>` + anonymous + `</b:To><b:RelatesTo>`

	faultHead = declaration + `<a:Envelope xmlns:g="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd"` +
		` xmlns:f="http://schemas.xmlsoap.org/ws/2004/08/eventing" xmlns:e="` + nsWSMan + `" xmlns:d="` + nsTransfer +
		`" xmlns:c="` + nsEnumeration + `" xmlns:b="` + nsAddressing + `" xmlns:a="` + nsSOAP +
		`" xmlns:h="http://schemas.xmlsoap.org/ws/2005/02/trust"` +
		` xmlns:i="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"` + headers

	replyTail = `</a:Body></a:Envelope>`
)

// appendReplyHead appends an envelope up to and with <a:Body>. The namespaces get the prefixes g, h, i.
func appendReplyHead(b []byte, m *message, action string, count uint64, namespaces ...string) []byte {
	b = append(b, replyHead...)
	for i, ns := range namespaces {
		b = append(append(append(b, ` xmlns:`...), 'g'+byte(i)), `="`...)
		b = append(appendEscaped(b, ns), '"')
	}
	b = append(b, headers...)
	b = appendAddressing(b, m, action, count)
	b = append(b, `<c:ResourceURI>`...)
	b = appendEscaped(b, m.resource)
	return append(b, `</c:ResourceURI></a:Header><a:Body>`...)
}

// appendAddressing appends what follows <b:RelatesTo>: the request's ID verbatim, the action, and the counter that is
// this firmware's message ID.
func appendAddressing(b []byte, m *message, action string, count uint64) []byte {
	b = appendEscaped(b, m.id)
	b = append(b, `</b:RelatesTo><b:Action a:mustUnderstand="true">`...)
	b = appendEscaped(b, action)
	b = append(b, `</b:Action><b:MessageID>uuid:00000000-8086-8086-8086-`...)
	const digits = "0123456789ABCDEF"
	for shift := 44; shift >= 0; shift -= 4 {
		b = append(b, digits[count>>shift&0xF])
	}
	return append(b, `</b:MessageID>`...)
}

func appendFault(b []byte, m *message, f fault, count uint64) []byte {
	b = append(b, faultHead...)
	b = appendAddressing(b, m, f.action, count)
	b = append(b, `</a:Header><a:Body><a:Fault><a:Code><a:Value>`...)
	b = append(b, f.code...)
	b = append(b, `</a:Value>`...)
	if f.sub != "" {
		b = append(append(append(b, `<a:Subcode><a:Value>`...), f.sub...), `</a:Value></a:Subcode>`...)
	}
	b = append(append(append(b, `</a:Code><a:Reason><a:Text xml:lang="en-US">`...), f.text...), `</a:Text></a:Reason><a:Detail>`...)
	b = append(b, f.detail...)
	return append(b, `</a:Detail></a:Fault>`+replyTail...)
}

// appendIdentify appends the answer to Identify, which has no addressing headers.
func appendIdentify(b []byte, release string) []byte {
	b = append(b, declaration+`<a:Envelope xmlns:a="`+nsSOAP+`" xmlns:g="`+nsIdentity+`"><a:Header></a:Header><a:Body>`...)
	return append(append(b, identifyBody(release)...), replyTail...)
}

// appendElement appends <g:name>text</g:name>.
func appendElement(b []byte, prefix byte, name, text string) []byte {
	b = append(append(append(b, '<', prefix, ':'), name...), '>')
	b = appendEscaped(b, text)
	return append(append(append(b, '<', '/', prefix, ':'), name...), '>')
}

func appendUint(b []byte, prefix byte, name string, v uint32) []byte {
	b = append(append(append(b, '<', prefix, ':'), name...), '>')
	b = strconv.AppendUint(b, uint64(v), 10)
	return append(append(append(b, '<', '/', prefix, ':'), name...), '>')
}

// appendEPR appends the inside of an endpoint reference: address, resource and selectors.
func appendEPR(b []byte, resource string, keys []attribute) []byte {
	b = append(b, `<b:Address>`+anonymous+`</b:Address><b:ReferenceParameters><c:ResourceURI>`...)
	b = append(b, resource...)
	b = append(b, `</c:ResourceURI><c:SelectorSet>`...)
	for _, k := range keys {
		b = append(append(append(b, `<c:Selector Name="`...), k.name...), `">`...)
		b = append(appendEscaped(b, k.value), `</c:Selector>`...)
	}
	return append(b, `</c:SelectorSet></b:ReferenceParameters>`...)
}
