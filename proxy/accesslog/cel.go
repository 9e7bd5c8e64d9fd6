package accesslog

import (
	"fmt"

	"outrider/proxy/cel"
	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// compileCEL compiles an expression. Access logs do not know of which node and
// listener they are.
func compileCEL(text string) (*cel.Program, error) {
	return cel.Compile(text, "xds.node", "xds.listener_direction", "node.id", "node.cluster", "node.metadata", "node.locality")
}

// about is what an expression can see of an entry.
func about(i *flow.Info) *cel.Subject {
	s := &cel.Subject{Info: i}
	if i.HTTP != nil {
		s.Request, s.Response = i.HTTP.Request, i.HTTP.Response
	}
	return s
}

// expressions are those of filters, compiled.
type expressions map[*config.AccessLogFilter]*cel.Program

// add compiles the expressions of f and of those in it.
func (x *expressions) add(f *config.AccessLogFilter) error {
	if f == nil {
		return nil
	}
	for _, list := range [][]*config.AccessLogFilter{f.And, f.Or} {
		for _, one := range list {
			if err := x.add(one); err != nil {
				return err
			}
		}
	}
	if f.Expression == "" {
		return nil
	}
	p, err := compileCEL(f.Expression)
	if err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	if *x == nil {
		*x = expressions{}
	}
	(*x)[f] = p
	return nil
}

// addCEL has the operator CEL(EXPRESSION).
func addCEL(all map[string]spec) {
	all["CEL"] = spec{argument: needsArgument, length: true, make: func(text string) (operator, error) {
		p, err := compileCEL(text)
		if err != nil {
			return operator{}, err
		}
		return operator{text: func(b []byte, e *entry) ([]byte, bool) {
			value, ok := p.Text(about(e.info))
			return append(b, value...), ok
		}}, nil
	}}
}
