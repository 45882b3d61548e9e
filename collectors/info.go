package collectors

import (
	"cmp"
	"slices"
	"strings"
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
// Of each workload it keeps its metric, for as long as it has series. It is not
// safe for concurrent use.
type info struct {
	desc   *prometheus.Desc
	one    *dto.Gauge // the value of all
	common pairs
	pods   Pods // nil: nobody knows them

	scrape    uint64
	workloads map[*word]*workloadInfo
	order     []*workloadInfo // by their labels
	listed    time.Time       // when the names of pods were last looked up
}

// workloadInfo is a workload with its newest cgroup.
type workloadInfo struct {
	label  *word
	newest bpf.Cgroup
	scrape uint64 // the last one that it was in
	pod    *podInfo
	metric *infoMetric
}

// podInfo is what is known of a pod's name.
type podInfo struct {
	uid   string
	name  workload.PodName
	tries int
	next  time.Time // when it is looked up again
}

const (
	// podTries is how often a pod is looked up that has no folder: at once, and
	// then after podPause and twice as long each time.
	podTries = 5
	podPause = 5 * time.Second
	// podInterval is the least time between two looks at the folder.
	podInterval = time.Second
)

func newInfo(pods Pods, common pairs) *info {
	return &info{
		desc: desc("capability_workload_info",
			"1 for each workload that has asked for something, and each pod and container that holds something: what else is known of it, or of its newest cgroup.", infoLabels()...),
		one:       &dto.Gauge{Value: new(1.0)},
		common:    common,
		pods:      pods,
		workloads: make(map[*word]*workloadInfo),
	}
}

// infoLabels are in the order in which client_golang wants them.
func infoLabels() []string {
	return []string{"cgroup", "container_id", "kind", "namespace", "pod", "pod_uid", "unit", "workload"}
}

// of returns the metrics of a scrape's slots, whose are whose, and of pods and
// containers that hold something, and may have asked for nothing.
func (i *info) of(s *bpf.Snapshot, whose []who, holders []holder, scrape uint64) []*infoMetric {
	i.scrape = scrape
	for at := range s.Workloads {
		if slot := &s.Workloads[at]; slot.Count > 0 && !slot.Overflow {
			i.see(whose[at].workload, &slot.Cgroup)
		}
	}
	for _, h := range holders { // of others that ask for nothing the name says it all, and an idle machine has a dozen
		if contained(h.cgroup) {
			i.see(h.workload, h.cgroup)
		}
	}
	if scrape%keptScrapes == 0 {
		i.forget()
	}
	i.namePods(s.Time)
	changed, shown := false, 0
	for _, w := range i.order {
		if w.scrape == scrape {
			shown++
		}
		if w.metric == nil || !w.metric.isOf(&w.newest) {
			w.metric = i.metric(w)
			changed = true
		}
	}
	if changed {
		slices.SortStableFunc(i.order, byInfo)
	}
	metrics := make([]*infoMetric, 0, shown)
	for _, w := range i.order {
		if w.scrape == scrape {
			metrics = append(metrics, w.metric)
		}
	}
	return metrics
}

// see takes in that a workload's cgroup has a series.
func (i *info) see(label *word, c *bpf.Cgroup) {
	w := i.workloads[label]
	if w == nil {
		w = &workloadInfo{label: label}
		if i.pods != nil {
			if uid := describe(c).PodUID; uid != "" {
				w.pod = &podInfo{uid: uid}
			}
		}
		i.workloads[label] = w
		i.order = append(i.order, w)
	}
	if w.scrape != i.scrape || newer(c, &w.newest) {
		w.scrape, w.newest = i.scrape, *c
	}
}

// newer tells which of two cgroups was made later: a hierarchy numbers its own
// one after the other. What is carried on without a cgroup has no number.
func newer(a, b *bpf.Cgroup) bool {
	return cmp.Or(cmp.Compare(a.ID, b.ID), strings.Compare(a.Path, b.Path)) > 0
}

// describe reads a cgroup's path.
func describe(c *bpf.Cgroup) workload.Workload {
	if c.Path == "" || c.Truncated {
		return workload.Workload{Kind: kindUnknown}
	}
	return workload.Parse(c.Path)
}

// contained tells whether a cgroup is a container's, of a pod or not.
func contained(c *bpf.Cgroup) bool {
	kind := describe(c).Kind
	return kind == workload.KindPod || kind == workload.KindContainer
}

// kindUnknown is that of a cgroup whose path, or its beginning, is not known.
const kindUnknown workload.Kind = "unknown"

// forget lets go of what has had no series for long.
func (i *info) forget() {
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
		if pod := w.pod; pod != nil && w.scrape == i.scrape && pod.name == (workload.PodName{}) && pod.tries < podTries && !now.Before(pod.next) {
			nameless = append(nameless, w)
			uids[pod.uid] = true
		}
	}
	if len(nameless) == 0 {
		return
	}
	i.listed = now
	names := i.pods.Names(uids)
	for _, w := range nameless {
		pod := w.pod
		pod.name = names[pod.uid]
		pod.next = now.Add(podPause << pod.tries)
		pod.tries++
		if pod.name != (workload.PodName{}) {
			w.metric = nil
		}
	}
}

func (i *info) metric(w *workloadInfo) *infoMetric {
	is, cgroup := describe(&w.newest), w.newest.Path
	if w.newest.Truncated {
		cgroup = Escape(cgroup)
	} else {
		cgroup = escapePath(cgroup)
	}
	var pod workload.PodName
	if w.pod != nil {
		pod = w.pod.name
	}
	m := &infoMetric{of: i, path: w.newest.Path, truncated: w.newest.Truncated}
	values := [...]string{cgroup, is.ContainerID, string(is.Kind), pod.Namespace, pod.Pod, is.PodUID, is.Unit}
	for at, name := range infoLabels()[:len(values)] {
		m.labels[at] = i.label(name, values[at])
	}
	m.labels[len(values)] = &w.label.pair
	return m
}

// label is shared by all that have none there, and by those of a kind.
func (i *info) label(name, value string) *dto.LabelPair {
	common := i.common.of(name, "")
	switch {
	case value == "":
		return common
	case name == "kind":
		return i.common.of(name, value)
	}
	own := &struct {
		dto.LabelPair
		value string
	}{value: value}
	own.Name, own.Value = common.Name, &own.value
	return &own.LabelPair
}

// infoMetric is always 1.
type infoMetric struct {
	of        *info
	path      string // of the cgroup
	truncated bool
	labels    [8]*dto.LabelPair // by name, as client_golang wants them
}

// isOf tells whether it says what is to be said of a cgroup.
func (m *infoMetric) isOf(c *bpf.Cgroup) bool { return m.path == c.Path && m.truncated == c.Truncated }

// Desc implements [prometheus.Metric].
func (m *infoMetric) Desc() *prometheus.Desc { return m.of.desc }

// Write implements [prometheus.Metric].
func (m *infoMetric) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.labels[:], m.of.one
	return nil
}

// byInfo is the order of the labels.
func byInfo(a, b *workloadInfo) int {
	for i, label := range a.metric.labels {
		if c := strings.Compare(label.GetValue(), b.metric.labels[i].GetValue()); c != 0 {
			return c
		}
	}
	return 0
}
