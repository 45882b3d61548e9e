package bpf

import (
	"testing"
	"unsafe"

	"capability_exporter/bpf/internal/programs"
)

// sharedMemory is what the kernel side counts in, without a kernel. Before each read it does what it is told to do by then.
type sharedMemory struct {
	raw    []byte
	reads  int
	before func(read int)
}

func (m *sharedMemory) ReadAt(p []byte, offset int64) (int, error) {
	if m.before != nil {
		m.before(m.reads)
	}
	m.reads++
	return copy(p, m.raw[offset:]), nil
}

const (
	fakeBanks                  = 2
	fakeWhoPage, fakeBankPages = programs.SitePage + 2, programs.SitePage + 4
)

func newSharedMemory() *sharedMemory {
	return &sharedMemory{raw: make([]byte, fakeBanks*fakeBankPages*unsafe.Sizeof(programs.Page{}))}
}

func (m *sharedMemory) counters() *counters {
	return newCounters(m, fakeBanks, &programs.SettingValues{WhoPage: fakeWhoPage, BankPages: fakeBankPages})
}

// at is what stands on a page of a bank.
func at[T any](m *sharedMemory, bank, page uintptr) *T {
	return (*T)(unsafe.Pointer(&m.raw[(bank*fakeBankPages+page)*unsafe.Sizeof(programs.Page{})]))
}

type countPage = [programs.PageSlots]uint64

// TestReadCounters moves what is pending to the counters while they are read, as settle in programs/body.h does: its first step before
// any of the reads, its second before that or any later one. Nothing is ever counted twice, nor less than before, and all in the end.
func TestReadCounters(t *testing.T) {
	const n, site, who = 5, 700, 600
	const reads = fakeBanks * (fakeBankPages - programs.CachePage)
	for _, known := range []bool{false, true} {
		for first := range reads {
			for second := first; second < reads; second++ {
				m := newSharedMemory()
				c := m.counters()
				pending := &at[programs.Cache](m, 1, programs.CachePage+5).Cached[3].Counted
				const slots = site<<programs.PendingBits | (who+1)<<(programs.PendingBits+programs.SlotBits)
				*pending = n | slots
				read := func() {
					t.Helper()
					if err := c.read(); err != nil {
						t.Fatal(err)
					}
				}
				if known {
					read()
				}
				m.reads = 0
				m.before = func(read int) {
					if read == first {
						*pending = slots
					}
					if read == second {
						at[countPage](m, 1, programs.SitePage+site/programs.PageSlots)[site%programs.PageSlots] += n
						at[countPage](m, 1, fakeWhoPage+who/programs.PageSlots)[who%programs.PageSlots] += n
					}
				}
				read()
				if m.reads != reads {
					t.Fatalf("%d reads, want %d", m.reads, reads)
				}
				if s, w := c.site(site), c.who(who); s > n || w > n || known && (s != n || w != n) {
					t.Fatalf("%d and %d checks of %d, which are known: %t, and settled before reads %d and %d", s, w, n, known, first, second)
				}
				m.before = nil
				read()
				if s, w := c.site(site), c.who(who); s != n || w != n {
					t.Fatalf("%d and %d checks of %d in the end", s, w, n)
				}
			}
		}
	}
}

// TestReadAllBanks: a slot's count is what all banks hold, and so are the losses.
func TestReadAllBanks(t *testing.T) {
	m := newSharedMemory()
	for bank := range uintptr(fakeBanks) {
		for page := uintptr(programs.SitePage); page < fakeBankPages; page++ {
			for slot := range uint64(programs.PageSlots) {
				at[countPage](m, bank, page)[slot] = uint64(page)*1000 + slot
			}
		}
		at[programs.Cache](m, bank, programs.CachePage).Cached[0].Counted = 1 | 3<<programs.PendingBits // not audited
		*at[programs.StatValues](m, bank, programs.StatPage) = programs.StatValues{
			Lost: 1, Withheld: 10, Unwinds: 100, Declined: 1000, Second: 10_000, GoneLost: 100_000, Slow: 7, Busy: 7,
		}
	}
	c := m.counters()
	if err := c.read(); err != nil {
		t.Fatal(err)
	}
	for slot := range uint32(2 * programs.PageSlots) {
		page, i := uint64(slot/programs.PageSlots), uint64(slot%programs.PageSlots)
		site, who := fakeBanks*((programs.SitePage+page)*1000+i), fakeBanks*((fakeWhoPage+page)*1000+i)
		if slot == 3 {
			site += fakeBanks
		}
		if c.site(slot) != site || c.who(slot) != who {
			t.Fatalf("slot %d: %d and %d, want %d and %d", slot, c.site(slot), c.who(slot), site, who)
		}
	}
	got, err := c.losses()
	want := programs.StatValues{Lost: 2, Withheld: 20, Unwinds: 200, Declined: 2000, Second: 20_000, GoneLost: 200_000}
	if err != nil || got != want {
		t.Errorf("losses %+v, %v, want %+v", got, err, want)
	}
}
