package health

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http2"

	"outrider/proxy/config"
)

// userAgent is what Envoy's checks call themselves, and what servers filter
// their logs by.
const userAgent = "Envoy/HC"

// httpRequest is the check's request.
func httpRequest(ctx context.Context, cfg *config.HTTPHealthCheck, t Target) (*http.Request, error) {
	method := cfg.Method
	if method == "" {
		method = http.MethodGet
	}
	host := t.Hostname
	if host == "" {
		host = cfg.Host
	}
	if host == "" {
		host = t.Cluster
	}
	target, err := url.ParseRequestURI(cmp.Or(cfg.Path, "/"))
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	target.Scheme, target.Host = "http", "health-check.invalid" // Host says who is meant
	var body io.Reader
	if len(cfg.Send) > 0 {
		body = bytes.NewReader(cfg.Send)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	req.Host = host
	req.Header.Set("User-Agent", userAgent)
	for _, h := range cfg.Headers {
		if strings.EqualFold(h[0], "host") {
			req.Host = h[1]
			continue
		}
		req.Header.Add(h[0], h[1])
	}
	for _, name := range cfg.RemoveHeaders {
		req.Header.Del(name)
		if strings.EqualFold(name, "user-agent") {
			req.Header.Set("User-Agent", "") // net/http leaves out an empty one
		}
	}
	return req, nil
}

// authority is host as HTTP/2 can carry it: what RFC 9113, section 8.3.1, does
// not allow there becomes "_", as in outbound_80__a.
func authority(host string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`"<>\^`+"`{|}/@?#", r) {
			return '_'
		}
		return r
	}, host)
}

// writeRequest writes req as HTTP/1.1 with its Host as it is: a cluster's name
// (outbound|80||a) is what Envoy sends, and nothing that net/http would.
func writeRequest(w io.Writer, req *http.Request, body []byte) error {
	oneLine := strings.NewReplacer("\r", " ", "\n", " ")
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, req.URL.RequestURI(), oneLine.Replace(req.Host))
	if len(body) > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	header := req.Header.Clone()
	if header.Get("User-Agent") == "" {
		header.Del("User-Agent")
	}
	if err := header.Write(&b); err != nil { // replaces line ends in values
		return err
	}
	b.WriteString("\r\n")
	b.Write(body)
	_, err := w.Write(b.Bytes())
	return err
}

// judge is what the answer means.
func judge(cfg *config.HTTPHealthCheck, resp *http.Response) (Result, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Result{}, err
	}
	r := Result{Status: resp.StatusCode}
	r.Exclude = resp.Header.Get("X-Envoy-Immediate-Health-Check-Fail") != ""
	if !within(cfg.Expected, resp.StatusCode, http.StatusOK) {
		r.Kind = Active
		r.Retriable = within(cfg.Retriable, resp.StatusCode, 0)
		r.Err = fmt.Errorf("status %d", resp.StatusCode)
		return r, nil
	}
	r.Degraded = resp.Header.Get("X-Envoy-Degraded") != ""
	if cfg.ServiceName != nil {
		r.VerifiedCluster = true
		got := resp.Header.Get("X-Envoy-Upstream-Healthchecked-Cluster")
		if !cfg.ServiceName.Match(got) {
			r.Kind, r.Err = Active, fmt.Errorf("service name %q does not match %s", got, cfg.ServiceName)
		}
	}
	if !inOrder(body, cfg.Receive) {
		r.Kind, r.Err = Active, errors.New("the body does not have the expected bytes")
	}
	return r, nil
}

// within reports whether status is in one of ranges, or is fallback if there
// are none.
func within(ranges []config.StatusRange, status, fallback int) bool {
	if len(ranges) == 0 {
		return status == fallback
	}
	return slices.ContainsFunc(ranges, func(r config.StatusRange) bool { return status >= r.From && status < r.To })
}

// httpProbe speaks HTTP/1.1.
type httpProbe struct {
	cfg    *config.HTTPHealthCheck
	target Target
	conn   net.Conn      // kept; nil if none
	reader *bufio.Reader // of conn, through limit
	limit  *io.LimitedReader
}

func (p *httpProbe) Close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

func (p *httpProbe) Check(ctx context.Context, dial Dial) Result {
	kept := p.conn != nil
	r := p.once(ctx, dial)
	if kept && r.Kind == Network && ctx.Err() == nil {
		// The host had closed the kept connection: that says nothing.
		r = p.once(ctx, dial)
	}
	return r
}

func (p *httpProbe) once(ctx context.Context, dial Dial) Result {
	req, err := httpRequest(ctx, p.cfg, p.target)
	if err != nil {
		return Result{Kind: Active, Err: err}
	}
	if p.conn == nil {
		conn, err := dial(ctx)
		if err != nil {
			return failed(ctx, err)
		}
		p.conn = conn
		p.limit = &io.LimitedReader{R: conn}
		p.reader = bufio.NewReader(p.limit)
	}
	p.limit.N = 2 * maxAnswer // head and body
	unwatched := watch(ctx, p.conn)
	r, keep, err := p.exchange(req)
	if !unwatched() || err != nil || !keep || !p.target.Reuse {
		p.Close()
	}
	if err != nil {
		return failed(ctx, err)
	}
	return r
}

func (p *httpProbe) exchange(req *http.Request) (Result, bool, error) {
	if err := writeRequest(p.conn, req, p.cfg.Send); err != nil {
		return Result{}, false, err
	}
	resp, err := http.ReadResponse(p.reader, req)
	if err != nil {
		return Result{}, false, err
	}
	defer resp.Body.Close()
	r, err := judge(p.cfg, resp)
	// A body that was not read to its end would be the next answer's head.
	n, _ := resp.Body.Read(make([]byte, 1))
	return r, !resp.Close && n == 0, err
}

// http2Probe speaks HTTP/2 with prior knowledge, or after ALPN.
type http2Probe struct {
	cfg    *config.HTTPHealthCheck
	target Target
	h2     h2Conn
}

func (p *http2Probe) Close() { p.h2.close() }

func (p *http2Probe) Check(ctx context.Context, dial Dial) Result {
	req, err := httpRequest(ctx, p.cfg, p.target)
	if err != nil {
		return Result{Kind: Active, Err: err}
	}
	req.Host = authority(req.Host)
	resp, err := p.h2.do(ctx, dial, req)
	if err != nil {
		return failed(ctx, err)
	}
	defer resp.Body.Close()
	r, err := judge(p.cfg, resp)
	if err != nil {
		p.Close()
		return failed(ctx, err)
	}
	if !p.target.Reuse {
		p.Close()
	}
	return r
}

// h2Conn is an HTTP/2 connection that may be kept.
type h2Conn struct {
	conn   net.Conn
	client *http2.ClientConn
}

func (c *h2Conn) close() {
	if c.client != nil {
		_ = c.client.Close()
		c.conn.Close()
		c.client, c.conn = nil, nil
	}
}

func (c *h2Conn) do(ctx context.Context, dial Dial, req *http.Request) (*http.Response, error) {
	if c.client != nil && !c.client.CanTakeNewRequest() {
		c.close()
	}
	if c.client == nil {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		transport := &http2.Transport{AllowHTTP: true, MaxHeaderListSize: maxAnswer}
		client, err := transport.NewClientConn(conn)
		if err != nil {
			conn.Close()
			return nil, err
		}
		c.conn, c.client = conn, client
	}
	resp, err := c.client.RoundTrip(req)
	if err != nil {
		c.close()
	}
	return resp, err
}
