package csr

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// defaultTimeout bounds one request with its connection, where Options say
// nothing. An authority that signs takes milliseconds; one that is starting up
// takes longer than anyone should wait for one try.
const defaultTimeout = 10 * time.Second

// Options say which authority is asked, for what, and how it is believed.
type Options struct {
	// Address is host:port, or unix:path.
	Address string
	// ServerName is the name that the authority's certificate must have (Istio:
	// ISTIOD_SAN); "" is the host of Address.
	ServerName string
	// Trust is how the authority's certificate is judged.
	Trust Trust
	// Plaintext speaks without TLS (Istio's port 15010), to unix sockets and
	// loopback addresses only, for the token would go out readable.
	Plaintext bool
	// AllowPlaintext lifts that limit, where something else protects the way.
	AllowPlaintext bool

	// TokenPath is the file of the JWT that proves who we are; it is read anew
	// for each request. "" sends none, nor does a file that is not there
	// (pilot-agent: the same).
	TokenPath string
	// Certificate is asked before each connection for the certificate that
	// proves who we are, as a VM does once it has its first one. nil, or an
	// answer of nil, presents none.
	Certificate func() (*tls.Certificate, error)

	// ClusterID is sent as the header of that name; "" sends none.
	ClusterID string
	// Headers are sent too (Istio: CA_HEADER_*).
	Headers map[string]string
	// CertSigner is sent as the metadata of that name, "" too (pilot-agent: the
	// same).
	CertSigner string

	// ID is what the certificate must say. If it is zero, any one ID in
	// TrustDomain is taken, or any one ID at all if that is zero too.
	ID          spiffeid.ID
	TrustDomain spiffeid.TrustDomain
	// Lifetime is asked for, in whole seconds; the authority may give less. 0
	// leaves it to the authority.
	Lifetime time.Duration
	// Key is the kind of key that is made for each request; "" is P256.
	Key Key
	// Skew is how far in the future of our clock a certificate's NotBefore may
	// lie. It is 0 by default: Istio's authority dates certificates two minutes
	// back, so one that is not valid yet means that a clock is wrong by more.
	// Where ours is known to be late, Skew accepts what peers with a right
	// clock accept. Nothing is accepted after its NotAfter.
	Skew time.Duration
	// Timeout is for one request with its connection; 0 is 10 s.
	Timeout time.Duration
	// Dial makes the connection to address, which is Address; nil dials it.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Trust is how the authority's own certificate is judged. RootFile, Bundle and
// System add up to one set of roots. Pins narrow what those allow; alone they
// are the roots. At least one must be set.
type Trust struct {
	// RootFile is PEM; it is read anew for each connection.
	RootFile string
	// Bundle is asked for each connection; what it gives is also what a new
	// certificate may chain to, beside the roots that come with it.
	Bundle func() []*x509.Certificate
	// System takes the roots of the operating system.
	System bool
	// Pins are SHA-256 hashes of SubjectPublicKeyInfo. One of the chain, the
	// authority's own certificate or any above it, must have one of these.
	Pins [][sha256.Size]byte
}

func (t Trust) isZero() bool {
	return t.RootFile == "" && t.Bundle == nil && !t.System && len(t.Pins) == 0
}

// complete fills in the defaults and names everything that cannot work.
func (o *Options) complete() error {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Key == "" {
		o.Key = P256
	}
	errs := []error{o.checkWay(), o.Key.check(), checkHeaders(o)}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout %s is negative", o.Timeout))
	}
	if o.Skew < 0 {
		errs = append(errs, fmt.Errorf("skew %s is negative", o.Skew))
	}
	if o.Lifetime < 0 || o.Lifetime%time.Second != 0 {
		errs = append(errs, fmt.Errorf("lifetime %s is not a number of whole seconds", o.Lifetime))
	}
	if !o.ID.IsZero() && o.ID.Path() == "" {
		errs = append(errs, fmt.Errorf("ID %q is a trust domain, not a workload", o.ID))
	}
	if !o.ID.IsZero() && !o.TrustDomain.IsZero() && !o.ID.MemberOf(o.TrustDomain) {
		errs = append(errs, fmt.Errorf("ID %q is not in trust domain %q", o.ID, o.TrustDomain))
	}
	return errors.Join(errs...)
}

// checkWay checks what concerns the connection, and fills in ServerName.
func (o *Options) checkWay() error {
	host, err := hostOf(o.Address)
	if err != nil {
		return err
	}
	if !o.Plaintext {
		return o.checkTLS(host)
	}
	var errs []error
	if !o.AllowPlaintext && host != "" && !isLoopback(host) {
		errs = append(errs, fmt.Errorf("plaintext to %q is refused: it is not a loopback address", o.Address))
	}
	if !o.Trust.isZero() || o.ServerName != "" || o.Certificate != nil {
		errs = append(errs, errors.New("plaintext has no use for trust, a server name or a client certificate"))
	}
	return errors.Join(errs...)
}

func (o *Options) checkTLS(host string) error {
	var errs []error
	if o.ServerName == "" {
		o.ServerName = strings.TrimSuffix(host, ".")
	}
	if o.ServerName == "" {
		errs = append(errs, fmt.Errorf("%q has no host: a server name is needed to know the authority's certificate", o.Address))
	}
	if o.Trust.isZero() {
		errs = append(errs, fmt.Errorf("nothing says how to trust the authority at %q: a root file, a bundle, pins or the system's roots", o.Address))
	}
	return errors.Join(errs...)
}

// hostOf is the host of a host:port; "" of a unix socket.
func hostOf(address string) (string, error) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		if path == "" {
			return "", fmt.Errorf("address %q has no path", address)
		}
		return "", nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("address %q is neither host:port nor unix:path: %w", address, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("address %q: %q is not a port", address, port)
	}
	if host == "" {
		return "", fmt.Errorf("address %q has no host", address)
	}
	return host, nil
}

// isLoopback says that a host is this machine by its name. What the name
// resolves to is checked when it has been dialled.
func isLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") { // RFC 6761, section 6.3
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// checkHeaders refuses what gRPC would not send, or would send twice.
func checkHeaders(o *Options) error {
	var errs []error
	if at := unfit(o.ClusterID); at >= 0 {
		errs = append(errs, fmt.Errorf("cluster ID %q: byte %d cannot be in a header", o.ClusterID, at))
	}
	for name, value := range o.Headers {
		switch lower := strings.ToLower(name); {
		case !isHeaderName(lower):
			errs = append(errs, fmt.Errorf("header %q: it is not a header's name", name))
		case strings.HasPrefix(lower, "grpc-"), lower == "content-type", lower == "user-agent", lower == "te", strings.HasSuffix(lower, "-bin"):
			errs = append(errs, fmt.Errorf("header %q belongs to gRPC", name))
		case lower == authorization && o.TokenPath != "":
			errs = append(errs, fmt.Errorf("header %q: the token of %s is sent in it", name, o.TokenPath))
		case lower == clusterID && o.ClusterID != "":
			errs = append(errs, fmt.Errorf("header %q: the cluster ID %q is sent in it", name, o.ClusterID))
		case unfit(value) >= 0: // the value may be a secret
			errs = append(errs, fmt.Errorf("header %q: byte %d of its value cannot be in a header", name, unfit(value)))
		}
	}
	return errors.Join(errs...)
}

// isHeaderName says that gRPC takes name as a key: RFC 9110's lower-case
// letters and digits, and "-_.".
func isHeaderName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// unfit is where the first byte is that is no printable ASCII, -1 if all are.
func unfit(value string) int {
	return strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}
