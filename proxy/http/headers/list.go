package headers

import (
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// Empty reports whether there are none.
func (l Matchers) Empty() bool { return len(l) == 0 }

// Any reports whether one of them matches; without any, never.
func (l Matchers) Any(h *message.Head) bool {
	for i := range l {
		if l[i].Match(h) {
			return true
		}
	}
	return false
}

// Why is the first that does not match, with the value that there is; "" if
// all match.
func (l Matchers) Why(h *message.Head) string {
	for i := range l {
		if l[i].Match(h) {
			continue
		}
		value, there := h.Get(l[i].c.Name)
		if !there {
			return fmt.Sprintf("%s: it is not there", l[i])
		}
		return fmt.Sprintf("%s: it is %q", l[i], value)
	}
	return ""
}

// WithPresent is the list and one more, which asks for a field of that name,
// in lower case. The list itself stays as it is.
func (l Matchers) WithPresent(name string) Matchers {
	out := make(Matchers, 0, len(l)+1)
	return append(append(out, l...), Matcher{config.HeaderMatcher{Name: name}})
}
