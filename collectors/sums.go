package collectors

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// sums exposes a counter for each set of labels: the sum of the slots that have
// them. Several slots may have the same labels (two cgroups that had the same
// path one after the other), and a metric must not be exposed twice.
//
// Series stay while their numbers change, so their labels are found out once and
// kept. What is kept is of those that live, and at most as many that did.
//
// It is not safe for concurrent use.
type sums[Labels comparable] struct {
	desc  *prometheus.Desc
	write func(Labels) []*dto.LabelPair // by name, as client_golang wants them

	scrape uint64
	sets   map[Labels]*labelled
	order  []*labelled // by their labels' values
}

// labelled is one set of labels, and what was summed for it last.
type labelled struct {
	// Never written to: scrapes are read while others sum.
	desc   *prometheus.Desc
	labels []*dto.LabelPair

	began  *timestamppb.Timestamp
	total  sum
	scrape uint64
}

// sum is what slots have counted together.
type sum struct {
	count   uint64
	created time.Time // of the oldest of them
}

// newSums returns sums of slots. A slot's Labels are what tells its series from
// others.
func newSums[Labels comparable](d *prometheus.Desc, write func(Labels) []*dto.LabelPair) *sums[Labels] {
	return &sums[Labels]{desc: d, write: write, sets: make(map[Labels]*labelled)}
}

// of sums the slots, of which there are that many at most. One that has counted
// nothing makes no series. They come in the order in which they will be shown: a
// registry that sorts them finds them sorted, and that is half of a scrape.
func (s *sums[Labels]) of(number int, slots iter.Seq2[Labels, sum]) []sumMetric {
	if len(s.sets) > 2*number {
		s.sets, s.order = make(map[Labels]*labelled), nil
	}
	s.scrape++
	known, shown := len(s.order), 0
	for labels, counted := range slots {
		if counted.count == 0 {
			continue
		}
		set := s.sets[labels]
		if set == nil {
			set = &labelled{desc: s.desc, labels: s.write(labels)}
			s.sets[labels] = set
			s.order = append(s.order, set)
		}
		if set.scrape != s.scrape {
			set.scrape, set.total = s.scrape, counted
			shown++
			continue
		}
		total := &set.total
		total.count += counted.count
		if counted.created.Before(total.created) {
			total.created = counted.created
		}
	}
	if len(s.order) > known {
		slices.SortStableFunc(s.order, byValues) // which makes use of what is in order already
	}
	metrics := make([]sumMetric, 0, shown)
	for _, set := range s.order {
		if set.scrape == s.scrape {
			metrics = append(metrics, sumMetric{of: set, value: float64(set.total.count)})
			m := &metrics[len(metrics)-1]
			m.counter.Value, m.counter.CreatedTimestamp = &m.value, set.created()
		}
	}
	return metrics
}

// created is when a series began, which is seldom another time than before.
func (s *labelled) created() *timestamppb.Timestamp {
	if at := s.total.created; s.began == nil || s.began.Seconds != at.Unix() || s.began.Nanos != int32(at.Nanosecond()) {
		s.began = timestamppb.New(at)
	}
	return s.began
}

func byValues(a, b *labelled) int {
	for i, label := range a.labels {
		if c := strings.Compare(label.GetValue(), b.labels[i].GetValue()); c != 0 {
			return c
		}
	}
	return 0
}

// sumMetric is one of them, with all that it needs of its own in one piece of memory.
type sumMetric struct {
	of      *labelled
	value   float64
	counter dto.Counter
}

// send sends metrics, which must not be written to any more.
func send(metrics []sumMetric, ch chan<- prometheus.Metric) {
	for i := range metrics {
		ch <- &metrics[i]
	}
}

// Desc implements [prometheus.Metric].
func (m *sumMetric) Desc() *prometheus.Desc { return m.of.desc }

// Write implements [prometheus.Metric].
func (m *sumMetric) Write(out *dto.Metric) error {
	out.Label, out.Counter = m.of.labels, &m.counter
	return nil
}
