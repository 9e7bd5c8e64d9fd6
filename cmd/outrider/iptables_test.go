package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"outrider/iptables/netnstest"
)

// inHost runs a command line in a host.
func inHost(t *testing.T, h *netnstest.Host, args ...string) (code int, out, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	if err := h.Do(func() error { code = run(t.Context(), append([]string{"iptables"}, args...), &o, &e); return nil }); err != nil {
		t.Fatal(err)
	}
	return code, o.String(), e.String()
}

func TestIptablesInstallsVerifiesMendsAndRemoves(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		netnstest.Missing(t, "the Debian package nftables: "+err.Error())
	}
	h := netnstest.New(t, "pod")
	flags := []string{"-b", "*", "-i", "*", "-m", "TPROXY", "-t", "77", "-r", "1000", "-d", "22"}
	with := func(more ...string) []string { return append(append([]string{}, flags...), more...) }
	steps := []struct {
		name    string
		args    []string
		code    int
		out     string
		prepare []string
	}{
		{"nothing is there", with("--verify"), 1, "differs: there is no table inet outrider", nil},
		{"installed", flags, 0, "", nil},
		{"verified", with("--verify"), 0, "", nil},
		{"installed again", flags, 0, "", nil},
		{"another program's rules are named, and no difference", with("--verify"), 0, "others: nftables, table ip other, chain out, priority -100: 1 rules", []string{"nft", "add table ip other; add chain ip other out { type nat hook output priority -100; }; add rule ip other out tcp dport 1 redirect to :2"}},
		{"a rule is gone", with("--verify"), 1, "differs: chain nat_istio_output lacks rule 1", []string{"nft", "flush", "chain", "inet", "outrider", "nat_istio_output"}},
		{"mended", with("--reconcile"), 0, "mended: chain nat_istio_output lacks rule 1", nil},
		{"nothing to mend", with("--reconcile"), 0, "", nil},
		{"removed, without flags", []string{"--cleanup-only"}, 0, "", nil},
		{"removed again", []string{"--cleanup-only"}, 0, "", nil},
		{"gone", with("--verify"), 1, "IPv4 rule fwmark 77 lookup 1000 is missing", nil},
		{"in the namespace by its path", with("--network-namespace", h.Path()), 0, "", nil},
	}
	for _, s := range steps {
		if s.prepare != nil {
			h.Run(t, s.prepare[0], s.prepare[1:]...)
		}
		code, out, stderr := inHost(t, h, s.args...)
		if code != s.code || !strings.Contains(out, s.out) || s.out == "" && out != "" && !strings.Contains(out, "others:") {
			t.Errorf("%s: exit code %d, want %d; printed %q, want %q in it; %s", s.name, code, s.code, out, s.out, stderr)
		}
	}
	if rules := h.Run(t, "ip", "rule"); !strings.Contains(rules, "fwmark 0x4d lookup 1000") {
		t.Errorf("routing rules: %s", rules)
	}
}

func TestIptablesTriesTheRedirection(t *testing.T) {
	h := netnstest.New(t, "pod")
	args := []string{"-b", "*", "-i", "*", "--run-validation"}
	if code, _, stderr := inHost(t, h, args...); code != 0 || !strings.Contains(stderr, "inbound, IPv6") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	inHost(t, h, "--cleanup-only")
	if code, _, stderr := inHost(t, h, append(args, "--skip-rule-apply", "--probe-timeout", "100ms")...); code != 1 {
		t.Errorf("there is no redirection, exit code %d: %s", code, stderr)
	}
}

func TestIptablesPrintsItsPlanAndDoesNothing(t *testing.T) {
	h := netnstest.New(t, "pod")
	code, out, stderr := inHost(t, h, "-b", "80", "-i", "10.0.0.0/8", "-u", "1234", "-n", "-m", "TPROXY")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"table inet outrider {", "meta skuid 1234 return", "meta skgid 1234 return", "*mangle\n", "# ip6tables-restore", "ip -4 rule add fwmark 1337 lookup 133", "ip -6 addr add ::6/128 dev lo"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan lacks %q", want)
		}
	}
	if code, out, _ := inHost(t, h, "-b", "80", "--verify"); code != 1 {
		t.Errorf("the dry run did something: %s", out)
	}
}

func TestIptablesRefusesMistakesAndSaysAllOfThem(t *testing.T) {
	h := netnstest.New(t, "pod")
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"--nonsense"}, []string{"unknown flag: --nonsense"}},
		{[]string{"extra"}, []string{`unexpected argument "extra"`}},
		{[]string{"-p", "0x"}, []string{`"0x"`}},
		{[]string{"-b", "http", "-x", "*", "-o", "70000", "-m", "NAT"}, []string{`--istio-inbound-ports: "http" is no port`, "--istio-service-exclude-cidr: * is not possible here", `--istio-local-outbound-ports-exclude: "70000" is no port`}},
		{[]string{"-m", "NAT", "-z", "15001"}, []string{`"NAT"`, "are both 15001"}},
		{[]string{"-u", "nobody-of-that-name"}, []string{"--proxy-uid: user: unknown user nobody-of-that-name"}},
		{[]string{"--cni-mode", "--iptables-trace-logging"}, []string{"--cni-mode is refused", "--iptables-trace-logging is refused"}},
		{[]string{"--force-iptables-binary", "bpf"}, []string{"it is legacy or nft"}},
		{[]string{"--native-nftables", "--backend", "iptables"}, []string{"give one"}},
		{[]string{"--verify", "--cleanup-only"}, []string{"--verify, --cleanup-only do not go together"}},
		{[]string{"--dry-run", "--run-validation"}, []string{"--run-validation and --dry-run do not go together"}},
		{[]string{"--capture-all-dns"}, []string{"all DNS is to be captured, but no DNS"}},
		{[]string{"--redirect-dns", "--resolv-conf", "/dev/null"}, []string{"--capture-all-dns takes all"}},
		{[]string{"--ipv6", "maybe"}, []string{"--ipv6"}},
		{[]string{"--proxy-mark", "1338", "-m", "TPROXY"}, []string{"mark 1338"}},
	} {
		code, out, stderr := inHost(t, h, test.args...)
		for _, want := range test.want {
			if code != exitUsage || !strings.Contains(stderr, want) {
				t.Errorf("%q: exit code %d, want %d and %q: %s%s", test.args, code, exitUsage, want, out, stderr)
			}
		}
	}
	if code, _, stderr := inHost(t, h, "--backend", "ebpf"); code != 1 || !strings.Contains(stderr, `backend "ebpf"`) {
		t.Errorf("backend ebpf: exit code %d: %s", code, stderr)
	}
}

func TestIptablesReadsIstiosVariables(t *testing.T) {
	for name, value := range map[string]string{
		"ISTIO_INBOUND_PORTS": "*", "ISTIO_LOCAL_EXCLUDE_PORTS": "22", "ISTIO_SERVICE_CIDR": "10.0.0.0/8", "PROXY_UID": "99",
		"ISTIO_META_DNS_CAPTURE": "true", "CAPTURE_ALL_DNS": "true", "INVALID_DROP": "true", "ISTIO_DUAL_STACK": "true",
		"ISTIO_OUTBOUND_OWNER_GROUPS": "*", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "7,8", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.1/8",
	} {
		t.Setenv(name, value)
	}
	h := netnstest.New(t, "pod")
	code, out, stderr := inHost(t, h, "-n", "-d", "23")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"tcp dport 23 return", "ip daddr 10.0.0.0/8 jump", "meta skuid 99", "meta skgid 99", "redirect to :15053", "ct state invalid", "meta skgid 7 return", "ip daddr 127.0.0.0/8 return"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "dport 22") {
		t.Error("a variable goes before a flag")
	}
}

func TestIptablesLeavesIPv6AloneWhereTheKernelHasNone(t *testing.T) {
	h := netnstest.New(t, "pod")
	if err := h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := inHost(t, h, "-b", "*", "-i", "*", "-m", "TPROXY"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if tables := h.Run(t, "nft", "list", "tables"); strings.TrimSpace(tables) != "table ip outrider" {
		t.Errorf("tables: %s", tables)
	}
	code, _, stderr := inHost(t, h, "-b", "*", "--ipv6", "true")
	if code != 1 || !strings.Contains(stderr, "address ::6/128 on lo: ") || !strings.Contains(stderr, "disable_ipv6") {
		t.Errorf("IPv6 is demanded: exit code %d: %s", code, stderr)
	}
	if tables := h.Run(t, "nft", "list", "tables"); strings.TrimSpace(tables) != "table ip outrider" {
		t.Errorf("after the failure: %s", tables)
	}
}

func TestIptablesNeedsOneRightAndSaysSo(t *testing.T) {
	netnstest.New(t, "none") // or the test cannot run here
	if _, err := exec.LookPath("setpriv"); err != nil {
		netnstest.Missing(t, "setpriv, of the Debian package util-linux: "+err.Error())
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "outrider")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // nobody shall reach it
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.ReplaceAll(`OUTRIDER iptables -b '*' -i '*' -m TPROXY --backend nftables 2>&1; echo "exit code $?"; OUTRIDER iptables -b '*' -i '*' -m TPROXY --verify; echo "verified $?"`, "OUTRIDER", binary)
	nobody := []string{"--reuid", "65534", "--regid", "65534", "--clear-groups"}
	for _, test := range []struct {
		name  string
		flags []string
		want  []string
	}{
		{"root without rights", []string{"--bounding-set", "-all", "--inh-caps", "-all"}, []string{"CAP_NET_ADMIN is needed\nexit code 1\n"}},
		{"root with one", []string{"--bounding-set", "-all,+net_admin", "--inh-caps", "-all"}, []string{"redirection is in place", "exit code 0\n", "verified 0\n"}},
		{"another user with one", append(nobody, "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin"), []string{"redirection is in place", "exit code 0\n", "verified 0\n"}},
	} {
		h := netnstest.New(t, "pod")
		out := h.Run(t, "setpriv", append(test.flags, "sh", "-c", script)...)
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is missing in: %s", test.name, want, out)
			}
		}
	}
}
