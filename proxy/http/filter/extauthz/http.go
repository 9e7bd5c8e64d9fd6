package extauthz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// maxAnswer is how long the body of an answer may be: it is the body of ours.
const maxAnswer = 1 << 20

// removeHeader is where an answer names fields of the request to remove.
const removeHeader = "x-envoy-auth-headers-to-remove"

// httpService is asked with the request's own method and path.
type httpService struct {
	cfg    *config.ExtAuthzHTTP
	filter *config.ExtAuthz
	client http.RoundTripper
}

func (s *httpService) check(ctx context.Context, q *question) (*verdict, error) {
	if s.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.Timeout)
		defer cancel()
	}
	req, err := s.request(ctx, q)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	if resp.StatusCode == http.StatusOK {
		return s.allowedBy(resp), nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, errors.New("the answer is longer than 1 MiB")
	}
	return s.deniedBy(resp, string(body)), nil
}

// request has the fields that the service may see, and those that are ours.
func (s *httpService) request(ctx context.Context, q *question) (*http.Request, error) {
	var body io.Reader = http.NoBody
	if q.body != nil {
		body = bytes.NewReader(q.body.bytes)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, "http://authorization/", body)
	if err != nil {
		return nil, err
	}
	req.Header["User-Agent"] = nil // none of net/http's
	for _, f := range q.fields {
		switch {
		case f.Name == ":authority":
			req.Host = f.Value
		case f.Name == ":path":
			setPath(req.URL, s.cfg.PathPrefix+f.Value)
		case strings.HasPrefix(f.Name, ":"), f.Name == "content-length", f.Name == "transfer-encoding", f.Name == "connection":
		default:
			req.Header.Add(f.Name, f.Value)
		}
	}
	for _, f := range s.cfg.RequestAdd {
		req.Header.Set(f[0], f[1])
	}
	return req, nil
}

// setPath keeps the path as it is encoded, as far as it is.
func setPath(u *url.URL, path string) {
	u.RawPath, u.RawQuery, u.ForceQuery = path, "", strings.HasSuffix(path, "?")
	if before, query, ok := strings.Cut(path, "?"); ok {
		u.RawPath, u.RawQuery = before, query
	}
	u.Path = unescaped(u.RawPath)
}

func (s *httpService) allowedBy(resp *http.Response) *verdict {
	v := &verdict{allowed: true}
	for _, f := range fieldsOf(resp) {
		if anyMatches(s.cfg.UpstreamHeaders, f.Name) {
			v.set = append(v.set, f)
		}
		if anyMatches(s.cfg.UpstreamHeadersToAppend, f.Name) {
			v.add = append(v.add, f)
		}
		if anyMatches(s.cfg.ClientHeadersOnSuccess, f.Name) {
			v.response = append(v.response, responseField{f, config.HeaderAppend})
		}
		if anyMatches(s.cfg.DynamicMetadataHeaders, f.Name) {
			if v.metadata == nil {
				v.metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
			}
			v.metadata.Fields[f.Name] = structpb.NewStringValue(validText(f.Value))
		}
		if f.Name == removeHeader {
			for name := range strings.SplitSeq(f.Value, ",") {
				if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
					v.remove = append(v.remove, name)
				}
			}
		}
	}
	return v
}

func (s *httpService) deniedBy(resp *http.Response, body string) *verdict {
	v := &verdict{status: resp.StatusCode, body: body}
	for _, f := range fieldsOf(resp) {
		if f.Name != removeHeader && s.toClient(f.Name) {
			v.add = append(v.add, f)
		}
	}
	return v
}

// toClient are all fields if none are named, else those and some that a client
// always needs.
func (s *httpService) toClient(name string) bool {
	if len(s.cfg.ClientHeaders) == 0 {
		return name != "host"
	}
	return anyMatches(s.cfg.ClientHeaders, name) || name == "www-authenticate" || name == "location" || name == "content-length"
}

// fieldsOf are an answer's, by name.
func fieldsOf(resp *http.Response) message.Fields {
	var out message.Fields
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		for _, value := range resp.Header[name] {
			out.Add(strings.ToLower(name), value)
		}
	}
	return out
}
