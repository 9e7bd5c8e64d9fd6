// Package expression evaluates the expressions of Istio's telemetry: the part of
// the Common Expression Language (CEL) that chooses among the attributes of a
// request or of a connection.
package expression

import (
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// Program is a compiled expression. It is safe for concurrent use.
type Program struct{}

// Subject is what an expression is about.
type Subject struct {
	Info *flow.Info
	// Request and Response are the heads; nil where they are not to be seen.
	Request, Response *message.Head
	Node              *config.Node
	Listener          config.Direction
	Cluster           func(name string) *config.Cluster
}

// Compile reads an expression.
func Compile(text string) (*Program, error) {
	return nil, fmt.Errorf("%q: expressions are not understood", text)
}

// Text is the value as text; false if there is none.
func (p *Program) Text(s *Subject) (string, bool) { return "", false }
