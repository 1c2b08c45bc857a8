package server

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// clientAddress returns the address of the client. It is the peer, or, behind trusted proxies, the rightmost address in
// X-Forwarded-For that is not a trusted proxy (RFC 9700 §4.13). If an element is malformed, the address is the proxy
// that wrote it, and readable is false.
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

// parseHop parses an element of X-Forwarded-For in the forms that proxies write: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
// [2001:db8::1], [2001:db8::1]:80, and IPv6 with a zone, fe80::1%eth0. It ignores port and zone.
func parseHop(element string) (netip.Addr, bool) {
	address, err := netip.ParseAddr(element)
	inner, opened := strings.CutPrefix(element, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if bracketed := opened && closed; err != nil && bracketed {
		address, err = netip.ParseAddr(inner)
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

// forwardedWarning is the shortest time between two warnings about a malformed X-Forwarded-For.
const forwardedWarning = time.Minute

// addressOf returns the address to which a request is attributed. One subscriber has a whole IPv6 /64, so that prefix
// stands for all its addresses. A malformed X-Forwarded-For is counted and logged; the log names only the proxy.
func (s *gateway) addressOf(r *http.Request) netip.Addr {
	address, readable := clientAddress(r, s.trusted)
	if readable {
		return subscriber(address)
	}
	s.metrics.forwardedUnreadable.Inc()
	if s.forwardedLogged.now(s.now(), forwardedWarning) {
		s.log.Warn("a trusted proxy sends a malformed X-Forwarded-For: its requests are attributed to the proxy",
			slog.String("event", "forwarded"), slog.String("proxy", address.String()))
	}
	return subscriber(address)
}

// subscriber returns the /64 of an IPv6 address, and an IPv4 address unchanged.
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
