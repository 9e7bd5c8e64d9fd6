package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"outrider/proxy/http/pathnorm"
)

// domains finds virtual hosts: by the whole name, by the longest suffix, by the
// longest prefix, or the one for all.
type domains struct {
	exact    map[string]domain
	suffixes wildcards // *.example.com
	prefixes wildcards // example.*
	all      *host     // *; nil: none
}

// domain is a virtual host and the domain that it is found by.
type domain struct {
	host *host
	text string
}

// wildcards are found by one look for each length, so that the cost does not
// grow with their number.
type wildcards struct {
	at      map[string]domain // by the text without the star
	lengths []int             // of those, the longest first
}

// add refuses a domain that is there: Envoy would never ask the second.
func (d *domains) add(text string, h *host) error {
	name := lower(text)
	entry := domain{h, name}
	var ok bool
	switch {
	case name == "*":
		if ok = d.all == nil; ok {
			d.all = h
		}
	case strings.HasPrefix(name, "*"):
		ok = d.suffixes.add(name[1:], entry)
	case strings.HasSuffix(name, "*"):
		ok = d.prefixes.add(name[:len(name)-1], entry)
	default:
		if d.exact == nil {
			d.exact = map[string]domain{}
		}
		if _, there := d.exact[name]; !there {
			d.exact[name], ok = entry, true
		}
	}
	if !ok {
		return fmt.Errorf("domain %q is there twice: only unique values for domains are permitted", text)
	}
	return nil
}

func (w *wildcards) add(text string, entry domain) bool {
	if w.at == nil {
		w.at = map[string]domain{}
	}
	if _, there := w.at[text]; there {
		return false
	}
	w.at[text] = entry
	if i, found := slices.BinarySearchFunc(w.lengths, len(text), func(a, b int) int { return cmp.Compare(b, a) }); !found {
		w.lengths = slices.Insert(w.lengths, i, len(text))
	}
	return true
}

// find is the virtual host of an authority; nil if there is none.
func (d *domains) find(authority string, ignorePort bool, trace *Trace) *host {
	if d.exact == nil && d.suffixes.at == nil && d.prefixes.at == nil {
		return trace.host(authority, d.all, "*")
	}
	name := authority
	if ignorePort {
		if i := pathnorm.PortStart(name); i >= 0 {
			name = name[:i]
		}
	}
	name = lower(name)
	if name == "" {
		return trace.host(name, nil, "")
	}
	if e, ok := d.exact[name]; ok {
		return trace.host(name, e.host, e.text)
	}
	for _, n := range d.suffixes.lengths {
		if n >= len(name) { // *.example.com is not for .example.com
			continue
		}
		if e, ok := d.suffixes.at[name[len(name)-n:]]; ok {
			return trace.host(name, e.host, e.text)
		}
	}
	for _, n := range d.prefixes.lengths {
		if n >= len(name) {
			continue
		}
		if e, ok := d.prefixes.at[name[:n]]; ok {
			return trace.host(name, e.host, e.text)
		}
	}
	return trace.host(name, d.all, "*")
}

// lower is s with the letters of ASCII in lower case; s itself if it is.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j := range b {
				b[j] = lowerByte(b[j])
			}
			return string(b)
		}
	}
	return s
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
