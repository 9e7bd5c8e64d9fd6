package decode

import (
	"fmt"
	"strings"
	"testing"
)

func TestResolversThatAskAsTheSystemDoesAreTaken(t *testing.T) {
	for _, c := range []string{
		"cares.v3.CaresDnsResolverConfig, udp_max_queries: 100, query_tries: 2", // istiod's
		"cares.v3.CaresDnsResolverConfig, filter_unroutable_families: true",
		"getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
	} {
		text := strings.Replace(base, "    connect_timeout: 1s", fmt.Sprintf("    connect_timeout: 1s\n    typed_dns_resolver_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.%s}}", c), 1)
		if _, err := Bootstrap([]byte(text), Options{}); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}
