package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// canonical is a rule's line in a form in which the lines of all versions of
// iptables-save agree. They differ in the order of options, in what is named
// without need (-m tcp, --on-ip 0.0.0.0, a mask of all bits), in quotes, and in
// how numbers are written.
func canonical(rule string) string {
	words := strings.Fields(rule)
	var out []string
	not := ""
	for i := 0; i < len(words); i++ {
		option := words[i]
		if option == "!" {
			not = "! "
			continue
		}
		var values []string
		for i+1 < len(words) && words[i+1] != "!" && !isOption(words[i+1]) {
			i++
			values = append(values, strings.Trim(words[i], `"`))
		}
		if o := canonicalOption(option, values); o != "" {
			out = append(out, not+o)
		}
		not = ""
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// isOption: no value of ours begins with a dash.
func isOption(word string) bool { return strings.HasPrefix(word, "-") }

func canonicalOption(option string, values []string) string {
	value := strings.Join(values, " ")
	switch option {
	case "-m":
		return "" // the options that follow say it
	case "--on-ip":
		if value == "0.0.0.0" || value == "::" {
			return ""
		}
	case "--nfmask", "--ctmask":
		if value == "0xffffffff" {
			return ""
		}
	case "--mark", "--set-mark", "--set-xmark", "--tproxy-mark":
		option, value = strings.Replace(option, "--set-mark", "--set-xmark", 1), canonicalMark(value)
	case "--to-port":
		option = "--to-ports"
	case "--ctstate", "--dports":
		list := strings.Split(value, ",")
		slices.Sort(list)
		value = strings.Join(list, ",")
	case "-s", "-d":
		if p, err := netip.ParsePrefix(value); err == nil && p.IsSingleIP() {
			value = p.Addr().String()
		}
	}
	return option + " " + value
}

// canonicalMark is a mark in decimal, without a mask of all bits.
func canonicalMark(value string) string {
	mark, mask, _ := strings.Cut(value, "/")
	n, err := strconv.ParseUint(mark, 0, 32)
	if err != nil {
		return value
	}
	if m, err := strconv.ParseUint(mask, 0, 32); mask == "" || err == nil && m == 0xffffffff {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d/%s", n, mask)
}
