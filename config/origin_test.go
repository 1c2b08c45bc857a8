package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// valid is a configuration without problems.
func valid() Config {
	c, problems := Parse(map[string]any{"issuer": "https://auth.example"})
	if problems != nil {
		panic(problems)
	}
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Networks that trust everybody are refused, alone or together; networks of IPv4 in IPv6 count as IPv4.
func TestTrustedProxies(t *testing.T) {
	eighths := List{}
	for _, n := range []string{"0", "32", "64", "96", "128", "160", "192", "224"} {
		for i := range 32 {
			first := must(netip.ParseAddr(n + ".0.0.0")).As4()
			first[0] += byte(i)
			eighths = append(eighths, netip.PrefixFrom(netip.AddrFrom4(first), 8).String())
		}
	}
	for _, refused := range []List{
		{"0.0.0.0/0"}, {"::/0"}, {"0.0.0.0/1", "128.0.0.0/1"}, {"::/1", "8000::/1"}, {"10.0.0.0/7"}, {"1.2.3.4/0"},
		{"2000::/3"}, {"fc00::/6"},
		{"::ffff:0:0/96"}, {"::ffff:0.0.0.0/97", "::ffff:128.0.0.0/97"}, {"::ffff:10.0.0.0/103"}, {"::ffff:0:0/95"},
		{"::/64"}, {"::/8"},
		{"10.0.0.0/8", "0.0.0.0/0"}, {"10.0.0.0/8", "11.0.0.0/9", "11.128.0.0/9"}, {"fc00::/7", "fe00::/7"}, eighths,
	} {
		c := valid()
		c.TrustedProxies = refused
		problems := fmt.Sprint(c.Problems(true))
		if !strings.Contains(problems, "trusted_proxies: ") || !strings.Contains(problems, "so wide") {
			t.Errorf("%v: %v", refused, problems)
		}
	}
	for _, taken := range []List{
		nil, {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, {"fc00::/7"}, {"fc00::/8", "fd00::/8"},
		{"127.0.0.1/32", "::1/128"},
		{"10.0.0.0/9", "10.128.0.0/9", "10.0.0.0/8", "10.2.3.4/16"}, {"::ffff:10.0.0.0/104"}, {"2001:db8::/32"},
	} {
		c := valid()
		c.TrustedProxies = taken
		if problems := c.Problems(true); problems != nil {
			t.Errorf("%v: %v", taken, problems)
		}
	}
	mapped := must(Config{TrustedProxies: List{"::ffff:10.1.0.0/104"}}.Proxies())
	if want := netip.MustParsePrefix("10.0.0.0/8"); len(mapped) != 1 || mapped[0] != want {
		t.Errorf("%v", mapped)
	}
}

// An origin is taken if, and only if, a browser could send it.
func TestOrigins(t *testing.T) {
	for _, taken := range []string{
		"https://app.example", "http://localhost:3000", "https://app.example:8443", "https://app.example.",
		"http://127.0.0.1:8080",
		"http://[::1]:8080", "https://[2001:db8::1]", "https://xn--bcher-kva.example", "https://a_b.example",
		"http://app.example:443",
		"https://app.example:80", "http://[::ffff:102:304]", "https://1app.example", "https://app.0xyz",
	} {
		if err := checkOrigin(taken); err != nil {
			t.Errorf("%q: %v", taken, err)
		}
	}
	for _, refused := range []string{
		"", "*", "null", "https://*.example", "https://*", "https://app.example/", "https://app.example/a",
		"https://app.example?x", "https://APP.example",
		"HTTPS://app.example", "https://app.example:443", "http://app.example:80", "https://app.example:",
		"https://app.example:0443",
		"https://app.example:0", "https://app.example:70000", "https://bücher.example", "https://a b.example",
		"https://a%20b.example",
		"https://user@app.example", "https://app..example", "https://.example", "https://app.example..",
		"app.example", "//app.example",
		"ftp://app.example", "https://", "https://1.2.3", "https://1.2.3.256", "https://1.2.3.04", "https://1.2.3.4.",
		"https://0x7f.1", "https://app.0x7",
		"https://[::1", "https://[0:0:0:0:0:0:0:1]", "https://[::ffff:1.2.3.4]", "https://[fe80::1%25eth0]",
		"https://[1.2.3.4]", "https://a,b",
		"https://app.example#", "https://app!.example", "https://" + strings.Repeat("a", 64) + ".example",
		"https://app.example\\x",
		"https://" + strings.Repeat("a.", 127) + "example",
	} {
		if err := checkOrigin(refused); err == nil || !strings.HasPrefix(err.Error(), "cors_origins: ") {
			t.Errorf("%q: %v", refused, err)
		}
	}
}
