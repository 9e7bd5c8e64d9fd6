package config

import "slices"

// TLV is envoy.config.core.v3.TlvEntry: a type, and either a value or the text
// that makes one of a connection, in the language of access logs.
type TLV struct {
	Type   byte
	Value  []byte
	Format string // "": Value is meant
	// OmitEmpty leaves out what a Format does not find; else it is "-".
	OmitEmpty bool
}

// TLVPass is ProxyProtocolPassThroughTLVs: which TLVs go on. The nil TLVPass
// lets none.
type TLVPass struct {
	All   bool
	Types []byte
}

// Has reports whether a TLV of that type goes on.
func (p *TLVPass) Has(kind byte) bool {
	return p != nil && (p.All || slices.Contains(p.Types, kind))
}

// TLVMerge is ProxyProtocolTlvMergePolicy: what becomes of the TLVs of a
// tcp_proxy where the client's PROXY header had some.
type TLVMerge int

const (
	AddIfAbsent TLVMerge = iota
	OverwriteByType
	AppendTLVs
)

// UpstreamProxyProtocol is ProxyProtocolUpstreamTransport without what it
// wraps.
type UpstreamProxyProtocol struct {
	V2    bool
	Pass  *TLVPass // pass_through_tlvs; nil: none
	Added []TLV
	// Peer adds who the client is: the cluster's
	// metadata.filter_metadata["outrider"].proxy_protocol_peer.
	Peer bool
}

// The types of TLVs that Peer adds.
const (
	// TLVTypeSSL is PP2_TYPE_SSL; source: the PROXY protocol's specification,
	// section 2.2.6.
	TLVTypeSSL = 0x20
	// TLVTypeSPIFFE is ours, of the range for applications (0xE0 to 0xEF): the
	// SPIFFE ID of the client, of a certificate that was verified.
	TLVTypeSPIFFE = 0xE5
)
