// Command image packs static binaries as an OCI image without a daemon: one
// layer, no base, one manifest for each platform, the same bytes for the same
// binaries.
//
//	image -o outrider.tar -tag outrider:dev linux/amd64=bin/amd64/outrider linux/arm64=bin/arm64/outrider
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	out := flag.String("o", "outrider.tar", "the OCI archive to write")
	tag := flag.String("tag", "outrider:dev", "the image's name")
	version := flag.String("version", "dev", "the label org.opencontainers.image.version")
	flag.Parse()
	if err := pack(*out, *tag, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// pack writes the archive of PLATFORM=BINARY each.
func pack(out, tag, version string, binaries []string) error {
	if len(binaries) == 0 {
		return errors.New("no binary is given: linux/amd64=FILE")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range binaries {
		platform, path, ok := strings.Cut(b, "=")
		if !ok {
			return fmt.Errorf("%q: it is PLATFORM=FILE", b)
		}
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return err
		}
		img, err := image(path, p, version)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	where, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := where.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": tag})); err != nil {
		return err
	}
	return archive(dir, out)
}

// uid is whom the image runs as (Istio: the proxy's user).
const uid = 1337

func image(binary string, p *v1.Platform, version string) (v1.Image, error) {
	content, err := layer(binary)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, l)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
	cfg.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", uid, uid), Entrypoint: []string{"/usr/local/bin/outrider"}, Cmd: []string{"sidecar"}, WorkingDir: "/",
		Labels: map[string]string{"org.opencontainers.image.title": "outrider", "org.opencontainers.image.version": version},
	}
	return mutate.ConfigFile(img, cfg)
}

// layer is the file system: the binary, the user, and the places that the
// sidecar writes to.
func layer(binary string) ([]byte, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []struct {
		name string
		uid  int
		mode int64
	}{
		{"usr", 0, 0o755}, {"usr/local", 0, 0o755}, {"usr/local/bin", 0, 0o755}, {"etc", 0, 0o755}, {"etc/outrider", 0, 0o755},
		{"var", 0, 0o755}, {"var/run", 0, 0o755}, {"var/run/secrets", 0, 0o755}, {"var/run/secrets/workload-spiffe-uds", uid, 0o755}, {"tmp", 0, 0o1777},
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir.name + "/", Mode: dir.mode, Uid: dir.uid, Gid: dir.uid, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
	}
	passwd := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\noutrider:x:%d:%d:outrider:/:/sbin/nologin\n", uid, uid)
	group := fmt.Sprintf("root:x:0:\noutrider:x:%d:\n", uid)
	for _, f := range []struct {
		name    string
		content []byte
		mode    int64
	}{{"etc/passwd", []byte(passwd), 0o644}, {"etc/group", []byte(group), 0o644}, {"usr/local/bin/outrider", content, 0o755}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err = w.Close() // it writes the end
	return out.Bytes(), err
}

// archive puts a directory's files in a tar.
func archive(dir, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	return errors.Join(err, w.Close(), f.Close())
}
