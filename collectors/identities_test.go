package collectors

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// sumBy adds a family's values up as PromQL's "sum by (labels)" does, keyed by
// the labels' values. Only series where keep is true count; nil keeps all.
func sumBy(family *dto.MetricFamily, labels []string, keep func(map[string]string) bool) map[string]float64 {
	totals := make(map[string]float64)
	for _, metric := range family.GetMetric() {
		values := make(map[string]string)
		for _, pair := range metric.GetLabel() {
			values[pair.GetName()] = pair.GetValue()
		}
		if keep != nil && !keep(values) {
			continue
		}
		var key []string
		for _, label := range labels {
			key = append(key, values[label])
		}
		totals[strings.Join(key, " ")] += metric.GetCounter().GetValue()
	}
	return totals
}

// audited keeps series of checks that were made to use the capability.
func audited(labels map[string]string) bool { return labels["audited"] == "yes" }

// The two identities between the metrics hold in what is exposed if they hold
// in the snapshot: nothing is counted twice or lost on the way.
func TestIdentities(t *testing.T) {
	snapshots := map[string]*bpf.Snapshot{"realistic": realistic()}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, checks := range []int{0, 1, 100, 20000} {
		snapshots[fmt.Sprintf("%d random checks", checks)] = random(rng, checks)
	}
	for name, snapshot := range snapshots {
		t.Run(name, func(t *testing.T) {
			families := gatherByName(t, snapshot)
			checks := families["capability_checks_total"]

			kinds := []string{"capability", "result", "scope"}
			who := sumBy(families["capability_workload_checks_total"], kinds, nil)
			for _, name := range []string{"capability_exporter_borrowed_checks_total", "capability_exporter_ended_checks_total"} {
				for kind, count := range sumBy(families[name], kinds, nil) {
					who[kind] += count
				}
			}
			if want := nonZero(sumBy(checks, kinds, audited)); !maps.Equal(nonZero(who), want) {
				t.Errorf("workloads + borrowed + ended:\n%v\naudited checks:\n%v", who, want)
			}

			kinds = []string{"capability", "result", "audited"}
			sites := sumBy(families["capability_call_site_checks_total"], kinds, nil)
			if want := nonZero(sumBy(checks, kinds, nil)); !maps.Equal(nonZero(sites), want) {
				t.Errorf("call sites:\n%v\nchecks over both scopes:\n%v", sites, want)
			}

			// Nothing of the snapshot got lost on both sides.
			var counted float64
			for _, site := range snapshot.Sites {
				counted += float64(site.Count)
			}
			if got := sumBy(checks, nil, nil)[""]; got != counted {
				t.Errorf("%v checks are exposed, %v were counted", got, counted)
			}
			unknown := sumBy(checks, nil, func(l map[string]string) bool { return l["audited"] == "unknown" })[""]
			if got := sumBy(families["capability_exporter_unclassified_checks_total"], nil, nil)[""]; got != unknown {
				t.Errorf("%v unclassified checks, but %v with audited=\"unknown\"", got, unknown)
			}
			other := sumBy(families["capability_workload_checks_total"], nil, func(l map[string]string) bool { return l["process"] == Other })[""]
			if got := sumBy(families["capability_exporter_overflow_checks_total"], nil, nil)[""]; got != other {
				t.Errorf("%v overflow checks, but %v under process %s", got, other, Other)
			}
		})
	}
}

func nonZero(totals map[string]float64) map[string]float64 {
	kept := maps.Clone(totals)
	maps.DeleteFunc(kept, func(_ string, count float64) bool { return count == 0 })
	return kept
}

// What is borrowed, or of series that have ended, has no series where it never happened: who adds the parts up by their names needs none.
func TestPartsAreOfWhatHappened(t *testing.T) {
	looked := realistic()
	looked.Sites = append(looked.Sites, bpf.SiteCount{Check: check(cap.SYSLOG, true, true), Audited: bpf.AuditedNo, Symbol: "f", Count: 5, Created: attached})
	families := gatherByName(t, looked)
	for name, want := range map[string]map[string]float64{
		"capability_exporter_borrowed_checks_total": {"CAP_SYS_ADMIN granted host": 5, "CAP_SYS_PTRACE granted host": 2},
		"capability_exporter_ended_checks_total":    {"CAP_SYS_ADMIN granted host": 5, "CAP_SYS_PTRACE granted host": 6},
	} {
		if got := sumBy(families[name], []string{"capability", "result", "scope"}, nil); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
