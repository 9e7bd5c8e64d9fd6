package main

import (
	"context"
	"strings"
)

// haproxyTemplate is haproxy with one thread. Buffers and the pipes that splice
// plaintext are as large as makes it fastest at moving bytes (they are not held
// by idle connections); for requests they are the defaults, which are faster.
// How many connections there may be it finds from the limit of open files.
const haproxyTemplate = `global
  nbthread 1
  {{- if not .HTTP}}
  tune.bufsize 65536
  tune.pipesize 524288
  {{- end}}
  no log
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-curves X25519
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-options ssl-min-ver TLSv1.3
  tune.ssl.default-dh-param 2048
defaults
  mode {{if .HTTP}}http{{else}}tcp{{end}}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  backlog 4096
  {{- if .HTTP}}
  http-reuse always
  {{- else if not (or .In .Out)}}
  option splice-request
  option splice-response
  {{- end}}
listen bench
  bind {{.Listen}}{{if .In}} ssl crt {{.Both}} ca-file {{.Root}} verify required{{if .HTTP}} alpn h2{{end}}{{end}}{{if and .HTTP2In (not .In)}} proto h2{{end}}
  server next {{.Target}}{{if .Out}} ssl crt {{.Both}} ca-file {{.Root}} verify required sni str(` + serverName + `) verifyhost ` + serverName + `{{if .HTTP}} alpn h2{{end}}{{else if .HTTP2Out}} proto h2{{end}}
`

func haproxyPeer(ctx context.Context) *peer {
	p := &peer{name: "haproxy", about: "the Debian package"}
	p.command = func(p *peer, h hop) ([]string, []string, error) {
		path, err := h.write("haproxy.cfg", haproxyTemplate)
		return []string{p.binary, "-db", "-q", "-f", path}, nil, err
	}
	binary, err := sbin("haproxy")
	if err != nil {
		return p.found("", err)
	}
	if f := strings.Fields(output(ctx, binary, "-v")); len(f) > 2 {
		p.version = f[2]
	}
	return p.found(binary, nil)
}
