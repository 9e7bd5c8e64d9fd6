package istioca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/ca"
)

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got error %v, want one with %q", err, text)
	}
}

func lines(text []byte) [][]byte {
	return bytes.Split(bytes.TrimSpace(text), []byte("\n"))
}

// givenRoot is an authority of somebody else.
type givenRoot struct{ ca *ca.CA }

func newGivenRoot(t *testing.T) *givenRoot {
	t.Helper()
	return &givenRoot{rootFrom(t, "given", time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour))}
}

func rootFrom(t *testing.T, name string, from, to time.Time) *ca.CA {
	t.Helper()
	root, err := ca.NewRoot(pkix.Name{CommonName: name}, testKey(t), from, to)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func (g *givenRoot) intermediate(t *testing.T, name string) *Given {
	t.Helper()
	below := rootFrom(t, name, time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour))
	cert, err := g.ca.Sign(below.Cert, below.Cert.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Given{Key: below.Key(), Chain: []*x509.Certificate{cert}, Roots: []*x509.Certificate{g.ca.Cert}}
}

func (g *givenRoot) itself() *Given {
	return &Given{Key: g.ca.Key(), Chain: []*x509.Certificate{g.ca.Cert}, Roots: []*x509.Certificate{g.ca.Cert}}
}

func TestStateSurvivesARestart(t *testing.T) {
	a := openTest(t, Config{})
	issued := mustIssue(t, a, time.Hour)
	token, err := a.Token(webID, DefaultAudience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(a.dir.path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	again := mustIssue(t, b, time.Hour)
	if err := errors.Join(accepts(again.Roots, issued), accepts(issued.Roots, again)); err != nil {
		t.Errorf("certificates from before and after: %v", err)
	}
	s := newTestServer(t, b)
	if id, _, err := s.tokens.authenticate(t.Context(), token); err != nil || id != webID {
		t.Errorf("a token from before: got %s, %v", id, err)
	}
	if b.TrustDomain() != webID.TrustDomain() {
		t.Errorf("trust domain: got %s", b.TrustDomain())
	}
}

func TestStateIsForItsOwnerOnly(t *testing.T) {
	a := openTest(t, Config{})
	mustIssue(t, a, time.Hour)
	for name, want := range map[string]os.FileMode{".": 0o700, stateFile: 0o600, logFile: 0o600, lockFile: 0o600} {
		info, err := os.Stat(filepath.Join(a.dir.path, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want %#o", name, info.Mode(), err, want)
		}
	}
	state := filepath.Join(a.dir.path, stateFile)
	if err := os.Chmod(state, 0o660); err != nil {
		t.Fatal(err)
	}
	_, err := Open(a.dir.path, Config{})
	if info, statErr := os.Stat(state); err != nil || statErr != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("after its group could read it: mode %v, %v, %v, want 0600", info.Mode(), err, statErr)
	}
	if err := os.Chmod(state, 0o604); err != nil {
		t.Fatal(err)
	}
	_, err = Open(a.dir.path, Config{})
	wantText(t, err, "its mode is 0604")
}

// A crash leaves half a new state, or half a line in the log.
func TestCrashLeavesTheOldState(t *testing.T) {
	a := openTest(t, Config{})
	before := mustIssue(t, a, time.Hour)
	if err := os.WriteFile(filepath.Join(a.dir.path, tempFile), []byte(`{"version":1,"iss`), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(a.dir.path, logFile)
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	b, err := Open(a.dir.path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	after := mustIssue(t, b, 48*time.Hour)
	if err := accepts(before.Roots, after); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	all := lines(text)
	var last Entry
	if err := json.Unmarshal(all[len(all)-1], &last); err != nil || last.ID != webID.String() || last.Caller != "test" || !last.NotAfter.Equal(after.Cert.NotAfter) {
		t.Errorf("last line of the log: got %+v, %v", last, err)
	}
	info, err := os.Stat(filepath.Join(a.dir.path, stateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the state after the crash: %v, %v", info.Mode(), err)
	}
}

func TestBrokenStateIsRefusedAndKept(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"another version":   {`"version": 1`, `"version": 7`, "version 7 is not known"},
		"not JSON":          {`{`, `[`, "state.json"},
		"no trust domain":   {`"cluster.local"`, `""`, "trust_domain is missing"},
		"no issuer":         {`"issuers": [`, `"nobody": [`, "there are 0 issuers"},
		"rotation of one":   {`"issuers"`, `"rotation":{}, "issuers"`, "there are 1 issuers, and must be 2"},
		"key of another":    {`"key": "`, `"key": "no`, "private key"},
		"root is cut short": {`"roots": "`, `"roots": "nothing`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := openTest(t, Config{})
			path := filepath.Join(a.dir.path, stateFile)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			broken := bytes.Replace(text, []byte(c.from), []byte(c.to), 1)
			if c.want == "" { // PEM allows text before a block
				broken = bytes.Replace(text, []byte(`"roots": "-----BEGIN`), []byte(`"roots": "`), 1)
				c.want = "roots: there is no certificate in it"
			}
			if bytes.Equal(broken, text) {
				t.Fatalf("%q is not in the state:\n%s", c.from, text)
			}
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Open(a.dir.path, Config{TrustDomain: webID.TrustDomain()})
			wantText(t, err, c.want)
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, broken) {
				t.Errorf("the broken state was written over: %v", err)
			}
		})
	}
}

func TestOpenRefusesWhatTheStateIsNot(t *testing.T) {
	a := openTest(t, Config{})
	_, err := Open(a.dir.path, Config{TrustDomain: spiffeid.RequireTrustDomainFromString("other.org")})
	wantText(t, err, `the state is of "cluster.local"`)
	_, err = Open(a.dir.path, Config{Root: Root{Given: newGivenRoot(t).itself()}})
	wantText(t, err, "rotate-root changes it")
	_, err = Open(filepath.Join(t.TempDir(), "new"), Config{})
	wantText(t, err, "needs a trust domain")
	if _, err = OpenExisting(t.TempDir()); !errors.Is(err, ErrNoState) {
		t.Errorf("an empty directory: got %v, want ErrNoState", err)
	}
}

func TestTwoServersOnOneStateAreRefused(t *testing.T) {
	a := openTest(t, Config{})
	unlock, err := a.dir.lockServe()
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenExisting(a.dir.path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	err = newTestServer(t, b).Serve(t.Context(), l)
	var busy *BusyError
	if !errors.As(err, &busy) || !strings.Contains(busy.Holder, "process ") {
		t.Errorf("got %v, want a *BusyError with the process", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is left open: %v", err)
	}
	unlock()
	again, err := b.dir.lockServe()
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again()
}

func TestLogIsBounded(t *testing.T) {
	a := openTest(t, Config{})
	path := filepath.Join(a.dir.path, logFile)
	for range logFiles + 2 {
		mustIssue(t, a, time.Hour)
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), logBytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustIssue(t, a, time.Hour)
	all, err := filepath.Glob(path + "*")
	if err != nil || len(all) != logFiles {
		t.Errorf("got %v, %v, want %d files", all, err, logFiles)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(lines(text)) != 1 {
		t.Errorf("the log begins anew: got %d lines, %v, want 1", len(lines(text)), err)
	}
}

func TestNothingIsIssuedThatCannotBeRecorded(t *testing.T) {
	a := openTest(t, Config{})
	if err := os.Mkdir(filepath.Join(a.dir.path, logFile), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := a.Issue(Order{ID: webID, Public: webKey(), TTL: time.Hour})
	wantText(t, err, "log of what was issued")
}

// The life of a certificate is bounded on both sides by the authority's.
func TestCertificateLivesWithinItsAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		root := &givenRoot{rootFrom(t, "short", start.Add(-30*time.Second), start.Add(2*time.Hour))}
		a := openTest(t, Config{Root: Root{Given: root.itself()}})
		got := mustIssue(t, a, 24*time.Hour)
		if !got.Cert.NotAfter.Equal(start.Add(2*time.Hour)) || !got.Shortened {
			t.Errorf("not after: got %s (shortened %t), want the authority's, %s", got.Cert.NotAfter, got.Shortened, start.Add(2*time.Hour))
		}
		if !got.Cert.NotBefore.Equal(start.Add(-30 * time.Second)) {
			t.Errorf("not before: got %s, want the authority's", got.Cert.NotBefore)
		}
		time.Sleep(time.Hour)
		got = mustIssue(t, a, 2*time.Second)
		if !got.Cert.NotAfter.Equal(time.Now().Add(2*time.Second)) || !got.Cert.NotBefore.Equal(time.Now().Add(-Backdate)) || got.Shortened {
			t.Errorf("two seconds at %s: got %s to %s", time.Now(), got.Cert.NotBefore, got.Cert.NotAfter)
		}
		_, err := a.Issue(Order{ID: webID, Public: webKey(), TTL: time.Millisecond})
		wantText(t, err, "too short")
		time.Sleep(time.Hour)
		if _, err := a.Issue(Order{ID: webID, Public: webKey(), TTL: time.Hour}); !errors.Is(err, ErrExpired) {
			t.Errorf("below an expired authority: got %v, want ErrExpired", err)
		}
	})
}

func TestRootIsMadeWithTheWantedKey(t *testing.T) {
	for kind, want := range map[KeyKind]x509.SignatureAlgorithm{
		"": x509.ECDSAWithSHA256, P256: x509.ECDSAWithSHA256, P384: x509.ECDSAWithSHA384, RSA2048: x509.SHA256WithRSA,
	} {
		a := openTest(t, Config{Root: Root{Key: kind, TTL: time.Hour}})
		got := mustIssue(t, a, 24*time.Hour)
		if got.Cert.SignatureAlgorithm != want || !got.Cert.NotAfter.Equal(got.Roots[0].NotAfter) {
			t.Errorf("%q: signed with %s until %s, want %s until %s", kind, got.Cert.SignatureAlgorithm, got.Cert.NotAfter, want, got.Roots[0].NotAfter)
		}
	}
	for want, r := range map[string]Root{`key kind "P224" is none of`: {Key: "P224"}, "too short for a root": {TTL: time.Millisecond}} {
		_, err := Open(filepath.Join(t.TempDir(), "state"), Config{TrustDomain: webID.TrustDomain(), Root: r})
		wantText(t, err, want)
	}
}

func TestGivenIntermediateIsInTheAnswer(t *testing.T) {
	root := newGivenRoot(t)
	a := openTest(t, Config{Root: Root{Given: root.intermediate(t, "below")}})
	got := mustIssue(t, a, time.Hour)
	answer := got.response()
	if len(answer) != 3 || answer[2] != string(root.ca.PEM()) {
		t.Errorf("got %d elements, want leaf, intermediate, root", len(answer))
	}
	if err := accepts([]*x509.Certificate{root.ca.Cert}, got); err != nil {
		t.Error(err)
	}
	for n, e := range answer {
		if !strings.HasSuffix(e, "-----END CERTIFICATE-----\n") {
			t.Errorf("element %d does not end with a newline: %q", n, e)
		}
	}
}

func TestGivenAuthorityThatDoesNotFitIsRefused(t *testing.T) {
	root, other := newGivenRoot(t), newGivenRoot(t)
	for name, c := range map[string]struct {
		given func() *Given
		want  string
	}{
		"root of another": {func() *Given {
			g := root.intermediate(t, "x")
			g.Roots = other.itself().Roots
			return g
		}, "does not lead to the given root"},
		"chain of another": {func() *Given {
			g := root.intermediate(t, "x")
			g.Chain = append(g.Chain, other.intermediate(t, "y").Chain...)
			return g
		}, "is not signed by the next"},
		"key of another": {func() *Given {
			g := root.itself()
			g.Key = other.ca.Key()
			return g
		}, "does not fit"},
		"expired": {func() *Given {
			old := &givenRoot{rootFrom(t, "old", time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))}
			return old.itself()
		}, "is valid from"},
		"no authority": {func() *Given {
			g := root.intermediate(t, "x")
			leaf, err := root.ca.Sign(&x509.Certificate{NotAfter: time.Now().Add(time.Hour)}, g.Key.Public())
			if err != nil {
				t.Fatal(err)
			}
			g.Chain = []*x509.Certificate{leaf}
			return g
		}, "is not an authority's certificate"},
		"name constraint": {func() *Given {
			g := root.intermediate(t, "x")
			template := *g.Chain[0]
			template.PermittedURIDomains = []string{"other.org"}
			cert, err := root.ca.Sign(&template, g.Key.Public())
			if err != nil {
				t.Fatal(err)
			}
			g.Chain = []*x509.Certificate{cert}
			return g
		}, "what it signs is not accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(filepath.Join(t.TempDir(), "state"), Config{TrustDomain: webID.TrustDomain(), Root: Root{Given: c.given()}})
			wantText(t, err, c.want)
		})
	}
}

func TestGivenFilesOfIstiosCacerts(t *testing.T) {
	root := newGivenRoot(t)
	g := root.intermediate(t, "below")
	dir := t.TempDir()
	key, err := marshalKey(g.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"root-cert.pem": PEM(g.Roots), "ca-cert.pem": PEM(g.Chain), "ca-key.pem": key,
		"cert-chain.pem": PEM(append(g.Chain, g.Roots...)), // Istio's has the root too
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	files := GivenFiles{CACert: at("ca-cert.pem"), CAKey: at("ca-key.pem"), CertChain: at("cert-chain.pem"), RootCert: at("root-cert.pem")}
	got, err := files.Load()
	if err != nil {
		t.Fatal(err)
	}
	a := openTest(t, Config{Root: Root{Given: got}})
	if answer := mustIssue(t, a, time.Hour).response(); len(answer) != 3 {
		t.Errorf("got %d elements, want leaf, intermediate, root", len(answer))
	}
	if _, err := Open(a.dir.path, Config{Root: Root{Given: got}}); err != nil {
		t.Errorf("the same files at the next start: %v", err)
	}
	_, err = GivenFiles{CACert: at("ca-cert.pem")}.Load()
	wantText(t, err, "three files")
	files.CAKey = at("root-cert.pem")
	_, err = files.Load()
	wantText(t, err, "private key")
}
