package proxy

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

func TestSecretsThatNobodyNamesAnyMoreAreForgotten(t *testing.T) {
	root := newRoot(t, "root")
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	name := ""
	push := func(i int) (serial string) {
		name = fmt.Sprint("secret", i)
		secret, serial := secretOf(t, root, name)
		plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: listOf(tlsEcho(t, name)), xds.SecretType: listOf(secret)})
		return serial
	}
	serial := push(0)
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: 10 * time.Millisecond})
	for i := range 10 {
		r.eventually(name, func() bool { return r.presents("l") == serial })
		if stats := r.get("/stats?filter=update_success"); !strings.Contains(stats, "sds."+name+".update_success: 1") {
			t.Errorf("stats of %s: %s", name, stats)
		}
		serial = push(i + 1)
	}
	r.eventually("the last one alone", func() bool {
		runtime.GC()
		handles := r.secrets.Handles()
		return len(handles) == 1 && handles[0].Ref().Name == name
	})
	r.eventually("the others are not asked for", func() bool {
		return slices.ContainsFunc(plane.Requests(), func(q xdstest.Request) bool { return slices.Contains(q.Names, "-secret9") })
	})
	r.eventually("no metrics of the others", func() bool { return !strings.Contains(r.get("/stats?filter=^(sds|outrider.cert).secret"), "secret3.") })
	if got := r.presents("l"); got != serial {
		t.Errorf("the listener presents %s, want %s", got, serial)
	}
}
