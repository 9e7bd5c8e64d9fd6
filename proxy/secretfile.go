package proxy

import (
	"fmt"
	"path/filepath"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"outrider/certs"
	"outrider/proxy/config/decode"
)

// readSecret is the secret of that name in a file.
func (d *discovery) readSecret(path, name string) (*certs.Secret, error) {
	text, err := readStable(path)
	if err != nil {
		return nil, err
	}
	return d.findSecret(text, name, path)
}

// findSecret is the secret of that name in a discovery response.
func (d *discovery) findSecret(text []byte, name, path string) (*certs.Secret, error) {
	source, version, err := d.namedSecret(text, name)
	if err != nil {
		return nil, err
	}
	out, err := decode.Secret(source, "file "+path, "", d.decoding())
	if err != nil || version == "" {
		return out, err
	}
	out.Version = version + " " + out.Version // as over SDS: the same version with another content is a change
	return out, nil
}

// namedSecret is the secret of that name in a discovery response, and the
// response's version_info.
func (d *discovery) namedSecret(text []byte, name string) (*tlsv3.Secret, string, error) {
	resp, err := decode.Response(text)
	if err != nil {
		return nil, "", err
	}
	for i, packed := range resp.GetResources() {
		s := &tlsv3.Secret{}
		if !packed.MessageIs(s) {
			return nil, "", fmt.Errorf("resources[%d]: %s is no secret", i, packed.GetTypeUrl())
		}
		if err := packed.UnmarshalTo(s); err != nil {
			return nil, "", fmt.Errorf("resources[%d]: %w", i, err)
		}
		if s.GetName() == name {
			return s, resp.GetVersionInfo(), nil
		}
	}
	return nil, "", fmt.Errorf("there is no secret %q in it", name)
}

// secretDirs are the directories of the files that a secret names: a
// certificate that is renewed there is a new version of the secret.
func (d *discovery) secretDirs(text []byte, name string) []string {
	s, _, err := d.namedSecret(text, name)
	if err != nil {
		return nil
	}
	files, watched := decode.SecretFiles(s)
	if watched != "" {
		return []string{watched}
	}
	var out []string
	for _, file := range files {
		out = append(out, filepath.Dir(file))
	}
	return out
}
