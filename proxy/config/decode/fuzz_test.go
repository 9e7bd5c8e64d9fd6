package decode

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

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
