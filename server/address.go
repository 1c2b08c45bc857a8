package server

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// clientAddress is the address that a request comes from: the peer's, or, if that is a trusted proxy, the rightmost
// address of X-Forwarded-For that is none (RFC 9700 §4.13). Where an element cannot be read, the address is that of
// the trusted proxy that has written it, and readable is false.
func clientAddress(r *http.Request, trusted []netip.Prefix) (address netip.Addr, readable bool) {
	address = peerAddress(r)
	values := r.Header.Values("X-Forwarded-For")
	for i := len(values) - 1; i >= 0; i-- {
		for rest, more := values[i], true; more; {
			if !isTrusted(address, trusted) {
				return address, true
			}
			element := rest
			comma := strings.LastIndexByte(rest, ',')
			if more = comma >= 0; more {
				rest, element = rest[:comma], rest[comma+1:]
			}
			if element = strings.Trim(element, " \t\""); element == "" {
				continue
			}
			hop, ok := parseHop(element)
			if !ok {
				return address, false
			}
			address = hop
		}
	}
	return address, true
}

// parseHop reads an element of X-Forwarded-For in the forms that proxies write: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
// [2001:db8::1], [2001:db8::1]:80, and IPv6 with a zone, fe80::1%eth0. What stands after the address does not matter,
// but must be a port.
func parseHop(element string) (netip.Addr, bool) {
	address, err := netip.ParseAddr(element)
	if inner, ok := strings.CutPrefix(element, "["); err != nil && ok && strings.HasSuffix(inner, "]") {
		address, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err == nil && !address.Is6() {
			return netip.Addr{}, false
		}
	}
	if err != nil {
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(element)
		address = with.Addr()
	}
	return address.Unmap().WithZone(""), err == nil
}

// forwardedWarning is how often the log tells at most that X-Forwarded-For cannot be read.
const forwardedWarning = time.Minute

// addressOf is the address that counts for a request: the client's, or its /64 if it is IPv6, which is what one
// subscriber has. Log and metrics tell of what cannot be read. The log names the proxy, not what it sent.
func (s *gateway) addressOf(r *http.Request) netip.Addr {
	address, readable := clientAddress(r, s.trusted)
	if readable {
		return subscriber(address)
	}
	s.metrics.forwardedUnreadable.Inc()
	if s.forwardedTold.now(s.now(), forwardedWarning) {
		s.log.Warn("X-Forwarded-For of a trusted proxy holds what is not an address: requests count as the proxy's own",
			slog.String("event", "forwarded"), slog.String("proxy", address.String()))
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
