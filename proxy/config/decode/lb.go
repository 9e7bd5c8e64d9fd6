package decode

import (
	"math"
	"math/big"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	providedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	lbcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/proxy/config"
)

// Defaults of the load balancers (cluster.proto).
const (
	defaultChoices   = 2
	defaultMinRing   = 1024
	defaultMaxRing   = 8388608
	defaultTableSize = 65537
	maxTableSize     = 5000011
	defaultPanic     = 50 // percent
)

func (d *decoder) loadBalancing(c *clusterv3.Cluster, out *config.Cluster, place at) {
	out.LeastRequest = config.LeastRequest{Choices: defaultChoices, Bias: 1}
	out.RingHash = config.RingHash{Min: defaultMinRing, Max: defaultMaxRing}
	out.Maglev.TableSize = defaultTableSize
	d.commonLB(c.GetCommonLbConfig(), out, place.in("common_lb_config"))
	if p := c.GetLoadBalancingPolicy(); p != nil {
		d.policy(p, out, place.in("load_balancing_policy"))
	} else {
		d.classicPolicy(c, out, place)
	}
	isOriginal, isProvided := out.Type == config.OriginalDstType, out.LB == config.ClusterProvided
	switch {
	case isOriginal && !isProvided:
		place.in("lb_policy").bad("must be CLUSTER_PROVIDED for a cluster of type ORIGINAL_DST")
	case isProvided && !isOriginal:
		place.in("lb_policy").bad("CLUSTER_PROVIDED is for clusters of type ORIGINAL_DST, this one is %s", c.GetType())
	}
	if r := out.RingHash; r.Min > r.Max {
		place.in("ring_hash_lb_config").bad("minimum_ring_size %d is above maximum_ring_size %d", r.Min, r.Max)
	}
	if size := out.Maglev.TableSize; size > maxTableSize || !new(big.Int).SetUint64(size).ProbablyPrime(0) {
		place.in("maglev_lb_config").in("table_size").bad("%d is not a prime of at most %d", size, maxTableSize)
	}
}

func (d *decoder) classicPolicy(c *clusterv3.Cluster, out *config.Cluster, place at) {
	in := place.in("lb_policy")
	switch c.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		out.LB = config.RoundRobin
	case clusterv3.Cluster_LEAST_REQUEST:
		out.LB = config.LeastRequestLB
	case clusterv3.Cluster_RANDOM:
		out.LB = config.Random
	case clusterv3.Cluster_RING_HASH:
		out.LB = config.RingHashLB
	case clusterv3.Cluster_MAGLEV:
		out.LB = config.MaglevLB
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		out.LB = config.ClusterProvided
	case clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG:
		in.bad("LOAD_BALANCING_POLICY_CONFIG needs a load_balancing_policy")
	default:
		in.bad("%s is not supported by outrider", c.GetLbPolicy())
	}
	if l := c.GetLeastRequestLbConfig(); l != nil {
		in := place.in("least_request_lb_config")
		out.LeastRequest = d.leastRequest(l.GetChoiceCount(), l.GetActiveRequestBias(), in)
		if slow := l.GetSlowStartConfig(); slow != nil && out.LB == config.LeastRequestLB {
			out.SlowStart = d.slowStart(slow, in)
		}
	}
	if r := c.GetRoundRobinLbConfig(); r.GetSlowStartConfig() != nil && out.LB == config.RoundRobin {
		out.SlowStart = d.slowStart(r.GetSlowStartConfig(), place.in("round_robin_lb_config"))
	}
	if r := c.GetRingHashLbConfig(); r != nil {
		out.RingHash = config.RingHash{
			Min: u64(r.GetMinimumRingSize(), defaultMinRing), Max: u64(r.GetMaximumRingSize(), defaultMaxRing),
			MurmurHash: r.GetHashFunction() == clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2,
		}
	}
	if m := c.GetMaglevLbConfig(); m != nil {
		out.Maglev.TableSize = u64(m.GetTableSize(), defaultTableSize)
	}
}

func (d *decoder) leastRequest(choices *wrapperspb.UInt32Value, bias *corev3.RuntimeDouble, place at) config.LeastRequest {
	out := config.LeastRequest{Choices: u32(choices, defaultChoices), Bias: 1}
	if bias != nil {
		out.Bias = d.runtimeFloat(bias.GetRuntimeKey(), bias.GetDefaultValue())
		if !(out.Bias >= 0) || math.IsInf(out.Bias, 0) {
			place.in("active_request_bias").bad("%v is not a bias: it is 0 or more", out.Bias)
		}
	}
	return out
}

// slowStartConfig is the message of Cluster and that of load balancing policies.
type slowStartConfig interface {
	GetSlowStartWindow() *durationpb.Duration
	GetAggression() *corev3.RuntimeDouble
	GetMinWeightPercent() *typev3.Percent
}

func (d *decoder) slowStart(c slowStartConfig, place at) config.SlowStart {
	place = place.in("slow_start_config")
	out := config.SlowStart{Window: duration(c.GetSlowStartWindow(), 0, place.in("slow_start_window")), Aggression: 1, MinWeight: 0.1}
	if a := c.GetAggression(); a != nil {
		out.Aggression = d.runtimeFloat(a.GetRuntimeKey(), a.GetDefaultValue())
		if !(out.Aggression > 0) || math.IsInf(out.Aggression, 0) {
			place.in("aggression").bad("%v is not an aggression: it is above 0", out.Aggression)
		}
	}
	if p := c.GetMinWeightPercent(); p != nil {
		out.MinWeight = p.GetValue() / 100
	}
	return out
}

func (d *decoder) commonLB(c *clusterv3.Cluster_CommonLbConfig, out *config.Cluster, place at) {
	out.LBCommon.PanicThreshold = defaultPanic
	if p := c.GetHealthyPanicThreshold(); p != nil {
		out.LBCommon.PanicThreshold = p.GetValue()
	}
	out.LBCommon.LocalityWeighted = c.GetLocalityWeightedLbConfig() != nil
	out.LBCommon.FailOnPanic = c.GetZoneAwareLbConfig().GetFailTrafficOnPanic()
	out.LBCommon.IgnoreNewHostsUntilFirstHC = c.GetIgnoreNewHostsUntilFirstHc()
	out.LBCommon.CloseOnHostSetChange = c.GetCloseConnectionsOnHostSetChange()
	out.LBCommon.HashByHostname = c.GetConsistentHashingLbConfig().GetUseHostnameForHashing()
	out.LBCommon.HashBalanceFactor = c.GetConsistentHashingLbConfig().GetHashBalanceFactor().GetValue()
	for _, s := range c.GetOverrideHostStatus().GetStatuses() {
		out.LBCommon.OverrideHealthy = append(out.LBCommon.OverrideHealthy, config.HealthStatus(s))
	}
	duration(c.GetUpdateMergeWindow(), 0, place.in("update_merge_window"))
}

// policy takes the first policy that is known, as Envoy does, and gives the
// same values as lb_policy.
func (d *decoder) policy(p *clusterv3.LoadBalancingPolicy, out *config.Cluster, place at) {
	if len(p.GetPolicies()) == 0 {
		place.in("policies").bad("has no policy")
		return
	}
	in := place.item("policies", 0).in("typed_extension_config")
	extension := p.GetPolicies()[0].GetTypedExtensionConfig()
	in = in.in("typed_config")
	switch c := d.open(anyOf(extension, in), in).(type) {
	case *roundv3.RoundRobin:
		out.LB = config.RoundRobin
		if slow := c.GetSlowStartConfig(); slow != nil {
			out.SlowStart = d.slowStart(slow, in)
		}
		localityLB(c.GetLocalityLbConfig(), out)
	case *randomv3.Random:
		out.LB = config.Random
		localityLB(c.GetLocalityLbConfig(), out)
	case *leastv3.LeastRequest:
		out.LB = config.LeastRequestLB
		out.LeastRequest = d.leastRequest(c.GetChoiceCount(), c.GetActiveRequestBias(), in)
		if c.GetSelectionMethod() != leastv3.LeastRequest_N_CHOICES {
			in.in("selection_method").bad("%s is not supported by outrider", c.GetSelectionMethod())
		}
		if slow := c.GetSlowStartConfig(); slow != nil {
			out.SlowStart = d.slowStart(slow, in)
		}
		localityLB(c.GetLocalityLbConfig(), out)
	case *ringv3.RingHash:
		d.ringPolicy(c, out)
	case *maglevv3.Maglev:
		out.LB = config.MaglevLB
		out.Maglev.TableSize = u64(c.GetTableSize(), defaultTableSize)
		hashing(c.GetConsistentHashingLbConfig(), out)
		out.LBCommon.LocalityWeighted = c.GetLocalityWeightedLbConfig() != nil
	case *providedv3.ClusterProvided:
		out.LB = config.ClusterProvided
	default:
		in.bad("extension %q is not supported by outrider as a load balancing policy", extension.GetName())
	}
}

func (d *decoder) ringPolicy(c *ringv3.RingHash, out *config.Cluster) {
	out.LB = config.RingHashLB
	out.RingHash = config.RingHash{
		Min: u64(c.GetMinimumRingSize(), defaultMinRing), Max: u64(c.GetMaximumRingSize(), defaultMaxRing),
		MurmurHash: c.GetHashFunction() == ringv3.RingHash_MURMUR_HASH_2,
	}
	out.LBCommon.HashByHostname = c.GetUseHostnameForHashing()
	out.LBCommon.HashBalanceFactor = c.GetHashBalanceFactor().GetValue()
	hashing(c.GetConsistentHashingLbConfig(), out)
	out.LBCommon.LocalityWeighted = c.GetLocalityWeightedLbConfig() != nil
}

func hashing(c *lbcommonv3.ConsistentHashingLbConfig, out *config.Cluster) {
	if c != nil {
		out.LBCommon.HashByHostname = c.GetUseHostnameForHashing()
		out.LBCommon.HashBalanceFactor = c.GetHashBalanceFactor().GetValue()
	}
}

func localityLB(c *lbcommonv3.LocalityLbConfig, out *config.Cluster) {
	out.LBCommon.LocalityWeighted = c.GetLocalityWeightedLbConfig() != nil
	out.LBCommon.FailOnPanic = c.GetZoneAwareLbConfig().GetFailTrafficOnPanic()
}
