package collectors

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// Holdings knows which capabilities processes hold; *bpf.Tracer does. It must be
// safe for concurrent use.
type Holdings interface {
	Held() bpf.Held
}

// HoldingsCollector exposes them. What there is of one look is made once, and
// served until there is another.
type HoldingsCollector struct {
	holdings Holdings
	since    time.Time
	held     *prometheus.Desc
	refused  *prometheus.Desc
	took     *prometheus.Desc
	partial  *prometheus.Desc

	mu    sync.Mutex
	made  time.Time // the look that series are of
	ready []prometheus.Metric
}

// maxHeldSeries bounds the series of what processes hold: anybody can make user
// namespaces, and in them processes that hold any set.
const maxHeldSeries = 4096

const heldHelp = `Processes of which a thread has the capability permitted, as last looked at. Those that hold all that the kernel knows stand under capability="all" alone; capability="most" is each capability that has no series of its own beside it, capability="default" each such one that container engines give by default. What there is no room for stands under workload="_other".`

const (
	// allCapabilities stands for a full set, which would be forty series.
	allCapabilities = "all"
	// mostCapabilities and defaultCapabilities stand for each capability of a set
	// that has no series beside it: of all that there are, of which a service
	// manager takes away what is on a list, and of those that container engines
	// give to root. They would be nearly forty, and fourteen for each container.
	mostCapabilities    = "most"
	defaultCapabilities = "default"
)

// NewHoldings returns the collector of what has been looked at since then.
func NewHoldings(holdings Holdings, since time.Time) *HoldingsCollector {
	return &HoldingsCollector{
		holdings: holdings,
		since:    since,
		held: desc("capability_held_processes",
			heldHelp,
			"capability", "scope", "workload"),
		refused: desc("capability_exporter_held_refused_info",
			"Why it is not known which capabilities processes hold: switched off (off), the last look failed (failed), or why the kernel does not let it be seen.",
			"reason"),
		took: desc("capability_exporter_held_look_seconds",
			"How long the last look took at what processes hold."),
		partial: desc("capability_exporter_held_partial_looks_total",
			"Looks at what processes hold that did not see all threads, because there were too many or they ended too fast."),
	}
}

// Describe implements [prometheus.Collector].
func (c *HoldingsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.held
	ch <- c.refused
	ch <- c.took
	ch <- c.partial
}

// Collect implements [prometheus.Collector]. Where nothing is known there is no
// number: a 0 would look like one.
func (c *HoldingsCollector) Collect(ch chan<- prometheus.Metric) {
	held := c.holdings.Held()
	if held.Refused != "" {
		ch <- gauge(c.refused, 1, held.Refused)
		return
	}
	if held.Time.IsZero() {
		return // nobody has looked yet
	}
	for _, metric := range c.series(&held) { // whoever waits for the channel waits without the lock
		ch <- metric
	}
	ch <- gauge(c.took, held.Took.Seconds())
	ch <- counter(c.partial, held.Partial, c.since)
}

func (c *HoldingsCollector) series(held *bpf.Held) []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !held.Time.Equal(c.made) {
		c.ready, c.made = c.metrics(held.Counts), held.Time
	}
	return c.ready
}

// heldKey is what capability_held_processes is split by.
type heldKey struct{ capability, scope, workload string }

func (c *HoldingsCollector) metrics(counts []bpf.HeldCount) []prometheus.Metric {
	sums := make(map[heldKey]uint64)
	add := func(key heldKey, n uint32) {
		if n == 0 {
			return
		}
		// Those that were there first stand first. For each that found no room in
		// the end there is one more.
		if _, known := sums[key]; !known && len(sums) >= maxHeldSeries {
			key.workload = Other
		}
		sums[key] += uint64(n)
	}
	for i := range counts {
		count := &counts[i]
		workload := Other
		if !count.Overflow {
			workload = Workload(count.Cgroup)
		}
		scope := Scope(count.UserNS)
		add(heldKey{allCapabilities, scope, workload}, count.All)
		for capability, n := range count.Each {
			add(heldKey{Capability(uint8(capability)), scope, workload}, n)
		}
	}
	fold(sums)
	keys := make([]heldKey, 0, len(sums))
	for key := range sums {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b heldKey) int {
		return cmp.Or(strings.Compare(a.capability, b.capability), strings.Compare(a.scope, b.scope), strings.Compare(a.workload, b.workload))
	})
	metrics := make([]prometheus.Metric, 0, len(keys))
	for _, key := range keys {
		metrics = append(metrics, gauge(c.held, float64(sums[key]), key.capability, key.scope, key.workload))
	}
	return metrics
}

// fold has one series stand for a set of capabilities where as many of a
// workload's processes hold more than half of it. The others of the set keep, or
// get, a series of their own: nothing is lost.
func fold(sums map[heldKey]uint64) {
	var every []cap.Value
	for capability := range cap.Value(cap.NamedCount) {
		every = append(every, capability)
	}
	engines := []cap.Value{ // Docker's, and containerd's for Kubernetes
		cap.CHOWN, cap.DAC_OVERRIDE, cap.FOWNER, cap.FSETID, cap.KILL, cap.SETGID, cap.SETUID, cap.SETPCAP,
		cap.NET_BIND_SERVICE, cap.NET_RAW, cap.SYS_CHROOT, cap.MKNOD, cap.AUDIT_WRITE, cap.SETFCAP,
	}
	holders := make(map[heldKey]bool)
	for key := range sums {
		key.capability = ""
		holders[key] = true
	}
	for holder := range holders {
		if !foldInto(sums, holder, mostCapabilities, every) {
			foldInto(sums, holder, defaultCapabilities, engines)
		}
	}
}

// foldInto has one series stand for a set that a holder has most of, if he has.
func foldInto(sums map[heldKey]uint64, holder heldKey, name string, set []cap.Value) bool {
	of := func(capability cap.Value) heldKey {
		return heldKey{Capability(uint8(capability)), holder.scope, holder.workload}
	}
	alike := make(map[uint64]int) // how many capabilities so many processes hold
	for _, capability := range set {
		if n := sums[of(capability)]; n > 0 {
			alike[n]++
		}
	}
	for n, capabilities := range alike {
		if capabilities <= len(set)/2 {
			continue
		}
		for _, capability := range set {
			if key := of(capability); sums[key] == n {
				delete(sums, key)
			} else {
				sums[key] += 0
			}
		}
		sums[heldKey{name, holder.scope, holder.workload}] = n
		return true
	}
	return false
}
