package collectors

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
	"capability_exporter/collectors/workload"
)

// Pods knows the names of pods. It must be safe for concurrent use.
type Pods interface {
	// Names returns those that it finds, by their UID.
	Names(uids map[string]bool) map[string]workload.PodName
}

// info exposes what else is known of the workloads that have a series: one
// metric for each, of the newest of its cgroups.
//
// Of each cgroup it keeps what its path says, and of each workload its metric,
// for as long as they have series.
type info struct {
	desc  *prometheus.Desc
	names []string // of the labels, in order
	pods  Pods     // nil: nobody knows them

	mu        sync.Mutex
	scrape    uint64
	cgroups   map[bpf.Cgroup]*cgroupInfo
	workloads map[string]*workloadInfo
	order     []*workloadInfo // by their labels
	common    map[pair]*dto.LabelPair
	listed    time.Time // when the names of pods were last looked up
}

// cgroupInfo is what a cgroup's path says.
type cgroupInfo struct {
	id     uint64
	is     workload.Workload
	cgroup string // as it is shown
	of     *workloadInfo
	scrape uint64 // the last one that it was in
}

// workloadInfo is a workload with its newest cgroup.
type workloadInfo struct {
	label  string
	newest *cgroupInfo
	scrape uint64 // the last one that it was in

	pod   workload.PodName
	tries int
	next  time.Time // when it is looked up again

	metric *infoMetric
	shown  *cgroupInfo // in the metric
}

const (
	// podTries is how often a pod is looked up that has no folder: at once, and
	// then after podPause and twice as long each time.
	podTries = 5
	podPause = 5 * time.Second
	// podInterval is the least time between two looks at the folder.
	podInterval = time.Second
	// keptScrapes is for how many scrapes what had no series in them is kept:
	// scrapes may overlap, and an older snapshot come last.
	keptScrapes = 20
)

func newInfo(pods Pods) *info {
	names := []string{"cgroup", "container_id", "kind", "namespace", "pod", "pod_uid", "unit", "workload"}
	return &info{
		desc: desc("capability_workload_info",
			"What a workload is that has series, and the unit, the container and the cgroup that it has, the newest where there are several.", names...),
		names:     names,
		pods:      pods,
		cgroups:   make(map[bpf.Cgroup]*cgroupInfo),
		workloads: make(map[string]*workloadInfo),
		common:    make(map[pair]*dto.LabelPair),
	}
}

func (i *info) describe(ch chan<- *prometheus.Desc) {
	ch <- i.desc
}

func (i *info) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	for _, metric := range i.metrics(s) { // whoever waits for the channel waits without the lock
		ch <- metric
	}
}

func (i *info) metrics(s *bpf.Snapshot) []prometheus.Metric {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.scrape++
	for at := range s.Workloads {
		if slot := &s.Workloads[at]; slot.Count > 0 && !slot.Overflow {
			i.see(slot.Cgroup)
		}
	}
	i.forget()
	i.namePods(s.Time)
	changed := false
	metrics := make([]prometheus.Metric, 0, len(i.order))
	for _, w := range i.order {
		if w.metric == nil || w.shown != w.newest {
			w.metric, w.shown = i.metric(w), w.newest
			changed = true
		}
	}
	if changed {
		slices.SortStableFunc(i.order, byInfo)
	}
	for _, w := range i.order {
		if w.scrape == i.scrape {
			metrics = append(metrics, w.metric)
		}
	}
	return metrics
}

// see takes in that a cgroup has a series.
func (i *info) see(c bpf.Cgroup) {
	seen := i.cgroups[c]
	if seen == nil {
		seen = describeCgroup(c)
		label := Workload(c)
		if i.workloads[label] == nil {
			w := &workloadInfo{label: label}
			i.workloads[label] = w
			i.order = append(i.order, w)
		}
		seen.of = i.workloads[label]
		i.cgroups[c] = seen
	}
	seen.scrape = i.scrape
	if w := seen.of; w.scrape != i.scrape || newer(seen, w.newest) {
		w.scrape, w.newest = i.scrape, seen
	}
}

// newer tells which of two cgroups was made later: a hierarchy numbers its own
// one after the other. What is carried on without a cgroup has no number.
func newer(a, b *cgroupInfo) bool {
	return cmp.Or(cmp.Compare(a.id, b.id), strings.Compare(a.cgroup, b.cgroup)) > 0
}

// describeCgroup reads a cgroup's path.
func describeCgroup(c bpf.Cgroup) *cgroupInfo {
	if c.Path == "" || c.Truncated {
		return &cgroupInfo{id: c.ID, is: workload.Workload{Kind: kindUnknown}, cgroup: Escape(c.Path)}
	}
	return &cgroupInfo{id: c.ID, is: workload.Parse(c.Path), cgroup: escapePath(c.Path)}
}

// kindUnknown is that of a cgroup whose path, or its beginning, is not known.
const kindUnknown workload.Kind = "unknown"

// forget lets go of what has had no series for long.
func (i *info) forget() {
	if len(i.cgroups) == 0 {
		return
	}
	for c, seen := range i.cgroups {
		if i.scrape-seen.scrape > keptScrapes {
			delete(i.cgroups, c)
		}
	}
	i.order = slices.DeleteFunc(i.order, func(w *workloadInfo) bool {
		gone := i.scrape-w.scrape > keptScrapes
		if gone {
			delete(i.workloads, w.label)
		}
		return gone
	})
}

// namePods looks up the pods that have no name yet, all at one time.
func (i *info) namePods(now time.Time) {
	if i.pods == nil || now.Sub(i.listed) < podInterval && !now.Before(i.listed) {
		return
	}
	var nameless []*workloadInfo
	uids := make(map[string]bool)
	for _, w := range i.order {
		if uid := w.newest.is.PodUID; uid != "" && w.scrape == i.scrape && w.pod == (workload.PodName{}) && w.tries < podTries && !now.Before(w.next) {
			nameless = append(nameless, w)
			uids[uid] = true
		}
	}
	if len(nameless) == 0 {
		return
	}
	i.listed = now
	names := i.pods.Names(uids)
	for _, w := range nameless {
		w.pod = names[w.newest.is.PodUID]
		w.next = now.Add(podPause << w.tries)
		w.tries++
		if w.pod != (workload.PodName{}) {
			w.metric = nil
		}
	}
}

func (i *info) metric(w *workloadInfo) *infoMetric {
	is := w.newest.is
	values := []string{w.newest.cgroup, is.ContainerID, string(is.Kind), w.pod.Namespace, w.pod.Pod, is.PodUID, is.Unit, w.label}
	m := &infoMetric{desc: i.desc, labels: make([]*dto.LabelPair, len(i.names)), one: 1}
	m.gauge.Value = &m.one
	for at := range i.names {
		m.labels[at] = i.label(&i.names[at], &values[at])
	}
	return m
}

// label is shared by all that have none there, and by those of a kind.
func (i *info) label(name, value *string) *dto.LabelPair {
	if *value != "" && *name != "kind" {
		return &dto.LabelPair{Name: name, Value: value}
	}
	key := pair{*name, *value}
	if i.common[key] == nil {
		i.common[key] = &dto.LabelPair{Name: name, Value: &key.value}
	}
	return i.common[key]
}

// infoMetric is always 1.
type infoMetric struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair // by name, as client_golang wants them
	one    float64
	gauge  dto.Gauge
}

// Desc implements [prometheus.Metric].
func (m *infoMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements [prometheus.Metric].
func (m *infoMetric) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.labels, &m.gauge
	return nil
}

// byInfo is the order of the labels' names.
func byInfo(a, b *workloadInfo) int {
	return cmp.Or(
		strings.Compare(a.newest.cgroup, b.newest.cgroup),
		strings.Compare(a.newest.is.ContainerID, b.newest.is.ContainerID),
		strings.Compare(string(a.newest.is.Kind), string(b.newest.is.Kind)),
		strings.Compare(a.pod.Namespace, b.pod.Namespace),
		strings.Compare(a.pod.Pod, b.pod.Pod),
		strings.Compare(a.newest.is.PodUID, b.newest.is.PodUID),
		strings.Compare(a.newest.is.Unit, b.newest.is.Unit),
		strings.Compare(a.label, b.label),
	)
}
