package accesslog

import (
	"crypto/sha1" //nolint:gosec // Envoy's FINGERPRINT_1
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
	"outrider/tlsmux"
)

// operator is the operator of that name. Source: Envoy, substitution
// formatter.
func operator(name, arg string, hasArg bool) (value, error) {
	if v, ok := plainOperators()[name]; ok {
		if hasArg {
			return nil, fmt.Errorf("%%%s%% takes no argument", name)
		}
		return v, nil
	}
	if v, ok := addressOperator(name); ok {
		return v, nil
	}
	if v, ok := tlsOperator(name, arg); ok {
		return v, nil
	}
	switch name {
	case "START_TIME":
		return startTime(arg), nil
	case "START_TIME_LOCAL":
		return localTime(startTime(arg)), nil
	case "DYNAMIC_METADATA":
		return dynamicMetadata(arg), nil
	case "FILTER_STATE":
		key, _, _ := strings.Cut(arg, ":")
		return func(i *flow.Info, _ string) any { return stringOr(i.FilterState[key]) }, nil
	case "ENVIRONMENT":
		return fixed(os.Getenv(arg)), nil
	case "REQ", "RESP", "TRAILER", "REQ_WITHOUT_QUERY", "CLUSTER_METADATA", "UPSTREAM_METADATA", "UPSTREAM_FILTER_STATE", "REQUEST_HEADER", "RESPONSE_HEADER":
		return none, nil
	case "COMMON_DURATION":
		return commonDuration(arg)
	}
	return nil, fmt.Errorf("%%%s%% is no operator that outrider has", name)
}

func none(*flow.Info, string) any { return nil }

func fixed(s string) value { return func(*flow.Info, string) any { return stringOr(s) } }

// stringOr is s, or nil for "".
func stringOr(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func text(f func(*flow.Info) string) value {
	return func(i *flow.Info, _ string) any { return stringOr(f(i)) }
}

func number(f func(*flow.Info) uint64) value {
	return func(i *flow.Info, _ string) any { return f(i) }
}

// plainOperators take no argument.
func plainOperators() map[string]value {
	hostname, _ := os.Hostname()
	ops := map[string]value{
		"BYTES_RECEIVED":                 number(func(i *flow.Info) uint64 { return i.Received.Load() }),
		"BYTES_SENT":                     number(func(i *flow.Info) uint64 { return i.Sent.Load() }),
		"UPSTREAM_WIRE_BYTES_SENT":       number(func(i *flow.Info) uint64 { return i.UpstreamSent.Load() }),
		"UPSTREAM_WIRE_BYTES_RECEIVED":   number(func(i *flow.Info) uint64 { return i.UpstreamReceived.Load() }),
		"DOWNSTREAM_WIRE_BYTES_SENT":     number(func(i *flow.Info) uint64 { return i.Sent.Load() }),
		"DOWNSTREAM_WIRE_BYTES_RECEIVED": number(func(i *flow.Info) uint64 { return i.Received.Load() }),
		"RESPONSE_CODE":                  number(func(*flow.Info) uint64 { return 0 }),
		"UPSTREAM_REQUEST_ATTEMPT_COUNT": number(func(i *flow.Info) uint64 { return uint64(i.UpstreamAttempts) }),
		"CONNECTION_ID":                  number(func(i *flow.Info) uint64 { return i.ID }),
		"DURATION":                       func(i *flow.Info, _ string) any { return since(i.Start, ended(i)) },
		"REQUEST_DURATION":               none, "RESPONSE_DURATION": none, "RESPONSE_TX_DURATION": none,
		"DOWNSTREAM_HANDSHAKE_DURATION":           func(i *flow.Info, _ string) any { return since(i.Start, i.HandshakeDone) },
		"UPSTREAM_CONNECTION_POOL_READY_DURATION": func(i *flow.Info, _ string) any { return since(i.Start, i.UpstreamConnected) },
		"RESPONSE_FLAGS":                          text(func(i *flow.Info) string { return i.Flags.String() }),
		"RESPONSE_FLAGS_LONG":                     text(func(i *flow.Info) string { return i.Flags.Long() }),
		"CONNECTION_TERMINATION_DETAILS":          text(func(i *flow.Info) string { return i.TerminationDetails }),
		"DOWNSTREAM_LOCAL_CLOSE_REASON":           text(func(i *flow.Info) string { return i.LocalCloseReason }),
		"UPSTREAM_CLUSTER":                        text(func(i *flow.Info) string { return i.UpstreamCluster }),
		"UPSTREAM_CLUSTER_RAW":                    text(func(i *flow.Info) string { return i.UpstreamCluster }),
		"UPSTREAM_TRANSPORT_FAILURE_REASON":       text(func(i *flow.Info) string { return i.UpstreamFailure }),
		"DOWNSTREAM_TRANSPORT_FAILURE_REASON":     text(func(i *flow.Info) string { return i.DownstreamFailure }),
		"REQUESTED_SERVER_NAME":                   text(func(i *flow.Info) string { return i.SNI }),
		"ROUTE_NAME":                              text(func(i *flow.Info) string { return i.Route }),
		"FILTER_CHAIN_NAME":                       text(func(i *flow.Info) string { return i.FilterChain }),
		"LISTENER_NAME":                           text(func(i *flow.Info) string { return i.Listener }),
		"UPSTREAM_PROTOCOL":                       none, "PROTOCOL": none, "RESPONSE_CODE_DETAILS": none, "GRPC_STATUS": none,
		"GRPC_STATUS_NUMBER": none, "VIRTUAL_CLUSTER_NAME": none, "STREAM_ID": none, "TLS_JA3_FINGERPRINT": none,
		"TLS_JA4_FINGERPRINT": none, "UPSTREAM_HOST_NAME": none, "UPSTREAM_HOST_NAME_WITHOUT_PORT": none, "UNIQUE_ID": none,
		"REQUEST_HEADERS_BYTES": none, "RESPONSE_HEADERS_BYTES": none, "RESPONSE_TRAILERS_BYTES": none, "UPSTREAM_CONNECTION_ID": none,
		"HOSTNAME":        fixed(hostname),
		"ACCESS_LOG_TYPE": func(_ *flow.Info, event string) any { return event },
	}
	return ops
}

// ended is when the connection ended, or now.
func ended(i *flow.Info) time.Time {
	if i.End.IsZero() {
		return time.Now()
	}
	return i.End
}

// since is whole milliseconds; nil if one of the times has not come.
func since(a, b time.Time) any {
	if a.IsZero() || b.IsZero() {
		return nil
	}
	return uint64(max(b.Sub(a).Milliseconds(), 0))
}

// addressOperator has X, X_WITHOUT_PORT and X_PORT for each address X.
func addressOperator(name string) (value, bool) {
	base, part := name, 0
	if s, ok := strings.CutSuffix(name, "_WITHOUT_PORT"); ok {
		base, part = s, 1
	} else if s, ok := strings.CutSuffix(name, "_PORT"); ok {
		base, part = s, 2
		if !strings.HasSuffix(base, "_ADDRESS") {
			base += "_ADDRESS"
		}
	}
	get := map[string]func(*flow.Info) flow.Addr{
		"DOWNSTREAM_REMOTE_ADDRESS":        func(i *flow.Info) flow.Addr { return i.Remote },
		"DOWNSTREAM_DIRECT_REMOTE_ADDRESS": func(i *flow.Info) flow.Addr { return i.DirectRemote },
		"DOWNSTREAM_LOCAL_ADDRESS":         func(i *flow.Info) flow.Addr { return i.Local },
		"DOWNSTREAM_DIRECT_LOCAL_ADDRESS":  func(i *flow.Info) flow.Addr { return i.DirectLocal },
		"UPSTREAM_HOST":                    func(i *flow.Info) flow.Addr { return i.UpstreamHost },
		"UPSTREAM_REMOTE_ADDRESS":          func(i *flow.Info) flow.Addr { return i.UpstreamHost },
		"UPSTREAM_LOCAL_ADDRESS":           func(i *flow.Info) flow.Addr { return i.UpstreamLocal },
	}[base]
	if get == nil {
		return nil, false
	}
	return func(i *flow.Info, _ string) any {
		a := get(i)
		switch {
		case part == 1 && a.IsIP():
			return a.Addr().String()
		case part == 2 && a.IsIP():
			return uint64(a.Port())
		case part == 2:
			return nil
		}
		return stringOr(a.String())
	}, true
}

// tlsOperator has the operators of both sides' TLS.
func tlsOperator(name, arg string) (value, bool) {
	side, rest, found := strings.Cut(name, "_")
	if !found || side != "DOWNSTREAM" && side != "UPSTREAM" {
		return nil, false
	}
	state := func(i *flow.Info) *tlsmux.State { return i.Downstream }
	if side == "UPSTREAM" {
		state = func(i *flow.Info) *tlsmux.State { return i.Upstream }
	}
	if f := sessionOperators()[rest]; f != nil {
		return func(i *flow.Info, _ string) any {
			if s := state(i); s != nil {
				return stringOr(f(s))
			}
			return nil
		}, true
	}
	who, what, _ := strings.Cut(rest, "_")
	f := certOperator(what, arg)
	if f == nil || who != "PEER" && who != "LOCAL" {
		return nil, false
	}
	return func(i *flow.Info, _ string) any {
		s := state(i)
		if s == nil {
			return nil
		}
		chain := s.Peer
		if who == "LOCAL" {
			chain = nil
			if s.Local != nil {
				chain = []*x509.Certificate{s.Local}
			}
		}
		if len(chain) == 0 {
			return nil
		}
		return stringOr(f(chain))
	}, true
}

func sessionOperators() map[string]func(*tlsmux.State) string {
	return map[string]func(*tlsmux.State) string{
		"TLS_VERSION":    func(s *tlsmux.State) string { return versionName(s.Version) },
		"TLS_CIPHER":     func(s *tlsmux.State) string { return cipherName(s.CipherSuite) },
		"TLS_SESSION_ID": func(s *tlsmux.State) string { return s.SessionID },
	}
}

// versionName is BoringSSL's.
func versionName(v uint16) string {
	return map[uint16]string{tls.VersionTLS10: "TLSv1", tls.VersionTLS11: "TLSv1.1", tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[v]
}

// cipherName is OpenSSL's: for TLS 1.3 the standard name, before that without
// TLS_ and WITH, and with dashes.
func cipherName(id uint16) string {
	name := tls.CipherSuiteName(id)
	before, after, found := strings.Cut(strings.TrimPrefix(name, "TLS_"), "_WITH_")
	if !found {
		return name
	}
	after = strings.NewReplacer("AES_128_CBC_SHA", "AES128-SHA", "AES_256_CBC_SHA", "AES256-SHA", "AES_128_GCM", "AES128-GCM", "AES_256_GCM", "AES256-GCM", "CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305").Replace(after)
	out := strings.ReplaceAll(before+"-"+after, "_", "-")
	return strings.TrimPrefix(out, "RSA-")
}

// certOperator is what is told of a certificate chain; nil if there is no such
// operator.
func certOperator(what, arg string) func([]*x509.Certificate) string {
	leaf := func(f func(*x509.Certificate) string) func([]*x509.Certificate) string {
		return func(c []*x509.Certificate) string { return f(c[0]) }
	}
	each := func(f func(*x509.Certificate) string) func([]*x509.Certificate) string {
		return func(chain []*x509.Certificate) string {
			var out []string
			for _, c := range chain {
				out = append(out, f(c))
			}
			return strings.Join(out, ",")
		}
	}
	switch what {
	case "SUBJECT":
		return leaf(func(c *x509.Certificate) string { return c.Subject.String() })
	case "ISSUER":
		return leaf(func(c *x509.Certificate) string { return c.Issuer.String() })
	case "SERIAL":
		return leaf(serialText)
	case "CHAIN_SERIALS":
		return each(serialText)
	case "FINGERPRINT_256":
		return leaf(fingerprint256)
	case "CHAIN_FINGERPRINTS_256":
		return each(fingerprint256)
	case "FINGERPRINT_1":
		return leaf(fingerprint1)
	case "CHAIN_FINGERPRINTS_1":
		return each(fingerprint1)
	case "CERT":
		return leaf(func(c *x509.Certificate) string {
			return url.QueryEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
		})
	case "CERT_V_START":
		return leaf(func(c *x509.Certificate) string { return formatTime(c.NotBefore.UTC(), arg) })
	case "CERT_V_END":
		return leaf(func(c *x509.Certificate) string { return formatTime(c.NotAfter.UTC(), arg) })
	case "URI_SAN":
		return leaf(func(c *x509.Certificate) string {
			var out []string
			for _, u := range c.URIs {
				out = append(out, u.String())
			}
			return strings.Join(out, ",")
		})
	case "DNS_SAN":
		return leaf(func(c *x509.Certificate) string { return strings.Join(c.DNSNames, ",") })
	case "EMAIL_SAN":
		return leaf(func(c *x509.Certificate) string { return strings.Join(c.EmailAddresses, ",") })
	case "IP_SAN":
		return leaf(func(c *x509.Certificate) string {
			var out []string
			for _, ip := range c.IPAddresses {
				out = append(out, ip.String())
			}
			return strings.Join(out, ",")
		})
	case "OTHERNAME_SAN":
		return leaf(func(*x509.Certificate) string { return "" })
	}
	return nil
}

// serialText is the serial in hex, whole bytes.
func serialText(c *x509.Certificate) string {
	s := c.SerialNumber.Text(16)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	return s
}

func fingerprint256(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func fingerprint1(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}

func dynamicMetadata(arg string) value {
	path := strings.Split(arg, ":")
	return func(i *flow.Info, _ string) any {
		s := i.DynamicMetadata[path[0]]
		if s == nil {
			return nil
		}
		v := structpb.NewStructValue(s)
		for _, key := range path[1:] {
			if v = v.GetStructValue().GetFields()[key]; v == nil {
				return nil
			}
		}
		if t, ok := v.GetKind().(*structpb.Value_StringValue); ok {
			return t.StringValue
		}
		return v
	}
}

func startTime(layout string) value {
	return func(i *flow.Info, _ string) any { return formatTime(i.Start.UTC(), layout) }
}

func localTime(v value) value {
	_ = v
	return func(i *flow.Info, _ string) any { return formatTime(i.Start.Local(), "") }
}

// formatTime is strftime with Envoy's additions; "" is its default,
// 2006-01-02T15:04:05.000Z.
func formatTime(t time.Time, layout string) string {
	if layout == "" {
		return t.Format("2006-01-02T15:04:05.000Z07:00")
	}
	var b strings.Builder
	for i := 0; i < len(layout); i++ {
		if layout[i] != '%' || i+1 == len(layout) {
			b.WriteByte(layout[i])
			continue
		}
		i++
		i += directive(&b, t, layout[i:])
	}
	return b.String()
}

// directive writes one strftime directive, and returns how many more bytes
// than one it is long.
func directive(b *strings.Builder, t time.Time, d string) int {
	if d[0] >= '1' && d[0] <= '9' && len(d) > 1 && d[1] == 'f' {
		nanos := fmt.Sprintf("%09d", t.Nanosecond())
		b.WriteString(nanos[:int(d[0]-'0')])
		return 1
	}
	if d[0] == 's' {
		b.WriteString(strconv.FormatInt(t.Unix(), 10))
		return 0
	}
	layouts := map[byte]string{
		'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'y': "06", 'e': "_2", 'b': "Jan", 'B': "January",
		'a': "Mon", 'A': "Monday", 'j': "002", 'I': "03", 'p': "PM", 'z': "-0700", 'Z': "MST", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04",
	}
	if l, ok := layouts[d[0]]; ok {
		b.WriteString(t.Format(l))
		return 0
	}
	if d[0] == '%' {
		b.WriteByte('%')
		return 0
	}
	b.WriteByte('%')
	b.WriteByte(d[0])
	return 0
}

// commonDuration is %COMMON_DURATION(START:END:UNIT)%.
func commonDuration(arg string) (value, error) {
	parts := strings.Split(arg, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return nil, fmt.Errorf("%%COMMON_DURATION(%s)%%: wants START:END or START:END:UNIT", arg)
	}
	unit := time.Millisecond
	if len(parts) == 3 {
		u, ok := map[string]time.Duration{"ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}[parts[2]]
		if !ok {
			return nil, fmt.Errorf("%%COMMON_DURATION(%s)%%: the unit is ms, us or ns", arg)
		}
		unit = u
	}
	points := map[string]func(*flow.Info) time.Time{
		"DS_RX_BEG": func(i *flow.Info) time.Time { return i.Start },
		"DS_HS_END": func(i *flow.Info) time.Time { return i.HandshakeDone },
		"US_CX_END": func(i *flow.Info) time.Time { return i.UpstreamConnected },
		"DS_TX_END": func(i *flow.Info) time.Time { return i.End },
	}
	from, to := points[parts[0]], points[parts[1]]
	if from == nil || to == nil {
		return none, nil // a point that a TCP connection does not have
	}
	return func(i *flow.Info, _ string) any {
		a, b := from(i), to(i)
		if a.IsZero() || b.IsZero() {
			return nil
		}
		return uint64(max(b.Sub(a)/unit, 0))
	}, nil
}
