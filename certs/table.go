package certs

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Table writes secrets as a table for people, as seen at the time now: a line
// a key pair, a line a root. The error is w's.
func Table(w io.Writer, secrets []SecretStatus, now time.Time) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for i, c := range cells {
			if c == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(out, strings.Join(cells, "\t")) // Flush tells of its failure
	}
	row("SECRET", "STATE", "IDENTITY", "SERIAL", "EXPIRES IN", "ROOT", "NEXT ROTATION", "LAST FAILURE")
	for _, s := range secrets {
		name, next, failure := s.shownName(), until(s.NextRotation, now), s.LastFailure.shown(now)
		switch {
		case s.State == StateWaiting:
			row(name, string(s.State), "", "", "", "", next, s.why(failure))
		case s.Leaf != nil:
			row(name, string(s.State), s.identity(), short(s.Leaf.Serial), left(s.ends(), now), s.Root.named(), next, failure)
		case len(s.Roots) > 0:
			for _, r := range s.Roots {
				row(name, string(s.State), r.TrustDomain, short(r.Serial), left(r.NotAfter, now), r.named(), next, failure)
				name, next, failure = "", "", ""
			}
		default:
			row(name, string(s.State), string(s.Kind), "", "", "", next, failure)
		}
	}
	return out.Flush()
}

func (s *SecretStatus) shownName() string {
	if s.Name == "" {
		return "(" + s.Source + ")"
	}
	return printable(s.Name)
}

// identity is the SPIFFE ID, else the first DNS name, else the subject.
func (s *SecretStatus) identity() string {
	switch {
	case s.SPIFFEID != "":
		return s.SPIFFEID
	case len(s.DNSNames) > 0:
		return printable(s.DNSNames[0])
	}
	return printable(s.Leaf.Subject)
}

// ends is when the first certificate of the chain ends.
func (s *SecretStatus) ends() time.Time {
	if s.CA != nil && s.CA.NotAfter.Before(s.Leaf.NotAfter) {
		return s.CA.NotAfter
	}
	return s.Leaf.NotAfter
}

// why is the last failure, or what else is known of the waiting.
func (s *SecretStatus) why(failure string) string {
	if failure == "" {
		return printable(s.Waiting)
	}
	return failure
}

// named is a root's subject with the beginning of its key identifier, which
// tells two of one name apart.
func (c *Certificate) named() string {
	if c == nil {
		return ""
	}
	return printable(c.Subject) + " " + short(c.KeyID)
}

func (f *Failure) shown(now time.Time) string {
	if f == nil {
		return ""
	}
	over := ""
	if f.Over {
		over = ", over"
	}
	return fmt.Sprintf("%s ago%s: %s: %s", rounded(now.Sub(f.Time)), over, f.Reason, printable(f.Text))
}

// left is how long a certificate is still good.
func left(end, now time.Time) string {
	if now.After(end) {
		return "expired " + rounded(now.Sub(end)) + " ago"
	}
	return rounded(end.Sub(now))
}

// until is when something is planned; "" for never.
func until(when, now time.Time) string {
	switch {
	case when.IsZero():
		return ""
	case when.Before(now):
		return "now"
	}
	return "in " + rounded(when.Sub(now))
}

// rounded is a time as people say it: days and hours, or hours and minutes, or
// less.
func rounded(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// short is the beginning of a long number.
func short(hexadecimal string) string {
	const shown = 16
	if len(hexadecimal) <= shown {
		return hexadecimal
	}
	return hexadecimal[:shown] + "..."
}

// printable keeps a name or an error from making lines or columns of its own.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
