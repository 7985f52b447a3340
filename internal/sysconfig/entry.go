package sysconfig

import (
	"errors"
	"net/netip"
	"slices"
)

// BestAddress is the one of a host's addresses that stands in such a file: the first that other machines can reach, else the
// first that any can.
func BestAddress(addresses []string) (best netip.Addr, ok bool) {
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsUnspecified() || a.IsMulticast() {
			continue
		}
		a = a.Unmap()
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a, true
		}
		if !ok {
			best, ok = a, true
		}
	}
	return best, ok
}

// Fit is what of an entry can be written: what cannot, and what it can do without, is left out, with a FieldError for each. It
// fails where the entry cannot be written at all.
func (e Entry) Fit(enc Encoding) (fits Entry, without []*FieldError, err error) {
	for {
		err := e.Writable(enc)
		if err == nil {
			return e, without, nil
		}
		var field *FieldError
		if !errors.As(err, &field) || !e.leaveOut(field) {
			return Entry{}, without, err
		}
		without = append(without, field)
	}
}

// leaveOut removes what a FieldError is about; false if an entry cannot do without it.
func (e *Entry) leaveOut(wrong *FieldError) bool {
	switch wrong.Field {
	case FieldAlias:
		i := slices.Index(e.Aliases, wrong.Value)
		e.Aliases = slices.Delete(slices.Clone(e.Aliases), i, i+1)
	case FieldLine: // what was added made it too long
		switch {
		case e.Comment != "":
			e.Comment, wrong.Field = "", "COMMENT"
		case len(e.Aliases) > 0:
			e.Aliases, wrong.Field = nil, "aliases"
		case len(e.Unknown) > 0:
			e.Unknown, wrong.Field = nil, "operands of other programs"
		default:
			return false
		}
	case "HID":
		e.HID = ""
	case "TYPE":
		e.Type = ""
	case "MAC":
		e.MAC = ""
	case "COMMENT":
		e.Comment = ""
	case "ROOT":
		e.Root = ""
	case "DATE":
		e.Date = ""
	default:
		i := slices.Index(e.Unknown, Operand{Key: wrong.Field, Value: wrong.Value})
		if i < 0 {
			return false
		}
		e.Unknown = slices.Delete(slices.Clone(e.Unknown), i, i+1)
	}
	return true
}
