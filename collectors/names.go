package collectors

import (
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

// keptScrapes is for how many scrapes what had no series in them is kept:
// scrapes may overlap, and an older snapshot come last.
const keptScrapes = 20

// vocabulary is how names are written as the values of one label. Slots stay
// while their numbers change, so each name is written once and kept, for as long
// as a series has it: to make tens of thousands of them for each scrape would take
// longer than all else in it. And it is written once however many series have it,
// of whatever metric.
//
// Two names that are written alike are one word, so that whoever sums by words
// exposes no series twice.
type vocabulary[Name comparable] struct {
	label   string
	write   func(Name) string
	written map[Name]*word
	words   map[string]*word
}

// word is the value of a label.
type word struct {
	value  string
	pair   dto.LabelPair
	scrape uint64     // the last one that it was in
	last   *lastCheck // of a workload
}

func newVocabulary[Name comparable](label string, write func(Name) string) *vocabulary[Name] {
	return &vocabulary[Name]{label: label, write: write, written: make(map[Name]*word), words: make(map[string]*word)}
}

// of is how a name is written in that scrape.
func (v *vocabulary[Name]) of(name Name, scrape uint64) *word {
	w := v.written[name]
	if w == nil {
		value := v.write(name)
		w = v.words[value]
		if w == nil {
			w = &word{value: value}
			w.pair.Name, w.pair.Value = &v.label, &w.value
			v.words[value] = w
		}
		v.written[name] = w
	}
	w.scrape = scrape
	return w
}

// forget lets go of what has had no series for long, after a scrape of that many
// slots.
func (v *vocabulary[Name]) forget(slots int, scrape uint64) {
	if len(v.written) > 2*slots { // cgroups may come and go for as long as their workload stays
		v.written = make(map[Name]*word)
	}
	if scrape%keptScrapes != 0 {
		return
	}
	for name, w := range v.written {
		if w.gone(scrape) {
			delete(v.written, name)
		}
	}
	for value, w := range v.words {
		if w.gone(scrape) {
			delete(v.words, value)
		}
	}
}

func (w *word) gone(scrape uint64) bool { return scrape-w.scrape > keptScrapes }

// pairs are labels with few values, each made once.
type pairs map[pair]*dto.LabelPair

type pair struct{ name, value string }

func (p pairs) of(name, value string) *dto.LabelPair {
	key := pair{name, value}
	if p[key] == nil {
		p[key] = &dto.LabelPair{Name: &key.name, Value: &key.value}
	}
	return p[key]
}

// who is whom a slot is shown to be of.
type who struct{ workload, process *word }

// whoNames knows who that is.
type whoNames struct {
	workloads *vocabulary[bpf.Cgroup]
	processes *vocabulary[bpf.Process]
	others    *vocabulary[struct{}] // of workloads
}

func newWhoNames() whoNames {
	return whoNames{
		workloads: newVocabulary("workload", Workload),
		processes: newVocabulary("process", Process),
		others:    newVocabulary("workload", func(struct{}) string { return Other }),
	}
}

func (n *whoNames) of(slot *bpf.WorkloadCount, scrape uint64) who {
	if slot.Overflow {
		return who{n.others.of(struct{}{}, scrape), n.processes.of(bpf.Process{Kind: bpf.ProcessOther}, scrape)}
	}
	return who{n.workloads.of(slot.Cgroup, scrape), n.processes.of(slot.Process, scrape)}
}

// holder is a workload that holds a capability, by one of its cgroups.
type holder struct {
	workload *word
	cgroup   *bpf.Cgroup
}

func (n *whoNames) holders(held []bpf.HeldCount, scrape uint64) []holder {
	all := make([]holder, 0, len(held))
	for i := range held {
		if count := &held[i]; !count.Overflow {
			all = append(all, holder{n.workloads.of(count.Cgroup, scrape), &count.Cgroup})
		}
	}
	return all
}

// forget lets go of names after a scrape of so many slots.
func (n *whoNames) forget(slots int, scrape uint64) {
	n.workloads.forget(slots, scrape)
	n.processes.forget(slots, scrape)
}
