package xds

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func openCache(t *testing.T, dir, node string) *Cache {
	t.Helper()
	c, err := OpenCache(CacheOptions{Dir: dir, Node: node})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fill runs a client that accepts clusters a and b, and endpoints of each.
func fill(t *testing.T, dir string) {
	t.Helper()
	inBubble(t, Options{Delta: true, Cache: openCache(t, dir, "node-1")}, func(r *rig) {
		r.followClusters()
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		r.taken[ClusterType].bad["refused"] = errors.New("no")
		r.answer(delta(t, ClusterType, "5", cluster("a", ""), cluster("b", ""), cluster("refused", "")))
		r.answer(delta(t, EndpointType, "6", endpoints("a"), endpoints("b")))
	})
}

// followClusters subscribes to the endpoints of each cluster, as a proxy does.
func (r *rig) followClusters() {
	r.taken[ClusterType].then = func(u Update) {
		for _, one := range u.Updated {
			r.subscribe(EndpointType, one.Name)
		}
	}
}

func TestAColdStartWithoutAControlPlaneGoesOnWithTheCache(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	inBubble(t, Options{Delta: true, Cache: openCache(t, dir, "node-1")}, func(r *rig) {
		r.wire.setDown(errors.New("refused"))
		r.followClusters()
		r.subscribe(ClusterType, Wildcard)
		time.Sleep(time.Second)
		synctest.Wait()
		if c, e := r.taken[ClusterType].names(), r.taken[EndpointType].names(); c != "[a b]" || e != "[a b]" {
			t.Errorf("from the cache: clusters %s, endpoints %s, want [a b] of both", c, e)
		}
		if u := r.taken[ClusterType].updates; len(u) == 0 || !u[0].Cached || u[0].Updated[0].Version != "5" {
			t.Errorf("updates %v, want one from the cache with version 5", u)
		}
		if _, used := r.client.CacheAge(); !used {
			t.Error("CacheAge says that the cache is not used")
		}
		r.wire.setDown(nil)
		r.stream()
		cds, eds := request[delta1](r), request[delta1](r)
		if want := map[string]string{"a": "5", "b": "5"}; !maps.Equal(cds.GetInitialResourceVersions(), want) {
			t.Errorf("CDS begins with %v, want %v", cds.GetInitialResourceVersions(), want)
		}
		if want := map[string]string{"a": "6", "b": "6"}; !maps.Equal(eds.GetInitialResourceVersions(), want) {
			t.Errorf("EDS begins with %v, want %v", eds.GetInitialResourceVersions(), want)
		}
		d := delta(t, ClusterType, "9")
		d.RemovedResources = []string{"b"}
		r.answer(d)
		if got := r.taken[ClusterType].names(); got != "[a]" {
			t.Errorf("clusters: %s, want [a]", got)
		}
		if _, used := r.client.CacheAge(); used {
			t.Error("CacheAge says that the cache is used after an answer")
		}
	})
}

func TestASilentStreamIsGivenUpForTheCache(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	inBubble(t, Options{Delta: true, Cache: openCache(t, dir, "node-1")}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		begin := time.Now()
		r.stream()
		if took := time.Since(begin); took < defaultQuiet || took > defaultQuiet+firstWait {
			t.Errorf("the second stream came after %s, want %s and a little", took, defaultQuiet)
		}
		if first := request[delta1](r); len(first.GetInitialResourceVersions()) != 2 {
			t.Errorf("it begins with %v, want what the cache has", first)
		}
	})
}

func TestAServerThatAnswersIsNotMixedWithTheCache(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	inBubble(t, Options{Cache: openCache(t, dir, "node-1")}, func(r *rig) {
		r.followClusters()
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		r.answer(whole(t, ClusterType, "1", cluster("c", "")))
		r.s.Close()
		r.wire.setDown(errors.New("refused"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if c, e := r.taken[ClusterType].names(), r.taken[EndpointType].names(); c != "[c]" || e != "[]" {
			t.Errorf("clusters %s, endpoints %s, want [c] and none", c, e)
		}
	})
	inBubble(t, Options{Cache: openCache(t, dir, "node-1")}, func(r *rig) {
		r.wire.setDown(errors.New("refused"))
		r.subscribe(ClusterType, Wildcard)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.taken[ClusterType].names(); got != "[c]" {
			t.Errorf("the next start has %s, want [c]", got)
		}
	})
}

func TestWhatIsDamagedOrOfAnotherNodeIsNotUsed(t *testing.T) {
	damage := func(t *testing.T, path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)-3] ^= 1
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(t *testing.T, path string) {
		if err := os.Truncate(path, 100); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		node   string
		change func(*testing.T, string)
	}{
		"a flipped bit": {"node-1", damage}, "half a file": {"node-1", cut},
		"another node": {"node-2", func(*testing.T, string) {}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir)
			cache := openCache(t, dir, c.node)
			c.change(t, cache.path("xds", ClusterType))
			inBubble(t, Options{Delta: true, Cache: cache}, func(r *rig) {
				r.wire.setDown(errors.New("refused"))
				r.subscribe(ClusterType, Wildcard)
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := r.taken[ClusterType].names(); got != "[]" {
					t.Errorf("clusters: %s, want none", got)
				}
			})
		})
	}
}

func TestPrivateTypesAreNotOnDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Delta: true, Cache: openCache(t, dir, "node-1")})
		r.client.Register(Type{URL: SecretType, Apply: func(Update) map[string]error { return nil }, Private: true})
		go func() { _ = r.client.Run(t.Context()) }() // the bubble waits for it
		r.subscribe(SecretType, "s")
		r.subscribe(EndpointType, "a")
		r.stream()
		d := delta(t, ClusterType, "1", cluster("s", "a key"))
		d.TypeUrl, d.Resources[0].Resource.TypeUrl = SecretType, SecretType
		r.answer(d)
		r.answer(delta(t, EndpointType, "1", endpoints("a")))
		time.Sleep(time.Minute)
	})
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || !strings.Contains(files[0].Name(), "ClusterLoadAssignment") {
		t.Errorf("on disk: %v, %v, want endpoints only", files, err)
	}
}

func TestTheCacheIsLeftAloneOnceAServerHasAnswered(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	inBubble(t, Options{Delta: true, Cache: openCache(t, dir, "node-1")}, func(r *rig) {
		r.wire.setDown(errors.New("refused"))
		r.subscribe(EndpointType, "a")
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.taken[EndpointType].names(); got != "[a]" {
			t.Fatalf("from the cache: %s, want [a]", got)
		}
		r.client.Unsubscribe(EndpointType, "a")
		time.Sleep(time.Minute)
		if list, _, err := openCache(t, dir, "node-1").load("xds", EndpointType); err != nil || len(list) != 2 {
			t.Errorf("the file has %d resources, %v, want both still: no server has said otherwise", len(list), err)
		}
		r.subscribe(ClusterType, Wildcard)
		r.wire.setDown(nil)
		r.stream()
		r.answer(delta(t, ClusterType, "9"))
		r.s.Close()
		r.wire.setDown(errors.New("refused"))
		r.subscribe(EndpointType, "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.taken[EndpointType].names(); got != "[a]" {
			t.Errorf("after an answer: %s, want no b from the cache", got)
		}
	})
}
