package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/agent"
	"outrider/certs/csr"
	"outrider/certs/identity"
	"outrider/certs/sds/sdsserver"
	"outrider/certs/workload"
	"outrider/proxy/sidecar"
)

// agentFlags are how a workload gets its identity. Where Istio's agent reads an
// environment variable, that is the flag's default.
type agentFlags struct {
	source string

	caAddr, caServerName, caRoot string
	caPins                       []string
	caPlaintext                  bool
	tokenPath, provCert          string
	outputCerts                  string
	clusterID                    string
	secretTTL                    time.Duration
	keyType                      string

	workloadAPI         string
	chain, key, roots   string
	defaultID           string
	trustDomain         string
	namespace, account  string
	aliases, federation []string
	perTrustDomain      bool

	socket, socketMode       string
	socketOwner, socketGroup string
	fileDirs                 []string
}

func (f *agentFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.source, "source", "ca", "where certificates come from: ca (by request), workload-api (SPIFFE), files")
	fs.StringVar(&f.caAddr, "ca-addr", env("CA_ADDR", "istiod.istio-system.svc:15012"), "the authority, host:port ($CA_ADDR)")
	fs.StringVar(&f.caServerName, "ca-server-name", env("ISTIOD_SAN", ""), "the name that its certificate has, if it is not the host's ($ISTIOD_SAN)")
	fs.StringVar(&f.caRoot, "ca-root-cert", env("CA_ROOT_CA", "./var/run/secrets/istio/root-cert.pem"), "the file of the authority's root, SYSTEM for this machine's roots ($CA_ROOT_CA)")
	fs.StringArrayVar(&f.caPins, "ca-pin", nil, "the SHA-256 of the authority's root key in hex, in place of the file (outrider ca root --pin); may be repeated, and must be before the authority changes its root")
	fs.BoolVar(&f.caPlaintext, "ca-plaintext", false, "speak to the authority without TLS; to this host only")
	fs.StringVar(&f.tokenPath, "token-path", "./var/run/secrets/tokens/istio-token", "the file of the token that proves who the workload is")
	fs.StringVar(&f.provCert, "prov-cert", env("PROV_CERT", ""), "a directory with cert-chain.pem and key.pem to prove it with instead ($PROV_CERT)")
	fs.StringVar(&f.outputCerts, "output-certs", env("OUTPUT_CERTS", ""), "a directory that keeps the last good certificate, to start with and to renew with ($OUTPUT_CERTS)")
	fs.StringVar(&f.clusterID, "cluster-id", env("ISTIO_META_CLUSTER_ID", ""), "the cluster's name for the authority ($ISTIO_META_CLUSTER_ID)")
	fs.DurationVar(&f.secretTTL, "secret-ttl", envDuration("SECRET_TTL", 24*time.Hour), "the lifetime to ask for ($SECRET_TTL)")
	fs.StringVar(&f.keyType, "key-type", "P256", "the kind of key: P256, P384, RSA2048, RSA3072, RSA4096")
	fs.StringVar(&f.workloadAPI, "workload-api", env("SPIFFE_ENDPOINT_SOCKET", ""), "the address of the Workload API, unix:///path ($SPIFFE_ENDPOINT_SOCKET)")
	fs.StringVar(&f.defaultID, "default-id", "", "which of several SPIFFE IDs is the default; \"\" is the first")
	fs.StringVar(&f.chain, "cert-chain", "./etc/certs/cert-chain.pem", "the certificate's file, for --source files")
	fs.StringVar(&f.key, "key", "./etc/certs/key.pem", "its key's file")
	fs.StringVar(&f.roots, "root-cert", "./etc/certs/root-cert.pem", "the roots' file")
	fs.StringVar(&f.trustDomain, "trust-domain", env("TRUST_DOMAIN", "cluster.local"), "the workload's trust domain ($TRUST_DOMAIN)")
	fs.StringVar(&f.namespace, "namespace", env("POD_NAMESPACE", "default"), "its namespace ($POD_NAMESPACE)")
	fs.StringVar(&f.account, "service-account", env("SERVICE_ACCOUNT", "default"), "its service account ($SERVICE_ACCOUNT)")
	fs.StringArrayVar(&f.aliases, "trust-domain-alias", nil, "ALIAS=DOMAIN: members of ALIAS are verified with DOMAIN's roots; may be repeated")
	fs.StringArrayVar(&f.federation, "federation", nil, "DOMAIN=FILE: the roots of another trust domain, PEM or a SPIFFE bundle; may be repeated")
	fs.BoolVar(&f.perTrustDomain, "per-trust-domain", false, "verify each peer with the roots of its own trust domain, also where only one is known")
	fs.StringVar(&f.socket, "sds-socket", sidecar.SecretSocket, "where SDS is served; \"\" serves none")
	fs.StringVar(&f.socketMode, "sds-socket-mode", "0660", "the socket's mode")
	fs.StringVar(&f.socketOwner, "sds-socket-owner", "", "the socket's owner, a name or a number; \"\" is the agent's own user")
	fs.StringVar(&f.socketGroup, "sds-socket-group", "", "the socket's group, likewise")
	fs.StringArrayVar(&f.fileDirs, "file-secrets-dir", nil, "a directory from which file-cert: and file-root: may be served; any, if none is given")
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func envDuration(name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(name)); err == nil {
		return d
	}
	return otherwise
}

// agent makes the agent of a workload, whose ID is wrong for idErr, if that is
// set. Every mistake is reported.
func (f *agentFlags) agent(id spiffeid.ID, idErr error, log *slog.Logger) (*agent.Agent, error) {
	cfg := agent.Config{Socket: f.socket, Log: log, Files: identity.FileSecretsOptions{Allowed: f.fileDirs, Log: log}}
	mode, err := strconv.ParseUint(f.socketMode, 8, 9)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--sds-socket-mode %q: it is octal", f.socketMode)}
	}
	cfg.SocketAccess = sdsserver.Access{Mode: fs.FileMode(mode), Owner: f.socketOwner, Group: f.socketGroup}
	aliases, aliasErr := f.trustDomainAliases()
	cfg.Identity = identity.Options{TrustDomain: id.TrustDomain(), Aliases: aliases, PerTrustDomain: f.perTrustDomain}
	cfg.Source = func(k *identity.Keeper) (identity.Source, error) { return f.identitySource(id, k, log) }
	federation, federationErr := f.federated(log)
	if federation != nil {
		cfg.Roots = append(cfg.Roots, federation)
	}
	if err := errors.Join(idErr, aliasErr, federationErr); err != nil {
		return nil, &usageError{err}
	}
	return agent.New(cfg)
}

func (f *agentFlags) id() (spiffeid.ID, error) {
	td, err := spiffeid.TrustDomainFromString(f.trustDomain)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("--trust-domain %q: %w", f.trustDomain, err)
	}
	id, err := spiffeid.FromSegments(td, "ns", f.namespace, "sa", f.account)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("--namespace %q, --service-account %q: %w", f.namespace, f.account, err)
	}
	return id, nil
}

func (f *agentFlags) trustDomainAliases() (map[spiffeid.TrustDomain]spiffeid.TrustDomain, error) {
	out := map[spiffeid.TrustDomain]spiffeid.TrustDomain{}
	for _, a := range f.aliases {
		alias, target, _ := strings.Cut(a, "=")
		from, err := spiffeid.TrustDomainFromString(alias)
		to, err2 := spiffeid.TrustDomainFromString(target)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("--trust-domain-alias %q is not ALIAS=DOMAIN: %w", a, err)
		}
		out[from] = to
	}
	return out, nil
}

// federated are the roots of other trust domains, nil if there are none.
func (f *agentFlags) federated(log *slog.Logger) (identity.Source, error) {
	files := map[spiffeid.TrustDomain]string{}
	for _, text := range f.federation {
		domain, path, _ := strings.Cut(text, "=")
		td, err := spiffeid.TrustDomainFromString(domain)
		if err != nil || path == "" {
			return nil, fmt.Errorf("--federation %q is not DOMAIN=FILE: %w", text, errors.Join(err))
		}
		files[td] = path
	}
	if len(files) == 0 {
		return nil, nil
	}
	return identity.NewBundleFiles(files, log), nil
}

// identitySource is what --source names.
func (f *agentFlags) identitySource(id spiffeid.ID, k *identity.Keeper, log *slog.Logger) (identity.Source, error) {
	switch f.source {
	case "ca":
		return f.authority(id, k, log)
	case "workload-api":
		return f.workloadSource(log)
	case "files":
		return identity.NewFiles(identity.FilesOptions{Chain: f.chain, Key: f.key, Roots: f.roots, Log: log}), nil
	}
	return nil, fmt.Errorf("--source %q: it is ca, workload-api or files", f.source)
}

// authority is the source of --source ca.
func (f *agentFlags) authority(id spiffeid.ID, k *identity.Keeper, log *slog.Logger) (identity.Source, error) {
	opts := csr.Options{
		Address: f.caAddr, ServerName: f.caServerName, TokenPath: f.tokenPath, ClusterID: f.clusterID,
		ID: id, Lifetime: f.secretTTL, Key: csr.Key(f.keyType), Plaintext: f.caPlaintext,
	}
	var disk *identity.Disk
	if f.outputCerts != "" {
		disk = &identity.Disk{Dir: f.outputCerts}
	}
	opts.Certificate = f.proof(disk, k)
	if !f.caPlaintext {
		trust, err := f.trust()
		if err != nil {
			return nil, err
		}
		if opts.Trust = trust; len(trust.Pins) == 0 { // pins narrow what is trusted
			opts.Trust.Bundle = func() []*x509.Certificate { return k.Trusted(id.TrustDomain()) } // it rotates its own root, too
		}
	} else {
		opts.Certificate = nil
	}
	client, err := csr.New(opts)
	if err != nil {
		return nil, err
	}
	return identity.NewAuthority(identity.AuthorityOptions{Issuer: client, Name: "ca " + f.caAddr, Disk: disk, Log: log}), nil
}

// proof is the certificate that proves who we are: the one in use, else the
// last good one, or the one that the machine was provided with.
func (f *agentFlags) proof(disk *identity.Disk, k *identity.Keeper) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) {
		if c, err := certificateOf(k.Handle); c != nil || err != nil {
			return c, err
		}
		for _, d := range []*identity.Disk{disk, {Dir: f.provCert}} {
			if d == nil || d.Dir == "" {
				continue
			}
			if c, err := d.Certificate(); c != nil || err != nil {
				return c, err
			}
		}
		return nil, nil
	}
}

// certificateOf is the workload's certificate among secrets, nil before there is
// one that is good.
func certificateOf(secret func(name string) (*certs.Handle, error)) (*tls.Certificate, error) {
	h, err := secret(identity.DefaultName)
	if err != nil {
		return nil, err
	}
	s, err := h.Current()
	if err != nil || s.KeyPair == nil || time.Now().After(s.KeyPair.TLS.Leaf.NotAfter) {
		return nil, nil //nolint:nilerr // there is none yet, and something else may do
	}
	return &s.KeyPair.TLS, nil
}

// trust is how the authority is believed.
func (f *agentFlags) trust() (csr.Trust, error) {
	var t csr.Trust
	for _, text := range f.caPins {
		pin, err := hex.DecodeString(text)
		if err != nil || len(pin) != 32 {
			return t, fmt.Errorf("--ca-pin %q: it is a SHA-256 in hex, 64 digits", text)
		}
		t.Pins = append(t.Pins, [32]byte(pin))
	}
	switch {
	case len(t.Pins) > 0:
	case f.caRoot == "SYSTEM":
		if _, err := x509.SystemCertPool(); err != nil {
			return t, fmt.Errorf("--ca-root-cert SYSTEM: %w", err)
		}
		t.System = true
	default:
		t.RootFile = f.caRoot
	}
	return t, nil
}

// workloadSource is the source of --source workload-api.
func (f *agentFlags) workloadSource(log *slog.Logger) (identity.Source, error) {
	opts := workload.Options{Address: f.workloadAPI, Log: log}
	if f.defaultID != "" {
		id, err := spiffeid.FromString(f.defaultID)
		if err != nil {
			return nil, fmt.Errorf("--default-id %q: %w", f.defaultID, err)
		}
		opts.DefaultID = id
	}
	return workload.New(opts)
}
