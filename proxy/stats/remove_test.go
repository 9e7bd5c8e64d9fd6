package stats

import "testing"

func TestRemoveLeavesALongerNameThatBeginsAlike(t *testing.T) {
	r := New()
	cluster := r.Scope("cluster")
	short, long := cluster.Tagged("envoy_cluster_name", "a"), cluster.Tagged("envoy_cluster_name", "a.b")
	short.Counter("upstream_cx_total").Inc()
	short.Scope("b").Counter("x").Inc()
	short.Valued("v", "tag", "w").Inc()
	kept := long.Counter("upstream_cx_total")
	short.Remove()
	if n := len(r.all()); n != 1 {
		t.Errorf("%d metrics after the removal, want the one of the longer name", n)
	}
	if long.Counter("upstream_cx_total") != kept {
		t.Error("the metric of the longer name was removed")
	}
	long.Remove()
	if n := len(r.all()); n != 0 || !r.root.empty() {
		t.Errorf("%d metrics after both removals, want none", n)
	}
}
