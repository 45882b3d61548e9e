package collectors

import (
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// sums exposes a counter for each set of labels: the sum of the slots that have
// them. Several slots may have the same labels (two cgroups that had the same
// path one after the other), and a metric must not be exposed twice.
//
// Slots stay while their numbers change, so what their labels are is found out
// once and kept: making tens of thousands of names for each scrape would take
// longer than all else in it. What is kept is of the slots that live, and at
// most as many that did.
type sums[Slot, Labels comparable] struct {
	desc   *prometheus.Desc
	names  []string // of the labels
	labels func(Slot) Labels
	values func(Labels) []string

	mu     sync.Mutex
	scrape uint64
	slots  map[Slot]*labelled
	sets   map[Labels]*labelled
	order  []*labelled // the sets by their labels' values
	pairs  map[pair]*dto.LabelPair
}

// labelled is one set of labels.
type labelled struct {
	labels []*dto.LabelPair // by name, as client_golang wants them
	scrape uint64           // the last one that it was in
	at     int              // and which of its sums is of it
}

// pair is a label. One is shared by all sets that have it.
type pair struct{ name, value string }

// sum is what slots have counted together.
type sum struct {
	count   uint64
	created time.Time // of the oldest of them
}

// newSums returns sums of slots. labels takes of a slot what tells its series
// from others, and values says how that is written.
func newSums[Slot, Labels comparable](name, help string, names []string, labels func(Slot) Labels, values func(Labels) []string) *sums[Slot, Labels] {
	s := &sums[Slot, Labels]{desc: desc(name, help, names...), names: names, labels: labels, values: values}
	s.forget()
	return s
}

func (s *sums[Slot, Labels]) forget() {
	s.slots = make(map[Slot]*labelled)
	s.sets = make(map[Labels]*labelled)
	s.order = nil
	s.pairs = make(map[pair]*dto.LabelPair)
}

// collect exposes the slots, of which there are that many. One that has counted
// nothing makes no series. They come in the order in which they will be shown: a
// registry that sorts them finds them sorted, and that is half of a scrape.
func (s *sums[Slot, Labels]) collect(number int, slots iter.Seq2[Slot, sum], ch chan<- prometheus.Metric) {
	metrics := s.add(number, slots) // whoever waits for the channel waits without the lock
	for i := range metrics {
		ch <- &metrics[i]
	}
}

func (s *sums[Slot, Labels]) add(number int, slots iter.Seq2[Slot, sum]) []sumMetric {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.slots) > 2*number {
		s.forget()
	}
	s.scrape++
	known := len(s.order)
	totals := make([]sum, 0, number)
	for slot, counted := range slots {
		if counted.count == 0 {
			continue
		}
		set := s.of(slot)
		if set.scrape != s.scrape {
			set.scrape, set.at = s.scrape, len(totals)
			totals = append(totals, counted)
			continue
		}
		total := &totals[set.at]
		total.count += counted.count
		if counted.created.Before(total.created) {
			total.created = counted.created
		}
	}
	if len(s.order) > known {
		slices.SortStableFunc(s.order, byValues) // which makes use of what is in order already
		if len(s.order) > known+known/2 {
			s.layOut()
		}
	}
	metrics := make([]sumMetric, len(totals))
	next := 0
	for _, set := range s.order {
		if set.scrape == s.scrape {
			metrics[next].set(s.desc, set.labels, &totals[set.at])
			next++
		}
	}
	return metrics
}

// layOut copies all labels in the order in which they are read from then on.
// Read in another one than they lie in memory, they take twice as long.
func (s *sums[Slot, Labels]) layOut() {
	s.pairs = make(map[pair]*dto.LabelPair, len(s.pairs))
	for _, set := range s.order {
		labels := make([]*dto.LabelPair, 0, len(set.labels)) // of its own: a scrape may be reading the old ones
		for _, label := range set.labels {
			key := pair{label.GetName(), label.GetValue()}
			if s.pairs[key] == nil {
				key.value = strings.Clone(key.value)
				s.pairs[key] = &dto.LabelPair{Name: &key.name, Value: &key.value}
			}
			labels = append(labels, s.pairs[key])
		}
		set.labels = labels
	}
}

func byValues(a, b *labelled) int {
	for i, label := range a.labels {
		if c := strings.Compare(label.GetValue(), b.labels[i].GetValue()); c != 0 {
			return c
		}
	}
	return 0
}

// of returns the labels of a slot.
func (s *sums[Slot, Labels]) of(slot Slot) *labelled {
	if set := s.slots[slot]; set != nil {
		return set
	}
	labels := s.labels(slot)
	set := s.sets[labels]
	if set == nil {
		set = &labelled{labels: s.write(s.values(labels))}
		s.sets[labels] = set
		s.order = append(s.order, set)
	}
	s.slots[slot] = set
	return set
}

func (s *sums[Slot, Labels]) write(values []string) []*dto.LabelPair {
	written := make([]*dto.LabelPair, 0, len(s.names))
	for i, name := range s.names {
		key := pair{name, values[i]}
		if s.pairs[key] == nil {
			s.pairs[key] = &dto.LabelPair{Name: &name, Value: &values[i]}
		}
		written = append(written, s.pairs[key])
	}
	slices.SortFunc(written, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return written
}

// sumMetric is one of them, with all that it needs in one piece of memory.
type sumMetric struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair
	value   float64
	created timestamppb.Timestamp
	counter dto.Counter
}

func (m *sumMetric) set(d *prometheus.Desc, labels []*dto.LabelPair, total *sum) {
	m.desc, m.labels, m.value = d, labels, float64(total.count)
	m.created.Seconds, m.created.Nanos = total.created.Unix(), int32(total.created.Nanosecond())
	m.counter.Value, m.counter.CreatedTimestamp = &m.value, &m.created
}

// Desc implements [prometheus.Metric].
func (m *sumMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements [prometheus.Metric].
func (m *sumMetric) Write(out *dto.Metric) error {
	out.Label, out.Counter = m.labels, &m.counter
	return nil
}
