package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/ca/istioca"
)

// newCACommand is the authority: without a further command it serves.
func newCACommand() *cobra.Command {
	c := newCAServeCommand()
	c.Use = "ca --state DIR"
	c.Short = "An authority that speaks istiod's IstioCertificateService; keeps its state in a directory"
	c.AddCommand(newCAServeCommand(), newCATokenCommand(), newCAIssueCommand(), newCARotateCommand(),
		newCAStatusCommand(), newCARootCommand())
	for _, sub := range c.Commands() {
		sub.Args = noArgs
	}
	return c
}

// caState is the flag that every command has.
type caState struct{ path string }

func (s *caState) register(c *cobra.Command) {
	c.Flags().StringVar(&s.path, "state", "", "the state directory: keys, roots, what was issued")
}

func (s *caState) check() error {
	if s.path == "" {
		return &usageError{errors.New("--state is needed: the directory with the authority's keys")}
	}
	return nil
}

// open opens the authority that must be there.
func (s *caState) open() (*istioca.Authority, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return istioca.OpenExisting(s.path)
}

// caRoot are the flags of an authority to come, from outside or made.
type caRoot struct {
	files istioca.GivenFiles
	ttl   time.Duration
	key   string
}

func (g *caRoot) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&g.files.CACert, "ca-cert", "", "a given authority's certificate (Istio's ca-cert.pem); none makes a root")
	fs.StringVar(&g.files.CAKey, "ca-key", "", "its private key (ca-key.pem)")
	fs.StringVar(&g.files.CertChain, "cert-chain", "", "the intermediates above it (cert-chain.pem)")
	fs.StringVar(&g.files.RootCert, "root-cert", "", "the root that it leads to (root-cert.pem)")
	fs.DurationVar(&g.ttl, "root-ttl", istioca.DefaultRootTTL, "life of a root that is made")
	fs.StringVar(&g.key, "root-key", string(istioca.P256), "key of a root that is made: P256, P384, RSA2048, RSA4096")
}

func (g *caRoot) load() (istioca.Root, error) {
	r := istioca.Root{TTL: g.ttl, Key: istioca.KeyKind(g.key)}
	if g.ttl <= 0 {
		return r, &usageError{fmt.Errorf("--root-ttl %s: it must be positive", g.ttl)}
	}
	if g.files == (istioca.GivenFiles{}) {
		return r, nil
	}
	var err error
	r.Given, err = g.files.Load()
	return r, err
}

// caIdentity are the flags that name a workload.
type caIdentity struct{ id, namespace, account string }

func (i *caIdentity) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&i.id, "id", "", "SPIFFE ID, in place of --namespace and --service-account")
	fs.StringVar(&i.namespace, "namespace", "", "the workload's namespace")
	fs.StringVar(&i.account, "service-account", "", "the workload's service account")
}

func (i *caIdentity) parse(td spiffeid.TrustDomain) (spiffeid.ID, error) {
	var id spiffeid.ID
	var err error
	switch {
	case i.id != "" && i.namespace+i.account != "":
		err = errors.New("--id stands for --namespace and --service-account: not both")
	case i.id != "":
		if id, err = spiffeid.FromString(i.id); err != nil {
			err = fmt.Errorf("--id %q: %w", i.id, err)
		}
	case i.namespace == "" || i.account == "":
		err = errors.New("either --id, or --namespace and --service-account are needed")
	default:
		if id, err = spiffeid.FromSegments(td, "ns", i.namespace, "sa", i.account); err != nil {
			err = fmt.Errorf("--namespace %q, --service-account %q: %w", i.namespace, i.account, err)
		}
	}
	if err != nil {
		return id, &usageError{err}
	}
	return id, nil
}

func newCATokenCommand() *cobra.Command {
	var state caState
	var who caIdentity
	var ttl time.Duration
	var audience, out string
	c := &cobra.Command{
		Use:   "token --state DIR --namespace NS --service-account SA",
		Short: "Make a token with which a workload may ask for its first certificate",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := state.open()
			if err != nil {
				return err
			}
			id, err := who.parse(a.TrustDomain())
			if err != nil {
				return err
			}
			token, err := a.Token(id, audience, ttl)
			if err != nil {
				return err
			}
			if out != "" {
				return istioca.WriteSecret(out, []byte(token))
			}
			fmt.Fprintln(c.OutOrStdout(), token)
			return nil
		},
	}
	state.register(c)
	who.register(c)
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token may be used")
	c.Flags().StringVar(&audience, "audience", istioca.DefaultAudience, "one of the server's --jwt-audience")
	c.Flags().StringVar(&out, "out", "", "file to write it to (0600), in place of standard output")
	return c
}

func newCAIssueCommand() *cobra.Command {
	var state caState
	var who caIdentity
	var ttl time.Duration
	var out string
	c := &cobra.Command{
		Use:   "issue --state DIR --namespace NS --service-account SA --out DIR",
		Short: "Write key.pem, cert-chain.pem and root-cert.pem for a virtual machine",
		RunE: func(c *cobra.Command, _ []string) error {
			if out == "" {
				return &usageError{errors.New("--out is needed: the directory to write to")}
			}
			a, err := state.open()
			if err != nil {
				return err
			}
			id, err := who.parse(a.TrustDomain())
			if err != nil {
				return err
			}
			issued, err := a.IssueFiles(out, id, ttl)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: serial %x, valid until %s\n", id, issued.Cert.SerialNumber, stamp(issued.Cert.NotAfter))
			if issued.Shortened {
				fmt.Fprintf(c.OutOrStdout(), "--ttl %s is shortened: the authority ends then\n", ttl)
			}
			return nil
		},
	}
	state.register(c)
	who.register(c)
	c.Flags().DurationVar(&ttl, "ttl", istioca.DefaultTTL, "life of the certificate")
	c.Flags().StringVar(&out, "out", "", "directory to write to")
	return c
}

func newCARotateCommand() *cobra.Command {
	var state caState
	var root caRoot
	var overlap time.Duration
	c := &cobra.Command{
		Use:   "rotate-root --state DIR",
		Short: "Change the root with no failed handshake: both roots, then the new one signs, then the old one goes",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := state.open()
			if err != nil {
				return err
			}
			fresh, err := root.load()
			if err != nil {
				return err
			}
			if _, err := a.RotateRoot(fresh, overlap); err != nil {
				return err
			}
			return printStatus(a, c.OutOrStdout())
		},
	}
	state.register(c)
	root.register(c)
	c.Flags().DurationVar(&overlap, "overlap", istioca.DefaultOverlap, "least time that both roots are given out before the new one signs")
	return c
}

func newCARootCommand() *cobra.Command {
	var state caState
	var pin bool
	c := &cobra.Command{
		Use:   "root --state DIR",
		Short: "Print the roots that are trusted now, in PEM",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := state.open()
			if err != nil {
				return err
			}
			roots, err := a.Roots()
			if err != nil {
				return err
			}
			if !pin {
				_, err := io.WriteString(c.OutOrStdout(), istioca.PEM(roots))
				return err
			}
			for _, r := range roots {
				fmt.Fprintln(c.OutOrStdout(), istioca.Pin(r))
			}
			return nil
		},
	}
	state.register(c)
	c.Flags().BoolVar(&pin, "pin", false, "print the SHA-256 of each root's public key in hex instead, for --ca-pin")
	return c
}

func newCAStatusCommand() *cobra.Command {
	var state caState
	c := &cobra.Command{
		Use:   "status --state DIR",
		Short: "Show who signs, what is trusted, and how far a rotation has come",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := state.open()
			if err != nil {
				return err
			}
			return printStatus(a, c.OutOrStdout())
		},
	}
	state.register(c)
	return c
}

func printStatus(a *istioca.Authority, w io.Writer) error {
	s, err := a.Status()
	if err != nil {
		return err
	}
	in := func(t time.Time) string { return fmt.Sprintf("%s (in %s)", stamp(t), t.Sub(s.Now).Round(time.Second)) }
	fmt.Fprintf(w, "trust domain:  %s\nphase:         %s\n", s.TrustDomain, s.Plan.Phase)
	if s.Rotation != nil {
		fmt.Fprintf(w, "began:         %s\n", stamp(s.Rotation.Began))
	}
	switch s.Plan.Phase {
	case istioca.Introducing:
		fmt.Fprintf(w, "next:          the new authority signs from %s\n", in(s.Plan.Until))
		fmt.Fprintf(w, "then:          the old root goes when the last certificate below it has expired, now %s\n", in(s.Issuers[0].IssuedUntil))
	case istioca.Retiring:
		fmt.Fprintf(w, "next:          the old root goes at %s\n", in(s.Plan.Until))
	}
	for _, i := range s.Issuers {
		role := "waits to sign"
		switch {
		case i.ID() == s.Plan.Signer.ID():
			role = "signs"
		case s.Plan.Phase == istioca.Retiring:
			role = "signs no more"
		}
		fmt.Fprintf(w, "\nauthority %s: %s\n  subject:     %s\n  ends:        %s\n", i.ID(), role, i.Cert().Subject, in(i.Ends()))
		if !i.IssuedUntil.IsZero() {
			fmt.Fprintf(w, "  issued until %s\n", in(i.IssuedUntil))
		}
		for _, r := range i.Roots() {
			fmt.Fprintf(w, "  root:        %s, until %s, pin %s\n", r.Subject, stamp(r.NotAfter), istioca.Pin(r))
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
