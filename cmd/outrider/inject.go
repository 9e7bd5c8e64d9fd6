package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"outrider/deploy/inject"
)

func newInjectCommand() *cobra.Command {
	var o inject.Options
	var file string
	c := &cobra.Command{
		Use:   "inject",
		Short: "Add the sidecar to Kubernetes manifests: outrider inject -f deployment.yaml | kubectl apply -f -",
		Long: "Reads manifests (YAML or JSON, several documents, Lists) and writes them to stdout with the sidecar and its init container in every pod.\n" +
			"What was done to each is said on stderr. If one of them cannot be injected, nothing is written.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{errors.New("-f FILE is needed, - for stdin")}
			}
			in := c.InOrStdin()
			if file != "-" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return injectManifests(in, c.OutOrStdout(), c.ErrOrStderr(), o)
		},
	}
	fs := c.Flags()
	fs.StringVarP(&file, "filename", "f", "", "the manifests, - for stdin")
	fs.StringVar(&o.Image, "image", "outrider:latest", "the outrider image")
	fs.BoolVar(&o.Native, "native-sidecar", true, "add the sidecar as an init container that stays (Kubernetes 1.29 and later); false: as a container")
	fs.StringVar(&o.CAAddress, "ca-addr", "istiod.istio-system.svc:15012", "the authority that signs the certificates")
	fs.StringVar(&o.Istiod, "istiod", "", "istiod, host:port, which then configures the sidecars (docs/istiod.md); \"\": a short file does")
	fs.StringVar(&o.RootConfigMap, "root-config-map", "istio-ca-root-cert", "the config map, in each pod's namespace, with the authority's root as root-cert.pem")
	fs.StringVar(&o.ConfigMap, "config-map", "", "the config map, in each pod's namespace, with sidecar.yaml; the annotation outrider.dev/config-map goes before it")
	fs.StringVar(&o.TrustDomain, "trust-domain", "cluster.local", "the workloads' trust domain")
	fs.StringVar(&o.ClusterID, "cluster-id", "Kubernetes", "the cluster's name for the authority (Istio: ISTIO_META_CLUSTER_ID)")
	fs.StringArrayVar(&o.IptablesFlags, "iptables-flag", nil, "a further flag for outrider iptables in the init container; may be repeated")
	return c
}

func injectManifests(in io.Reader, out, said io.Writer, o inject.Options) error {
	done, err := inject.Manifests(in, out, o)
	if err != nil {
		return err
	}
	for _, line := range done {
		fmt.Fprintln(said, line)
	}
	return nil
}
