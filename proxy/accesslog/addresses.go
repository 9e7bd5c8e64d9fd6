package accesslog

import (
	"strconv"

	"outrider/proxy/flow"
)

// addAddresses has X, X_WITHOUT_PORT and the port for each address X.
func addAddresses(all map[string]spec) {
	for _, a := range []struct {
		name, port string
		get        func(*flow.Info) flow.Addr
	}{
		{"DOWNSTREAM_REMOTE", "DOWNSTREAM_REMOTE_PORT", func(i *flow.Info) flow.Addr { return orOf(i.Remote, i.Local) }},
		{"DOWNSTREAM_DIRECT_REMOTE", "DOWNSTREAM_DIRECT_REMOTE_PORT", func(i *flow.Info) flow.Addr { return orOf(i.DirectRemote, i.DirectLocal) }},
		{"DOWNSTREAM_LOCAL", "DOWNSTREAM_LOCAL_PORT", func(i *flow.Info) flow.Addr { return i.Local }},
		{"DOWNSTREAM_DIRECT_LOCAL", "DOWNSTREAM_DIRECT_LOCAL_PORT", func(i *flow.Info) flow.Addr { return i.DirectLocal }},
		{"UPSTREAM_LOCAL", "UPSTREAM_LOCAL_PORT", func(i *flow.Info) flow.Addr { return i.UpstreamLocal }},
		{"UPSTREAM_REMOTE", "UPSTREAM_REMOTE_PORT", connectedHost},
	} {
		all[a.name+"_ADDRESS"] = plain(whole(a.get))
		all[a.name+"_ADDRESS_WITHOUT_PORT"] = plain(host(a.get))
		all[a.port] = plain(port(a.get))
	}
	all["UPSTREAM_HOST"] = plain(whole(func(i *flow.Info) flow.Addr { return i.UpstreamHost }))
	// An endpoint ID is of Envoy's internal addresses; the others have "".
	for name, get := range map[string]func(*flow.Info) flow.Addr{
		"DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID":        func(i *flow.Info) flow.Addr { return i.Local },
		"DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID": func(i *flow.Info) flow.Addr { return i.DirectLocal },
		"UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID":         connectedHost,
	} {
		all[name] = plain(operator{text: func(b []byte, e *entry) ([]byte, bool) { return b, isSet(get(e.info)) }})
	}
}

// connectedHost is the peer of the upstream connection, once there is one.
func connectedHost(i *flow.Info) flow.Addr {
	if i.UpstreamConnected.IsZero() {
		return flow.Addr{}
	}
	return i.UpstreamHost
}

// orOf is a, or if it is the unnamed end of a unix socket, the other end, as in
// Envoy.
func orOf(a, other flow.Addr) flow.Addr {
	if !isSet(a) {
		return other
	}
	return a
}

// isSet reports whether there is something to print. Package net calls an
// unnamed unix socket "@".
func isSet(a flow.Addr) bool { return a.IsIP() || a.Path != "" && a.Path != "@" }

func whole(get func(*flow.Info) flow.Addr) operator {
	return operator{text: func(b []byte, e *entry) ([]byte, bool) {
		a := get(e.info)
		if a.IsIP() {
			return a.AppendTo(b), true
		}
		if !isSet(a) {
			return b, false
		}
		return append(b, a.Path...), true
	}}
}

func host(get func(*flow.Info) flow.Addr) operator {
	return operator{text: func(b []byte, e *entry) ([]byte, bool) {
		a := get(e.info)
		if a.IsIP() {
			return a.Addr().AppendTo(b), true
		}
		if !isSet(a) {
			return b, false
		}
		return append(b, a.Path...), true
	}}
}

// port is "" for a unix socket, and null in JSON.
func port(get func(*flow.Info) flow.Addr) operator {
	print := func(b []byte, e *entry) ([]byte, bool) {
		a := get(e.info)
		if !a.IsIP() {
			return b, false
		}
		return strconv.AppendUint(b, uint64(a.Port()), 10), true
	}
	return operator{json: print, text: func(b []byte, e *entry) ([]byte, bool) {
		b, ok := print(b, e)
		return b, ok || isSet(get(e.info))
	}}
}
