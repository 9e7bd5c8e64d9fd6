//go:build netns

package netns

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"outrider/iptables/netnstest"
)

// The ports on which the server's applications listen: those that answer and
// those that speak first, each as the workload is, STRICT and DISABLE.
const (
	echoPort, strictPort, disabledPort     = 8080, 8081, 8082
	smtpPort, strictSMTP, disabledSMTP     = 2525, 2526, 2527
	excludedIn, excludedOut            int = 22, 5432
)

const greeting = "220 mail ready"

// applications are what an unchanged server runs.
func applications(t *testing.T, h *host) {
	for _, port := range []int{echoPort, strictPort, disabledPort, excludedIn, excludedOut} {
		serve(t, h.Listen(t, appUser, at("::", port), false), answer)
	}
	for _, port := range []int{smtpPort, strictSMTP, disabledSMTP} {
		serve(t, h.Listen(t, appUser, at("::", port), false), func(c net.Conn) {
			fmt.Fprintln(c, greeting)
			answer(c)
		})
	}
}

// answer sends each line back, after whom the application takes its client for.
func answer(c net.Conn) {
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		fmt.Fprintf(c, "%s: %s\n", from, lines.Text())
	}
}

// serve handles each connection until the test ends, and waits for all.
func serve(t *testing.T, l net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{} // guarded by mu
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// conversation is an application's connection.
type conversation struct {
	net.Conn
	lines *bufio.Scanner
}

// dial connects an application of u, as it would without any sidecar.
func (h *host) dial(u netnstest.User, address string) (*conversation, error) {
	c, err := h.Connect(netnstest.Dial{User: u}, address)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		c.Close()
		return nil, err
	}
	return &conversation{c, bufio.NewScanner(c)}, nil
}

// hear is the next line, or why there is none.
func (c *conversation) hear() (string, error) {
	if c.lines.Scan() {
		return c.lines.Text(), nil
	}
	if err := c.lines.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("closed by the other side")
}

// ask sends a line, and returns the next.
func (c *conversation) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	return c.hear()
}

// call is a conversation of one line.
func (h *host) call(address, line string) (string, error) { return h.callAs(appUser, address, line) }

func (h *host) callAs(u netnstest.User, address, line string) (string, error) {
	c, err := h.dial(u, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ask(line)
}

// reaches fails the test unless the line comes back.
func (h *host) reaches(t *testing.T, address, line string) {
	t.Helper()
	if got, err := h.call(address, line); err != nil || !strings.HasSuffix(got, ": "+line) {
		t.Errorf("%s to %s: got %q %v, want %q back", h.Name, address, got, err, line)
	}
}

// isRefused fails the test if anything at all comes back, or nothing happens.
func (h *host) isRefused(t *testing.T, address string) {
	t.Helper()
	got, err := h.call(address, "is anybody there")
	if timeout, ok := err.(net.Error); err == nil || ok && timeout.Timeout() {
		t.Errorf("%s to %s: got %q %v, want an end", h.Name, address, got, err)
	}
}
