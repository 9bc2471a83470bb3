package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Trusted are the places whose PROXY headers are believed.
type Trusted struct {
	Networks []netip.Prefix
	Unix     bool // clients of unix sockets
}

// Trusted reads ProxyProtocolFrom. All problems are reported; their texts begin
// with the key.
func (p Proxy) Trusted() (Trusted, []error) {
	var t Trusted
	var problems []error
	for _, text := range p.ProxyProtocolFrom {
		if text == "unix" {
			t.Unix = true
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil && !strings.Contains(text, "/") {
			var address netip.Addr
			if address, err = netip.ParseAddr(text); err == nil {
				network = netip.PrefixFrom(address.Unmap().WithZone(""), address.Unmap().BitLen())
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("proxy.proxy_protocol_from: %q is no network: give one such as 10.0.0.0/8, an address, or unix", text))
			continue
		}
		t.Networks = append(t.Networks, network.Masked())
	}
	switch on := p.ProxyProtocol != "off"; {
	case !mayBe("proxy.proxy_protocol", p.ProxyProtocol):
		problems = append(problems, fmt.Errorf("proxy.proxy_protocol: %q is unknown: give %s", p.ProxyProtocol, oneOf("proxy.proxy_protocol")))
	case on && len(p.ProxyProtocolFrom) == 0:
		problems = append(problems, fmt.Errorf("proxy.proxy_protocol_from: missing, and proxy.proxy_protocol is %q: list the networks whose headers are to be believed", p.ProxyProtocol))
	case !on && len(p.ProxyProtocolFrom) > 0:
		problems = append(problems, fmt.Errorf("proxy.proxy_protocol_from: of no use with proxy.proxy_protocol: off: give optional or required"))
	}
	return t, problems
}
