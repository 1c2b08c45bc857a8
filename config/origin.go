package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// checkOrigin requires an origin as browsers serialize it (RFC 6454 §6.2, WHATWG URL). Any other form would never
// match, without a warning.
func checkOrigin(origin string) error {
	if why := notAnOrigin(origin); why != "" {
		return fmt.Errorf("cors_origins: %q matches no browser: %s", origin, why)
	}
	return nil
}

// notAnOrigin says why no browser sends an origin. It returns "" if browsers do.
func notAnOrigin(origin string) string {
	scheme, rest, _ := strings.Cut(origin, "://")
	defaultPort, known := map[string]string{"http": "80", "https": "443"}[scheme]
	switch {
	case strings.Contains(origin, "*"):
		return "there are no wildcards: name each origin, for instance https://app.example.com"
	case origin == "null":
		return "null is the origin of every page that hides its own, and cannot be allowed"
	case strings.ToLower(origin) != origin:
		return "browsers send origins in lower case"
	case !known:
		return "an origin begins with https:// or http://, for instance https://app.example.com"
	}
	u, err := url.Parse(origin)
	if err != nil ||
		rest == "" ||
		u.Host != rest {
		return "an origin is scheme://host or scheme://host:port and nothing else, for instance https://app.example.com"
	}
	if strings.HasSuffix(rest, ":") {
		return "a port is missing after the colon"
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil ||
			n == 0 ||
			strconv.FormatUint(n, 10) != port {
			return "a port is a number from 1 to 65535 without leading zeros"
		}
		if port == defaultPort {
			return fmt.Sprintf("browsers leave out :%s, the port of %s", port, scheme)
		}
	}
	if strings.HasPrefix(rest, "[") {
		return notAnIPv6Host(u.Hostname())
	}
	return notAHost(u.Hostname())
}

func notAnIPv6Host(host string) string {
	ip, err := netip.ParseAddr(host)
	if err != nil ||
		!ip.Is6() ||
		ip.Zone() != "" {
		return "the text in brackets is not an IPv6 address"
	}
	short := ip.String()
	if b := ip.As16(); ip.Is4In6() { // browsers do not write it with dots
		short = fmt.Sprintf("::ffff:%x:%x", uint16(b[12])<<8|uint16(b[13]), uint16(b[14])<<8|uint16(b[15]))
	}
	if short != host {
		return fmt.Sprintf("browsers write the address [%s]", short)
	}
	return ""
}

const (
	maxHost  = 253 // RFC 1035 §2.3.4, without the final dot
	maxLabel = 63
)

// notAHost says why browsers send no such host. A final dot is part of the host.
func notAHost(host string) string {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	last := labels[len(labels)-1]
	if isNumber(last) { // browsers parse it as an IPv4 address
		if ip, err := netip.ParseAddr(host); err != nil || ip.String() != host {
			return "a host that ends in a number is an IPv4 address, as in http://127.0.0.1:3000"
		}
		return ""
	}
	if len(host) > maxHost+1 {
		return "the host is longer than a DNS name can be"
	}
	for _, label := range labels {
		switch {
		case label == "" || len(label) > maxLabel:
			return "a label of the host is empty or longer than 63 characters"
		case strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
			return "a host has ASCII letters, digits, - and _; browsers send other letters in the form xn--…"
		}
	}
	return ""
}

// isNumber reports whether browsers parse the last label of a host as a number: decimal, or hexadecimal after 0x.
func isNumber(label string) bool {
	if rest, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return label != "" && strings.Trim(label, "0123456789") == ""
}
