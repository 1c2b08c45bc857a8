package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// The largest networks that may be trusted as proxies, like the private networks 10.0.0.0/8 and fc00::/7.
const (
	minTrusted4 = 8
	minTrusted6 = 7
)

// mapped4 has the IPv4-mapped addresses (RFC 4291 §2.5.5.2).
var mapped4 = netip.MustParsePrefix("::ffff:0:0/96")

// Proxies parses the networks of proxies. It converts IPv4-mapped networks to IPv4. It refuses networks that trust
// everybody, alone or together.
func (c Config) Proxies() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range c.TrustedProxies {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("trusted_proxies: %q is not a CIDR, for instance 10.0.0.0/8", text)
		}
		prefix = unmapped(prefix)
		if tooLargeNetwork(prefix) {
			return nil, tooWide(text)
		}
		prefixes = append(prefixes, prefix)
	}
	for _, prefix := range merged(prefixes) {
		if tooLargeNetwork(prefix) {
			return nil, tooWide("the whole list covers " + prefix.String() + ", which")
		}
	}
	return prefixes, nil
}

func tooWide(what string) error {
	return fmt.Errorf("trusted_proxies: %s is so wide that it trusts strangers, who could then forge their address: "+
		"list the networks of your proxies, at most /%d of IPv4 or /%d of IPv6 each",
		what, minTrusted4, minTrusted6)
}

// unmapped clears the host bits of a network and converts an IPv4-mapped network to IPv4.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= mapped4.Bits() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped4.Bits())
	}
	return p.Masked()
}

// tooLargeNetwork reports whether a network is too large for one owner, or contains all of IPv4.
func tooLargeNetwork(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < minTrusted4
	}
	return p.Bits() < minTrusted6 || p.Contains(mapped4.Addr())
}

// merged returns the fewest networks that contain the same addresses.
func merged(prefixes []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var all []netip.Prefix
	for _, p := range sorted {
		if n := len(all); n > 0 && all[n-1].Contains(p.Addr()) {
			continue
		}
		all = append(all, p)
		for n := len(all); n > 1 && all[n-1].Bits() > 0; n = len(all) {
			whole := netip.PrefixFrom(all[n-2].Addr(), all[n-2].Bits()-1).Masked()
			if all[n-2].Bits() != all[n-1].Bits() ||
				!whole.IsValid() ||
				!whole.Contains(all[n-1].Addr()) {
				break
			}
			all = append(all[:n-2], whole)
		}
	}
	return all
}
