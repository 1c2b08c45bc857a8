package server

import (
	"net/http"
	"net/netip"
	"strings"
)

// clientAddress is the address that a request comes from: the peer's, or, if that is a trusted proxy, the rightmost address of
// X-Forwarded-For that is none (RFC 9700 §4.13). Of an IPv6 address it keeps the /64, which is what one subscriber has.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	address := peerAddress(r)
	if len(trusted) == 0 {
		return subscriber(address)
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && isTrusted(address, trusted); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		address = hop.Unmap().WithZone("")
	}
	return subscriber(address)
}

func subscriber(address netip.Addr) netip.Addr {
	if address.Is6() {
		if prefix, err := address.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return address
}

func peerAddress(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

func isTrusted(address netip.Addr, trusted []netip.Prefix) bool {
	for _, prefix := range trusted {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}
