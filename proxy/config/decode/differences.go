package decode

// difference is something that works otherwise than in Envoy, on purpose.
type difference struct{ about, text string }

// differences are all that are known. Whoever makes one adds it here.
var differences = []difference{
	{"unknown fields", "are refused in dynamic configuration too; Envoy ignores them there unless told not to."},
	{"keys twice", "in one object are refused, under the proto name and the JSON name too; Envoy takes the last."},
	{"two listeners of one name", "in a bootstrap are refused; Envoy takes one of them."},
	{"crl", "with anything else than revocation lists in it is refused; Envoy leaves the rest out, and checks nothing if nothing is left."},
	{"unknown SDS and EDS clusters", "are refused when the configuration is read; Envoy finds out when it asks them."},
	{"transport_api_version", "must be V3: AUTO is refused when the configuration is read."},
	{"unknown clusters", "that a tcp_proxy of the bootstrap names are refused if no cluster can come later; Envoy closes the connections with NC."},
	{"prefix_len", "longer than its address is refused; Envoy takes the whole address."},
	{"a listener without a name", "gets its address as its name; Envoy makes a random one."},
	{"cipher_suites", "are the suites of TLS 1.2 that crypto/tls has, by OpenSSL's or IANA's name, alone or in `[A|B]`; rules such as `ALL` or `!aNULL` are refused. crypto/tls orders them itself."},
	{"circuit_breakers.thresholds", "twice for one priority are refused; Envoy takes the first."},
	{"grpc_services", "must be one; Envoy takes a second as a fallback."},
	{"load_balancing_policy", "the first policy must be one that is implemented; Envoy takes the first that it knows."},
	{"what has no effect", "where it stands is refused: endpoints of an EDS cluster in the cluster itself, a maximum below its minimum, an empty range, an empty protocol name."},
	{"session_ticket_keys", "are hashed into crypto/tls's keys: tickets are not exchanged with an Envoy that has the same keys."},
	{"files", "that secrets and resources are read from are seen when they are written in place too; Envoy sees renames only."},
	{"bootstraps", "are YAML or JSON; .pb and .pb_text are not read."},
	{"a listener whose secret is missing", "is bound at once and refuses its handshakes with the reason; Envoy does not open the port. An update that lacks its secrets waits, however long, and the working version goes on; Envoy switches over after initial_fetch_timeout and resets every connection."},
	{"an update of a listener", "touches only the connections of filter chains that changed, whatever else changed; Envoy drains the whole listener unless only filter chains changed."},
	{"session resumption", "is verified again by the current roots, lists and matchers."},
	{"tls_maximum_protocol_version", "of a client is TLS 1.3 if it is not set; Envoy's is 1.2, in which a client's certificate goes in the clear."},
	{"listener_filters_timeout", "0 waits for ever for a client that is silent, as in Envoy; one that has begun a ClientHello or a PROXY header has 15 s. At most 8192 connections may wait, and the oldest is shed."},
	{"SIGTERM", "drains for --drain-time-s, and a second one ends at once; Envoy ends at the first."},
	{"a path_config_source", "with something wrong in it when the server starts is refused, and the server does not begin; Envoy goes on without it."},
	{"network rbac", "decides before the upstream is dialled and before anything is read; Envoy waits for the client's first byte, and by then a server that speaks first has been heard."},
	{"rbac principals `authenticated`", "match only a client whose certificate was verified; in Envoy one without a certificate is authenticated where no principal_name is asked for, and matches a principal_name of `.*`, and one accepted by ACCEPT_UNTRUSTED has the names that it claims."},
	{"rbac principals `filter_state`", "that ask for what istio.metadata_exchange sets are refused: the peer's metadata come with its first bytes, after rbac has decided."},
	{"istio.metadata_exchange", "sends its frame at once and takes one of 64 KiB at most; Envoy sends it with the first data and has no limit. A byte that cannot begin a frame ends the waiting; Envoy waits for eight."},
	{"a reset of the client", "while its upstream is being connected ends the attempt, with DC; Envoy goes on connecting."},
	{"access_log_flush_interval", "begins when the upstream is connected; in Envoy, with the connection."},
}
