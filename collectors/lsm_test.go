package collectors

import (
	"maps"
	"testing"
	"time"
)

// What another module refuses stands in a series of its own, and the check goes on to count as granted.
func TestRefusals(t *testing.T) {
	families := gatherByName(t, realistic())
	if got, want := sumBy(families["capability_lsm_denials_total"], []string{"lsm", "capability", "workload", "process"}, nil), map[string]float64{
		"apparmor CAP_SYS_ADMIN backup.service mount":  7,
		"apparmor CAP_SYS_ADMIN backup.service _other": 1,
		"apparmor CAP_SYS_PTRACE _other _other":        4,
	}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := sumBy(families["capability_exporter_lsm_ended_denials_total"], []string{"lsm", "capability"}, nil), map[string]float64{
		"apparmor CAP_SYS_PTRACE": 3,
	}; !maps.Equal(got, want) {
		t.Errorf("ended: %v, want %v", got, want)
	}
	began := created(t, realistic(), "capability_lsm_denials_total")
	for series, want := range map[string]time.Time{
		"CAP_SYS_ADMIN apparmor mount backup.service":  after(30),
		"CAP_SYS_ADMIN apparmor _other backup.service": after(902),
	} {
		if got := began[series]; !got.Equal(want) {
			t.Errorf("%s: created %v, want %v", series, got, want)
		}
	}
}
