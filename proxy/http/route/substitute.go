package route

import (
	"fmt"
	"regexp"
	"strings"

	"outrider/proxy/config"
)

// substitution replaces all matches of an expression
// (envoy.type.matcher.v3.RegexMatchAndSubstitute).
type substitution struct {
	re    *regexp.Regexp
	parts []substitutePart
}

// substitutePart is a literal, or a group: 0 is the whole match.
type substitutePart struct {
	literal string
	group   int
}

func compileSubstitution(cfg *config.RegexRewrite) (*substitution, error) {
	if cfg == nil {
		return nil, nil
	}
	re, err := regexp.Compile(cfg.Pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", cfg.Pattern, err)
	}
	s := &substitution{re: re}
	for rest := cfg.Substitution; rest != ""; {
		plain, after, found := strings.Cut(rest, `\`)
		if plain != "" {
			s.parts = append(s.parts, substitutePart{plain, -1})
		}
		if !found {
			break
		}
		switch {
		case after != "" && after[0] == '\\':
			s.parts = append(s.parts, substitutePart{`\`, -1})
		case after != "" && '0' <= after[0] && after[0] <= '9' && int(after[0]-'0') <= re.NumSubexp():
			s.parts = append(s.parts, substitutePart{group: int(after[0] - '0')})
		default:
			return nil, fmt.Errorf("substitution %q: a backslash stands before the number of a group of %q, or a backslash", cfg.Substitution, cfg.Pattern)
		}
		rest = after[1:]
	}
	return s, nil
}

// apply is text with all matches replaced; text itself if there is none.
func (s *substitution) apply(text string) string {
	all := s.re.FindAllStringSubmatchIndex(text, -1)
	if all == nil {
		return text
	}
	var b strings.Builder
	end := 0
	for _, m := range all {
		b.WriteString(text[end:m[0]])
		for _, p := range s.parts {
			switch {
			case p.group < 0:
				b.WriteString(p.literal)
			case m[2*p.group] >= 0:
				b.WriteString(text[m[2*p.group]:m[2*p.group+1]])
			}
		}
		end = m[1]
	}
	b.WriteString(text[end:])
	return b.String()
}
