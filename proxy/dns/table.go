package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	wire "github.com/miekg/dns"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// TypeURL is the type of Istio's table of names (pkg/dns/proto/nds.proto).
const TypeURL = "type.googleapis.com/istio.networking.nds.v1.NameTable"

// kubernetes is the registry whose names have short forms.
const kubernetes = "Kubernetes"

// Table is istiod's table of names. It does not change.
type Table struct {
	entries []Entry // by host
	ignored []string
}

// Entry is what the table says of one host.
type Entry struct {
	Host string `json:"host"` // as it was sent: no dot at the end; may begin with "*."
	// Addresses are of both families, in the order in which they were sent.
	Addresses []netip.Addr `json:"ips"`
	Registry  string       `json:"registry"`
	Shortname string       `json:"shortname,omitempty"`
	Namespace string       `json:"namespace,omitempty"`
	AltHosts  []string     `json:"alt_hosts,omitempty"`
}

// Entries are the hosts of the table, sorted; the caller must not change them.
// A nil table has none.
func (t *Table) Entries() []Entry {
	if t == nil {
		return nil
	}
	return t.entries
}

// Ignored says, in a sentence each, what of the table is not used: addresses
// that are none, and hosts that have no name or no address. istiod sends none
// of them.
func (t *Table) Ignored() []string {
	if t == nil {
		return nil
	}
	return t.ignored
}

// ParseTable reads a resource of NDS. Fields that it does not know are left
// out, as other versions of istiod may send them.
func ParseTable(a *anypb.Any) (*Table, error) {
	if a.GetTypeUrl() != TypeURL {
		return nil, fmt.Errorf("a table of names of type %q", a.GetTypeUrl())
	}
	t := &Table{}
	err := fields(a.GetValue(), func(number protowire.Number, value []byte) error {
		if number != 1 {
			return nil
		}
		return t.addPair(value)
	})
	if err != nil {
		return nil, fmt.Errorf("table of names: %w", err)
	}
	slices.SortStableFunc(t.entries, func(a, b Entry) int { return strings.Compare(a.Host, b.Host) })
	return t, nil
}

// addPair reads one pair of the map.
func (t *Table) addPair(pair []byte) error {
	var e Entry
	var info []byte
	err := fields(pair, func(number protowire.Number, value []byte) (err error) {
		switch number {
		case 1:
			e.Host, err = text(value)
		case 2:
			info = append(info, value...) // messages that are sent twice are merged
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := t.readInfo(&e, info); err != nil {
		return fmt.Errorf("%q: %w", e.Host, err)
	}
	switch _, isName := wire.IsDomainName(e.Host); {
	case !isName || e.Host == "" || e.Host == ".":
		t.ignored = append(t.ignored, fmt.Sprintf("%q is no name", e.Host))
	case len(e.Addresses) == 0:
		t.ignored = append(t.ignored, fmt.Sprintf("%q has no address", e.Host))
	default:
		t.entries = append(t.entries, e)
	}
	return nil
}

// readInfo reads a NameInfo.
func (t *Table) readInfo(e *Entry, info []byte) error {
	return fields(info, func(number protowire.Number, value []byte) error {
		if number < 1 || number > 5 {
			return nil
		}
		s, err := text(value)
		if err != nil {
			return err
		}
		switch number {
		case 1:
			a, err := netip.ParseAddr(s)
			if err != nil || a.Zone() != "" {
				t.ignored = append(t.ignored, fmt.Sprintf("%q: address %q is none", e.Host, s))
				return nil
			}
			e.Addresses = append(e.Addresses, a.Unmap())
		case 2:
			e.Registry = s
		case 3:
			e.Shortname = s
		case 4:
			e.Namespace = s
		case 5:
			e.AltHosts = append(e.AltHosts, s)
		}
		return nil
	})
}

// fields calls each for the fields of a message that are bytes, texts or
// messages, which is what all known ones are; the others are passed over.
func fields(b []byte, each func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := each(number, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func text(b []byte) (string, error) {
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%q is not UTF-8", b)
	}
	return string(b), nil
}
