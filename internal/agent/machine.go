package agent

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"samehost/internal/checkin"
)

// maxAddresses is how many addresses a report carries; a PC with more is a host of virtual machines.
const maxAddresses = 16

// machineNames is how this PC calls itself. No name server is asked: a report must not wait for one, and who reads
// it can ask better.
func machineNames() checkin.Names {
	host, err := os.Hostname()
	if err != nil {
		return checkin.Names{}
	}
	n := checkin.Names{Host: host, FQDN: fullName()}
	if short, _, dotted := strings.Cut(host, "."); dotted {
		n.Host = short
		if n.FQDN == "" {
			n.FQDN = host
		}
	}
	return n
}

// machineAddresses are this PC's own addresses, the one that the way to the higher system starts from first, then
// IPv4 before IPv6. Loopback and link-local ones lead nowhere from elsewhere and are left out.
func machineAddresses(higherSystem string) []string {
	var list []netip.Addr
	interfaces, _ := net.Interfaces()
	for _, ifc := range interfaces {
		if ifc.Flags&net.FlagUp == 0 || ifc.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, _ := ifc.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
				list = append(list, p.Addr().Unmap())
			}
		}
	}
	first := sourceAddress(higherSystem)
	slices.SortFunc(list, func(a, b netip.Addr) int {
		if a != b && (a == first || b == first) {
			if a == first {
				return -1
			}
			return 1
		}
		return a.Compare(b) // IPv4 first
	})
	list = slices.Compact(list)
	texts := make([]string, 0, min(len(list), maxAddresses))
	for _, a := range list[:cap(texts)] {
		texts = append(texts, a.String())
	}
	return texts
}

// sourceAddress is where packets to the higher system would start from. A connected UDP socket tells it without
// sending any; a host name is not resolved for it.
func sourceAddress(higherSystem string) netip.Addr {
	u, err := url.Parse(higherSystem)
	if err != nil {
		return netip.Addr{}
	}
	to, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return netip.Addr{}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
