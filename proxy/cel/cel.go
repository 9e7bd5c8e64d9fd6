// Package cel evaluates expressions of access logs and telemetry: the part of
// the Common Expression Language (CEL) that chooses among the attributes of a
// request or of a connection, under Envoy's names for them.
//
// There are literals, lists of them, attributes, indexes, has(), the operators
// of CEL, the conversions int, uint, double and string, and the functions size,
// contains, startsWith, endsWith and matches. Macros (all, exists, map, ...),
// maps and messages as literals, and functions of time are refused, and so is an
// attribute that is not known here: in Envoy it would have no value.
package cel

import (
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// Program is a compiled expression. It is safe for concurrent use.
type Program struct{ root node }

// Subject is what an expression is about.
type Subject struct {
	Info *flow.Info
	// Request and Response are the heads; nil where they are not to be seen.
	Request, Response *message.Head
	Node              *config.Node // nil: an empty one
	// Direction is the listener's.
	Direction config.Direction
	// Cluster is a cluster's configuration, nil if there is none of that name. A
	// nil one leaves it to Info, which has the metadata of clusters that a host
	// was chosen of.
	Cluster func(name string) *config.Cluster
}

// maxText bounds an expression, in bytes.
const maxText = 8 << 10

// Compile reads an expression. The error says where it cannot be understood.
// unknown are attributes that the caller has no values of (xds.node): they are
// refused like those that there are not.
func Compile(text string, unknown ...string) (*Program, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("an expression of %d bytes, the limit is %d", len(text), maxText)
	}
	p := &parser{text: text, unknown: unknown}
	root, err := p.whole()
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", text, err)
	}
	return &Program{root}, nil
}

// Text is the value as Envoy prints it; false if there is none: something that
// was asked for is not there.
func (p *Program) Text(s *Subject) (string, bool) {
	v, err := p.root.eval(s)
	if err != nil {
		return "", false
	}
	return text(v), true
}

// True reports whether the value is true: no other value is, and none is not.
func (p *Program) True(s *Subject) bool {
	v, err := p.root.eval(s)
	return err == nil && v == true
}
