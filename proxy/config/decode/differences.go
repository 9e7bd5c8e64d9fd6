package decode

// difference is something that works otherwise than in Envoy, on purpose.
type difference struct{ about, text string }

// differences are all that are known. Whoever makes one adds it here.
var differences = []difference{
	{"unknown fields", "are refused in dynamic configuration too; Envoy ignores them there unless told not to."},
	{"unknown clusters", "that a tcp_proxy of the bootstrap names are refused if no cluster can come later; Envoy closes the connections with NC."},
	{"prefix_len", "longer than its address is refused; Envoy takes the whole address."},
	{"a listener without a name", "gets its address as its name; Envoy makes a random one."},
	{"cipher_suites", "are the suites of TLS 1.2 that crypto/tls has, by OpenSSL's or IANA's name, alone or in `[A|B]`; rules such as `ALL` or `!aNULL` are refused. crypto/tls orders them itself."},
	{"circuit_breakers.thresholds", "twice for one priority are refused; Envoy takes the first."},
	{"grpc_services", "must be one; Envoy takes a second as a fallback."},
	{"load_balancing_policy", "the first policy must be one that is implemented; Envoy takes the first that it knows."},
	{"session_ticket_keys", "are hashed into crypto/tls's keys: tickets are not exchanged with an Envoy that has the same keys."},
	{"files", "that secrets and resources are read from are seen when they are written in place too; Envoy sees renames only."},
	{"typed_config in .pb and .pb_text files", "is not read: bootstraps are YAML or JSON."},
}
