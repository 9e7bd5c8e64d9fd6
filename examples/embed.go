// Package examples holds Envoy bootstraps that run on outrider and on Envoy
// alike. The demo runs them.
package examples

import "embed"

// Files are the bootstraps.
//
//go:embed *.yaml
var Files embed.FS
