package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// feedSecret follows a secret in a file: a DiscoveryResponse with secrets, one
// of which has the handle's name.
func (d *discovery) feedSecret(ctx context.Context, h *certs.Handle) {
	source := h.Ref().Source
	last := "nothing yet" // what the last look came to: other files move in the directory too
	changed := func() {
		secret, err := d.readSecret(source.Path, h.Ref().Name)
		seen := fmt.Sprint(err)
		if err == nil {
			seen = secret.Version
		}
		if seen == last {
			return
		}
		last = seen
		h.Attempt()
		unreadable := (*fs.PathError)(nil)
		switch {
		case errors.As(err, &unreadable):
			h.Fail(err)
		case err != nil:
			d.server.log.Error("secret is refused, what was before goes on", "secret", h.Ref().Name, "reason", err)
			h.Reject(err)
		default:
			h.Publish(secret)
		}
	}
	dirs := certs.Dirs(source.Path, source.WatchedDirectory)
	if text, err := os.ReadFile(source.Path); err == nil {
		dirs = append(dirs, d.secretDirs(text, h.Ref().Name)...)
	}
	if err := certs.Watch(ctx, dirs, changed); err != nil {
		h.Fail(err)
	}
}
