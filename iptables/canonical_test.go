package iptables

import "testing"

func TestTheSameRuleAsOtherVersionsPrintItIsNoDrift(t *testing.T) {
	for name, lines := range map[string][2]string{
		"tproxy, old":           {"-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff", "-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006"},
		"connmark":              {"-A OUTPUT -p tcp -m connmark --mark 0x539 -m comment --comment outrider -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", `-A OUTPUT -p tcp -m connmark --mark 1337 -m comment --comment "outrider" -j CONNMARK --restore-mark`},
		"the protocol's module": {"-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j RETURN", "-A ISTIO_INBOUND -p tcp --dport 80 -j RETURN"},
		"the order of states":   {"-A I -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j D", "-A I -p tcp -m conntrack --ctstate ESTABLISHED,RELATED -j D"},
		"the order of options":  {"-A O ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j R", "-A O -o lo ! -d 127.0.0.1 -p tcp -m owner --uid-owner 1337 -j R"},
		"a host":                {"-A O -s ::6/128 -o lo -j RETURN", "-A O -s ::6 -o lo -j RETURN"},
		"set-mark":              {"-A D -j MARK --set-xmark 0x539/0xffffffff", "-A D -j MARK --set-mark 1337"},
		"ports":                 {"-A D -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053", "-A D -p udp --dport 53 -j REDIRECT --to-port 15053"},
		"several ports":         {"-A D -p tcp -m multiport ! --dports 53,15008 -j RETURN", "-A D -p tcp -m multiport ! --dports 15008,53 -j RETURN"},
	} {
		if a, b := canonical(lines[0]), canonical(lines[1]); a != b {
			t.Errorf("%s:\n%s\n%s", name, a, b)
		}
	}
}

func TestAnotherRuleIsADrift(t *testing.T) {
	rule := "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
	for name, other := range map[string]string{
		"without a not":   "-A ISTIO_OUTPUT -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
		"the other not":   "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp --dport 15008 -m owner ! --uid-owner 1337 -j ISTIO_IN_REDIRECT",
		"another user":    "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1338 -j ISTIO_IN_REDIRECT",
		"a range":         "-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
		"one more match":  "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -m mark --mark 0x1 -j ISTIO_IN_REDIRECT",
		"a mask":          "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -m statistic --mode random --probability 0.5 -j ISTIO_IN_REDIRECT",
		"another target":  "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_REDIRECT",
		"another chain":   "-A ISTIO_INBOUND ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
		"another network": "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p udp -m udp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
	} {
		if canonical(rule) == canonical(other) {
			t.Errorf("%s: %s is taken for the plan's", name, other)
		}
	}
	if canonical("-A D -j MARK --set-xmark 0x539/0xffffffff") == canonical("-A D -j MARK --set-xmark 0x539/0xff") {
		t.Error("a mask is not seen")
	}
}
