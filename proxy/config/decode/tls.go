package decode

import (
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"outrider/certs"
	"outrider/tlsmux"
)

const defaultMaxSessionKeys = 1 // UpstreamTlsContext.max_session_keys (tls.proto)

func (d *decoder) serverTLS(c *tlsv3.DownstreamTlsContext, place at) *tlsmux.ServerConfig {
	out := &tlsmux.ServerConfig{
		RequireClientCertificate: c.GetRequireClientCertificate().GetValue(),
		RequireSNI:               c.GetRequireSni().GetValue(),
		FullScanCertificates:     c.GetFullScanCertsOnSniMismatch().GetValue(),
		DisableTickets:           c.GetDisableStatelessSessionResumption(),
		PreferClientCiphers:      c.GetPreferClientCiphers(),
		SessionTimeout:           duration(c.GetSessionTimeout(), 0, place.in("session_timeout")),
	}
	if p := c.GetOcspStaplePolicy(); p != tlsv3.DownstreamTlsContext_LENIENT_STAPLING {
		place.in("ocsp_staple_policy").bad("%s is not supported by outrider", p)
	}
	switch v := c.GetSessionTicketKeysType().(type) {
	case *tlsv3.DownstreamTlsContext_SessionTicketKeys:
		in := place.in("session_ticket_keys")
		out.TicketKeys = &certs.Ref{Inline: d.content(v.SessionTicketKeys, func(s *certs.Secret) { s.TicketKeys = d.ticketKeys(v.SessionTicketKeys, in) })}
	case *tlsv3.DownstreamTlsContext_SessionTicketKeysSdsSecretConfig:
		out.TicketKeys = d.secretRef(v.SessionTicketKeysSdsSecretConfig, sessionTicketKeys, place.in("session_ticket_keys_sds_secret_config"))
	}
	common := c.GetCommonTlsContext()
	in := place.in("common_tls_context")
	out.CommonConfig = d.commonTLS(common, in)
	if len(common.GetTlsCertificates())+len(common.GetTlsCertificateSdsSecretConfigs()) == 0 {
		in.bad("has no certificate: a server needs tls_certificates or tls_certificate_sds_secret_configs")
	}
	if out.RequireClientCertificate && out.Validation == nil && out.ValidationRef == nil {
		d.warn(place.in("require_client_certificate"), "without a validation context refuses every client: there is nothing to verify its certificate with")
	}
	return out
}

func (d *decoder) clientTLS(c *tlsv3.UpstreamTlsContext, place at) *tlsmux.ClientConfig {
	out := &tlsmux.ClientConfig{
		SNI:                  c.GetSni(),
		AutoHostSNI:          c.GetAutoHostSni(),
		AutoSNISANValidation: c.GetAutoSniSanValidation(),
		MaxSessionKeys:       u32(c.GetMaxSessionKeys(), defaultMaxSessionKeys),
	}
	if c.GetAllowRenegotiation() {
		place.in("allow_renegotiation").bad("is not supported by outrider")
	}
	common := c.GetCommonTlsContext()
	in := place.in("common_tls_context")
	out.CommonConfig = d.commonTLS(common, in)
	if n := len(out.Certificates); n > 1 {
		in.bad("has %d certificates: a client has one", n)
	}
	if out.AutoSNISANValidation && !trusts(out.CommonConfig) {
		place.in("auto_sni_san_validation").bad("needs a validation context with trusted_ca: without one no name is verified")
	}
	return out
}

// trusts reports whether there are roots, or may be by SDS.
func trusts(c tlsmux.CommonConfig) bool {
	return c.ValidationRef != nil || c.Validation != nil && (len(c.Validation.Roots) > 0 || c.Validation.TrustDomains != nil)
}

func (d *decoder) commonTLS(c *tlsv3.CommonTlsContext, place at) tlsmux.CommonConfig {
	var out tlsmux.CommonConfig
	d.tlsParams(c.GetTlsParams(), &out, place.in("tls_params"))
	for i, p := range c.GetAlpnProtocols() {
		if p == "" || len(p) > 255 { // RFC 7301, section 3.1
			place.item("alpn_protocols", i).bad("%q is not a protocol name: it has 1 to 255 bytes", shorten(p))
		}
		out.ALPN = append(out.ALPN, p)
	}
	for i, cert := range c.GetTlsCertificates() {
		in := place.item("tls_certificates", i)
		s := d.content(cert, func(s *certs.Secret) { s.KeyPair = d.keyPair(cert, in) })
		out.Certificates = append(out.Certificates, certs.Ref{Inline: s})
	}
	for i, s := range c.GetTlsCertificateSdsSecretConfigs() {
		out.Certificates = append(out.Certificates, *d.secretRef(s, tlsCertificate, place.item("tls_certificate_sds_secret_configs", i)))
	}
	if len(c.GetTlsCertificates()) > 0 && len(c.GetTlsCertificateSdsSecretConfigs()) > 0 {
		place.in("tls_certificate_sds_secret_configs").bad("cannot be set together with tls_certificates")
	}
	d.validationContext(c, &out, place)
	out.KeyLogPath = c.GetKeyLog().GetPath()
	return out
}

func (d *decoder) validationContext(c *tlsv3.CommonTlsContext, out *tlsmux.CommonConfig, place at) {
	switch v := c.GetValidationContextType().(type) {
	case *tlsv3.CommonTlsContext_ValidationContext:
		in := place.in("validation_context")
		out.Validation = d.validation(v.ValidationContext, in)
		d.demandRoots(out.Validation, in)
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		out.ValidationRef = d.secretRef(v.ValidationContextSdsSecretConfig, validationContext, place.in("validation_context_sds_secret_config"))
		d.demandMergedRoots(nil, out.ValidationRef, place.in("validation_context_sds_secret_config"))
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		in := place.in("combined_validation_context")
		out.Validation = d.validation(v.CombinedValidationContext.GetDefaultValidationContext(), in.in("default_validation_context"))
		out.ValidationRef = d.secretRef(v.CombinedValidationContext.GetValidationContextSdsSecretConfig(), validationContext, in.in("validation_context_sds_secret_config"))
		d.demandMergedRoots(out.Validation, out.ValidationRef, in)
	}
}

// demandMergedRoots is demandRoots for a context with a static secret over it.
// What comes by SDS is merged, and judged, when it is there.
func (d *decoder) demandMergedRoots(v *certs.Validation, ref *certs.Ref, place at) {
	if ref.Source != nil {
		return
	}
	if s := d.static(ref.Name); s != nil && s.Validation != nil {
		d.demandRoots(v.Merge(s.Validation), place)
	}
}

// demandRoots refuses names that are checked in certificates that are not
// (Envoy: "SAN-based verification of peer certificates without trusted CA is
// insecure and not allowed").
func (d *decoder) demandRoots(v *certs.Validation, place at) {
	if len(v.SANs) > 0 && len(v.Roots) == 0 && v.TrustDomains == nil {
		place.bad("matches subject alternative names without trusted_ca: names in a certificate that is not verified prove nothing")
	}
	if len(v.CRLs) > 0 && len(v.Roots) == 0 && v.TrustDomains == nil {
		place.in("crl").bad("needs trusted_ca")
	}
}

// secretKind is what a secret must hold where it is used, by its field's name.
type secretKind string

const (
	tlsCertificate    secretKind = "tls_certificate"
	validationContext secretKind = "validation_context"
	sessionTicketKeys secretKind = "session_ticket_keys"
)

// secretRef is a secret by name.
func (d *decoder) secretRef(s *tlsv3.SdsSecretConfig, kind secretKind, place at) *certs.Ref {
	out := &certs.Ref{Name: s.GetName()}
	if s.GetSdsConfig() != nil {
		out.Source = d.source(s.GetSdsConfig(), place.in("sds_config"))
		if out.Source.Rate != nil {
			place.in("sds_config").in("api_config_source").in("rate_limit_settings").bad("is not supported by outrider for secrets: each stream asks for one, and answers what it is sent")
		}
		return out
	}
	d.refer(toSecret, out.Name, place.in("name"))
	if secret := d.static(out.Name); secret != nil && kindOf(secret) != kind {
		place.in("name").bad("%q is a secret with %s, not with %s", out.Name, kindOf(secret), kind)
	}
	return out
}

// static is the static secret of that name, nil if there is none.
func (d *decoder) static(name string) *certs.Secret {
	if s := d.statics[name]; s != nil || d.opts.Static == nil {
		return s
	}
	for _, s := range d.opts.Static.Secrets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func kindOf(s *certs.Secret) secretKind {
	switch s.Source.(*tlsv3.Secret).GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		return tlsCertificate
	case *tlsv3.Secret_ValidationContext:
		return validationContext
	default:
		return sessionTicketKeys
	}
}
