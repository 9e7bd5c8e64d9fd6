package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
)

// nginxTemplate has what nginx's own guides advise: one worker for the core, a
// socket of its own for it (reuseport), upstream connections kept for requests.
// Buffers of streams are of a size that moves bytes faster than the default and
// takes no more memory of idle connections. There is no HTTP/2 to upstreams in
// it.
const nginxTemplate = `
{{- define "in"}}
    ssl_certificate {{.Cert}};
    ssl_certificate_key {{.Key}};
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve X25519;
    ssl_client_certificate {{.Root}};
    ssl_verify_client on;
    ssl_session_cache shared:tls:10m;
{{- end}}
{{- define "out"}}
    proxy_ssl_certificate {{.Cert}};
    proxy_ssl_certificate_key {{.Key}};
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    proxy_ssl_conf_command Groups X25519;
    proxy_ssl_trusted_certificate {{.Root}};
    proxy_ssl_verify on;
    proxy_ssl_server_name on;
    proxy_ssl_name ` + serverName + `;
    proxy_ssl_session_reuse on;
{{- end -}}
{{if not .HTTP}}{{with .Module}}load_module {{.}};{{end}}{{end}}
daemon off;
user root;
worker_processes 1;
pid {{.Dir}}/nginx.pid;
error_log stderr error;
events { worker_connections {{.Files}}; }
{{- if .HTTP}}
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {{.Dir}}/body;
  proxy_temp_path {{.Dir}}/proxy;
  fastcgi_temp_path {{.Dir}}/fastcgi;
  uwsgi_temp_path {{.Dir}}/uwsgi;
  scgi_temp_path {{.Dir}}/scgi;
  upstream next {
    server {{.Target}};
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen {{.Listen}}{{if .In}} ssl{{end}}{{if and .HTTP2In (not .In)}} http2{{end}} reuseport backlog=4096;
    {{- if .In}}{{template "in" .}}{{end}}
    location / {
      proxy_pass {{if .Out}}https{{else}}http{{end}}://next;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      {{- if .Out}}{{template "out" .}}{{end}}
    }
  }
}
{{- else}}
stream {
  server {
    listen {{.Listen}}{{if .In}} ssl{{end}} reuseport backlog=4096;
    {{- if .In}}{{template "in" .}}{{end}}
    {{- if .Out}}
    proxy_ssl on;{{template "out" .}}{{end}}
    proxy_pass {{.Target}};
    proxy_timeout 1h;
    proxy_buffer_size 64k;
  }
}
{{- end}}
`

func nginxPeer(ctx context.Context) *peer {
	p := &peer{name: "nginx", about: "the Debian package, stream module; http for requests, HTTP/1.1 to upstreams (it has no HTTP/2 there)"}
	p.command = func(p *peer, h hop) ([]string, []string, error) {
		path, err := h.write("nginx.conf", nginxTemplate)
		return []string{p.binary, "-c", path, "-p", h.dir, "-e", "stderr"}, nil, err
	}
	p.speaks = func(string) string { return "h1" }
	binary, err := sbin("nginx")
	if err != nil {
		return p.found("", err)
	}
	text := output(ctx, binary, "-V")
	p.version, _, _ = strings.Cut(strings.TrimPrefix(text, "nginx version: nginx/"), "\n")
	if strings.Contains(text, "--with-stream=dynamic") && nginxStream() == "" {
		return p.found("", errors.New("its stream module is not installed (libnginx-mod-stream)"))
	}
	return p.found(binary, nil)
}

// nginxStream is Debian's stream module, "" if it is not there.
func nginxStream() string {
	all, _ := filepath.Glob("/usr/lib/nginx/modules/ngx_stream_module.so")
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// sbin finds a daemon's program, which need not be on the path.
func sbin(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}
