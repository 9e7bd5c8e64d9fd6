package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// tlsSupport are transport sockets and secrets.
var tlsSupport = map[protoreflect.FullName]fields{
	"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": {},
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": {
		works: "common_tls_context require_client_certificate require_sni session_ticket_keys session_ticket_keys_sds_secret_config " +
			"disable_stateless_session_resumption session_timeout ocsp_staple_policy prefer_client_ciphers full_scan_certs_on_sni_mismatch",
		ignored: map[string]string{
			"disable_stateful_session_resumption": "sessions are only resumed by tickets",
		},
	},
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": {
		works: "common_tls_context sni auto_host_sni auto_sni_san_validation max_session_keys allow_renegotiation",
		ignored: map[string]string{
			"enforce_rsa_key_usage": "is deprecated and without effect in Envoy too",
		},
	},
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": {
		works: "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context " +
			"validation_context_sds_secret_config combined_validation_context alpn_protocols key_log",
	},
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": {
		works: "default_validation_context validation_context_sds_secret_config",
	},
	"envoy.extensions.transport_sockets.tls.v3.TlsParameters": {
		works: "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves",
		refused: map[string]string{
			"signature_algorithms": "crypto/tls chooses them itself",
			"compliance_policies":  "set the versions, suites and curves themselves",
		},
	},
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate": {
		works: "certificate_chain private_key watched_directory",
		refused: map[string]string{
			"pkcs12":               "use certificate_chain and private_key",
			"password":             "encrypted keys are not implemented",
			"private_key_provider": "keys are used by crypto/tls itself",
			"ocsp_staple":          "OCSP is not implemented",
		},
	},
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext": {
		works: "trusted_ca watched_directory verify_certificate_spki verify_certificate_hash match_typed_subject_alt_names " +
			"match_subject_alt_names crl allow_expired_certificate trust_chain_verification custom_validator_config " +
			"only_verify_leaf_cert_crl max_verify_depth",
		ignored: map[string]string{
			"suppress_client_ca_list": "the list of CAs is a hint to the client, and none is checked by it",
		},
		refused: map[string]string{
			"system_root_certs": "name the file in trusted_ca",
		},
		unlessFalse: "require_signed_certificate_timestamp",
	},
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":                 {works: "san_type matcher"},
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig":                       {works: "name sds_config"},
	"envoy.extensions.transport_sockets.tls.v3.Secret":                                {works: "name tls_certificate session_ticket_keys validation_context"},
	"envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys":                  {works: "keys"},
	"envoy.extensions.transport_sockets.tls.v3.TlsKeyLog":                             {works: "path"},
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig":             {works: "trust_domains trust_bundles"},
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain": {works: "name trust_bundle"},
}
