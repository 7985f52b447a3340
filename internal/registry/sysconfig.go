package registry

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

// SystemConfiguration returns one entry per asset for a system configuration information file in that encoding,
// and one sentence for each asset that could not be entered as it is. An asset without an address is left out; one
// whose name cannot be written stands under its host ID.
func (r *Registry) SystemConfiguration(ctx context.Context, enc sysconfig.Encoding) (entries []sysconfig.Entry, remarks []string, err error) {
	assets, err := r.Assets(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range assets {
		addr, ok := bestAddress(a.Seen.Addresses)
		if !ok {
			remarks = append(remarks, fmt.Sprintf("host ID %s (%s) is left out: it has reported no address", a.HostID, a.Name))
			continue
		}
		e := sysconfig.Entry{
			Address: addr, Name: a.Name, HID: a.HostID.String(), Type: sysconfig.Client, Root: `\`,
			MAC:  hardware.Facts(a.Facts).Evidence()[hostid.OnboardMAC],
			Date: a.LastCheckin.Local().Format(sysconfig.DateLayout),
		}
		if !writable(e, enc) {
			e.MAC = ""
		}
		if !writable(e, enc) {
			remarks = append(remarks, fmt.Sprintf("host ID %s stands under its host ID: its name %q cannot be written into such a file", a.HostID, a.Name))
			e.Name = a.HostID.String()
		}
		entries = append(entries, e)
	}
	return entries, remarks, nil
}

func writable(e sysconfig.Entry, enc sysconfig.Encoding) bool {
	return sysconfig.Write(io.Discard, slices.Values([]sysconfig.Entry{e}), enc) == nil
}

// bestAddress is the first address that other machines can reach; else the first that any can.
func bestAddress(addresses []string) (best netip.Addr, ok bool) {
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
