package decode

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
)

// FuzzBootstrap promises that no text makes the decoder panic or hang, that a
// refusal names at least one mistake, and that what is accepted is accepted
// again, as the same configuration, after it was written out.
func FuzzBootstrap(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	known := map[string][]byte{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		known[path] = text
		if strings.HasSuffix(path, "ml") || strings.HasSuffix(path, "json") {
			f.Add(text)
		}
	}
	for _, m := range mistakes {
		f.Add([]byte(strings.Replace(base, m.old, m.new, 1)))
	}
	for _, m := range httpMistakes {
		f.Add([]byte(strings.Replace(httpBase, m.old, m.new, 1)))
	}
	f.Add([]byte("a: &a [*a, *a]"))
	f.Add([]byte(`{"node":{"metadata":{"x":[1e400,null,-0.0,"\ud800"]}}}`))
	opts := Options{
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := known[path]; ok {
				return text, nil
			}
			return nil, fs.ErrNotExist
		},
		Getenv: func(string) (string, bool) { return "", false },
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := Bootstrap(text, opts)
		var mistakes Errors
		switch {
		case errors.As(err, &mistakes) && len(mistakes) > 0:
			return
		case err != nil:
			t.Fatalf("an error without mistakes: %v", err)
		}
		source := first.Source.(*bootstrapv3.Bootstrap)
		again, err := protojson.MarshalOptions{Resolver: resolver{knownTypes(), protoregistry.GlobalTypes}}.Marshal(source)
		if err != nil {
			t.Fatalf("accepted, but cannot be written out: %v", err)
		}
		second, err := Bootstrap(again, opts)
		if err != nil {
			t.Fatalf("accepted, but not what was written out:\n%s\n%v", again, err)
		}
		if digest(source) != digest(second.Source) && !proto.Equal(source, second.Source) {
			t.Fatalf("another configuration after it was written out:\n%s", again)
		}
	})
}

// FuzzResource promises that no resource of the wire makes the decoder panic or
// hang, that a refusal names at least one mistake, and that what is accepted is
// accepted again.
func FuzzResource(f *testing.F) {
	for _, resources := range pushes(f) {
		for _, r := range resources {
			f.Add(r.GetTypeUrl(), r.GetValue())
		}
	}
	opts := Options{
		ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		Getenv:   func(string) (string, bool) { return "", false },
	}
	kinds := []string{"listener.v3.Listener", "cluster.v3.Cluster", "endpoint.v3.ClusterLoadAssignment", "route.v3.RouteConfiguration"}
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		if !slices.ContainsFunc(kinds, func(kind string) bool { return url == "type.googleapis.com/envoy.config."+kind }) {
			return
		}
		a := &anypb.Any{TypeUrl: url, Value: value}
		if _, err := a.UnmarshalNew(); err != nil {
			return
		}
		_, err := decodeAny(t, a, opts)
		var mistakes Errors
		if err != nil && (!errors.As(err, &mistakes) || len(mistakes) == 0) {
			t.Fatalf("an error without mistakes: %v", err)
		}
		if _, again := decodeAny(t, a, opts); (again == nil) != (err == nil) {
			t.Fatalf("first %v, then %v", err, again)
		}
	})
}
