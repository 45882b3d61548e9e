// Package callers knows who asks without audit: which part each kernel function plays on the way to cap_capable, by its name, and
// where on the stack those functions' return addresses stand, learned from stacks that were unwound. It is pure: it knows nothing of
// how a stack is had, nor of what is counted.
package callers

import (
	"runtime"
	"slices"

	"capability_exporter/bpf/internal/programs"
)

// Agreed is the number of unwound stacks that must agree on an offset before it is used.
const Agreed = 3

// An agreement is the set of offsets at which a return address stood in each of the stacks seen. The right offset is always
// among them, so once only one is left it is the right one. Copies of earlier frames, which lie about on any stack, drop out
// as soon as one stack does not have them.
type agreement struct {
	offsets []uint32
	stacks  int
}

// add takes in where one more stack has the address, and starts over where that contradicts all before it.
func (a *agreement) add(found []uint32) {
	var both []uint32
	for _, o := range a.offsets {
		for _, f := range found {
			if o == f {
				both = append(both, o)
			}
		}
	}
	if len(both) == 0 {
		a.offsets, a.stacks = found, 1
		return
	}
	a.offsets, a.stacks = both, a.stacks+1
}

// settled returns the offset, once it is known.
func (a *agreement) settled() (offset uint32, ok bool) {
	if len(a.offsets) == 1 && a.stacks >= Agreed {
		return a.offsets[0], true
	}
	return 0, false
}

// find returns the offsets above after at which words hold the address, as distances from base.
func find(words []uint64, address uint64, base, after uint32) []uint32 {
	var found []uint32
	for i, w := range words {
		if at := uint32(i) * 8; w == address && at > after {
			found = append(found, at-base)
		}
	}
	return found
}

// follow goes from one frame to the next on a stack of frame records, each a return address above the address of the next record,
// and returns where the given return addresses stand, in this order and with any others between. The first two may stand anywhere;
// they say what address the stack has.
func follow(words, addresses []uint64, first, second int) (at []uint32, ok bool) {
	const word = 8
	base := words[first-1] - uint64(second-1)*word
	at = []uint32{uint32(first) * word, uint32(second) * word}
	for i := second; len(at) < len(addresses); {
		to := words[i-1] - base
		if to%word != 0 || to/word < uint64(i) || to/word+1 >= uint64(len(words)) {
			return nil, false
		}
		i = int(to/word) + 1
		if words[i] == addresses[len(at)] {
			at = append(at, uint32(i)*word)
		}
	}
	return at, true
}

// walk is where return addresses stand, if there is just one way to go from frame to frame past all of them.
func walk(words, addresses []uint64) (at []uint32, ok bool) {
	if len(addresses) < 3 { // any two words can be taken for records
		return nil, false
	}
	for first := 1; first < len(words); first++ {
		if words[first] != addresses[0] {
			continue
		}
		for second := first + 1; second < len(words); second++ {
			if words[second] != addresses[1] {
				continue
			}
			if found, good := follow(words, addresses, first, second); good {
				if ok {
					return nil, false
				}
				at, ok = found, true
			}
		}
	}
	return at, ok
}

type pairKey struct{ caller, wrapper uint64 }

type learnedPair struct {
	asker agreement
	class uint32
}

// pairLimit keeps the search for a seed short: with so many pairs, some ten thousand seeds must be tried until each has an
// entry of its own. The kernel has some thirty pairs.
const pairLimit = 44

// A Learner turns unwound stacks, each beside the raw words it was found in, into the offsets at which the kernel side can
// peek. Everything it finds is verified by the kernel side at each use.
type Learner struct {
	opts bool // the source knows the class, so a pair need not agree on one
	// The stack is one of frame records, so which of several copies of a return address is the frame's can be told. Where an
	// fentry program's trampoline has stood on arm64, a copy of cap_capable's always lies about.
	records bool

	capable  [2]agreement // with one program on the tracepoint, with several
	iterator agreement
	address  [2]uint64 // return addresses into cap_capable
	iterate  uint64    // return address into __traceiter_cap_capable
	security uint64

	trampoline uint64 // return address into the last one that has been seen on the stack
	shift      agreement

	// Distances from cap_capable's return address; the frames between are the same in both layouts. What is beyond a trampoline
	// is as far from where it would be without one as the shift says.
	caller, wrapper agreement
	pairs           map[pairKey]*learnedPair
}

// NewLearner makes a learner that knows nothing. opts tells that the source knows each check's class.
func NewLearner(opts bool) *Learner {
	// arm64's kernel unwinds by frame records and always has them; amd64's has them only if it is built so, and Debian's is not.
	return &Learner{opts: opts, records: runtime.GOARCH == "arm64", pairs: map[pairKey]*learnedPair{}}
}

// Learn takes in one stack and tells whether that can have changed what is known.
func (l *Learner) Learn(s *programs.Sample) bool {
	if s.Capable == 0 || s.Caller == 0 {
		return false
	}
	words := s.Words[:]
	where := find
	if l.records {
		var addresses []uint64
		for _, a := range []uint64{s.Iterator, s.Capable, s.Trampoline, s.Caller, s.Wrapper, s.Asker} {
			if a != 0 {
				addresses = append(addresses, a)
			}
		}
		if at, ok := walk(words, addresses); ok {
			where = func(_ []uint64, address uint64, base, after uint32) []uint32 {
				if i := slices.Index(addresses, address); i >= 0 && at[i] > after {
					return []uint32{at[i] - base}
				}
				return nil
			}
		}
	}
	multi := 0
	if s.Iterator != 0 {
		multi = 1
		if l.iterate != s.Iterator {
			l.iterate, l.iterator = s.Iterator, agreement{}
		}
		l.iterator.add(where(words, s.Iterator, 0, 0))
	}
	if l.address[multi] != s.Capable {
		l.address[multi], l.capable[multi] = s.Capable, agreement{}
	}
	l.capable[multi].add(where(words, s.Capable, 0, 0))
	base, ok := l.capable[multi].settled()
	if !ok {
		return true
	}
	above := base
	returnsTo := s.Caller
	if s.Trampoline != 0 {
		returnsTo = s.Trampoline
	}
	l.caller.add(where(words, returnsTo, base, above))
	callerAfter, ok := l.caller.settled()
	if !ok {
		return true
	}
	above = base + callerAfter
	if s.Trampoline != 0 {
		if l.trampoline != s.Trampoline {
			l.trampoline, l.shift = s.Trampoline, agreement{}
		}
		l.shift.add(where(words, s.Caller, above, above))
		shift, ok := l.shift.settled()
		if !ok {
			return true
		}
		base, above = base+shift, above+shift
	}
	if s.Wrapper != 0 {
		l.security = s.Caller
		l.wrapper.add(where(words, s.Wrapper, base, above))
		wrapperAfter, ok := l.wrapper.settled()
		if !ok {
			return true
		}
		above = base + wrapperAfter
	}
	class := s.Class
	if l.opts {
		class = programs.ClassAudited // not looked at
	} else if s.ByCaller != 0 {
		class = programs.ClassUnknown
	}
	if s.Asker == 0 || class == programs.ClassUnknown {
		return true
	}
	key := pairKey{s.Caller, s.Wrapper}
	p := l.pairs[key]
	if p == nil {
		if len(l.pairs) == pairLimit {
			return true // the rest goes on being unwound
		}
		p = &learnedPair{class: class}
		l.pairs[key] = p
	}
	if p.class != class {
		p.class = programs.ClassUnknown // two answers: unwind each
	}
	p.asker.add(where(words, s.Asker, base, above))
	return true
}

// Knows is how many ways to cap_capable are known well enough to be peeked at.
func (l *Learner) Knows() (n int) {
	for _, p := range l.pairs {
		if _, ok := p.asker.settled(); ok && p.class != programs.ClassUnknown {
			n++
		}
	}
	return n
}

// Publish writes what is settled into v.
func (l *Learner) Publish(v *programs.SettingValues) {
	put := func(to *programs.Layout, i int) {
		*to = programs.Layout{Capable: ^uint64(0)}
		if at, ok := l.capable[i].settled(); ok {
			to.Capable, to.CapableAt = l.address[i], at
		}
	}
	put(&v.Single, 0)
	put(&v.Multi, 1)
	if at, ok := l.iterator.settled(); ok {
		v.Multi.Iterator, v.Multi.IteratorAt = l.iterate, at
	} else {
		v.Multi.Capable = ^uint64(0)
	}
	v.Detour.Trampoline, v.Detour.Shift = 0, 0
	if shift, ok := l.shift.settled(); ok {
		v.Detour.Trampoline, v.Detour.Shift = l.trampoline, shift
	}
	var known []programs.Pair
	caller, ok := l.caller.settled()
	if ok {
		v.CallerAfter = caller
		wrapper, wrapped := l.wrapper.settled()
		v.Security, v.WrapperAfter = l.security, wrapper
		for k, p := range l.pairs {
			if at, ok := p.asker.settled(); ok && p.class != programs.ClassUnknown && (wrapped || k.wrapper == 0) {
				known = append(known, programs.Pair{Caller: k.caller, Wrapper: k.wrapper, AskerAfter: at, Class: p.class})
			}
		}
	}
	v.PairSeed, v.Pairs = place(known, v.PairSeed)
}

type pairTable = [1 << programs.PairBits]programs.Pair

// place puts each pair on an entry of its own: the kernel side looks at one only. It keeps the seed it is given if that will
// do, so that most changes move nothing.
func place(known []programs.Pair, seed uint64) (uint64, pairTable) {
	for next := uint64(1); ; next++ {
		if table, ok := fit(known, seed); ok && seed != 0 {
			return seed, table
		}
		// splitmix64's output function (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
		seed = next * 0x9E3779B97F4A7C15
		seed = (seed ^ seed>>30) * 0xBF58476D1CE4E5B9
		seed = (seed ^ seed>>27) * 0x94D049BB133111EB
		seed ^= seed >> 31
	}
}

func fit(known []programs.Pair, seed uint64) (table pairTable, ok bool) {
	for _, p := range known {
		i := (p.Caller ^ p.Wrapper<<1) * seed >> (64 - programs.PairBits)
		if table[i].Caller != 0 {
			return table, false
		}
		table[i] = p
	}
	return table, true
}
