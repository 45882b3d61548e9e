package bpf

import (
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	"capability_exporter/bpf/internal/programs"
)

// counters read what the kernel side has counted in the memory that it shares, and sum each slot over banks and CPUs. They know
// which slot has how much, and not whose it is.
type counters struct {
	pages              io.ReaderAt
	banks              uint32 // over all CPUs
	bankPages, whoPage uint32

	page        [programs.PageSlots]uint64
	cache       programs.Cache
	sums        []uint64 // of a bank's pages from SitePage on
	counts      []uint64 // the greatest that each of the sums has been
	sites, whos []uint64 // parts of counts, by slot
	fence       atomic.Uint32
}

// newCounters reads pages, which hold that many banks one behind the other, laid out as v says.
func newCounters(pages io.ReaderAt, banks uint32, v *programs.SettingValues) *counters {
	c := &counters{pages: pages, banks: banks, bankPages: v.BankPages, whoPage: v.WhoPage}
	c.counts = make([]uint64, (v.BankPages-programs.SitePage)*programs.PageSlots)
	c.sums = make([]uint64, len(c.counts))
	whos := (v.WhoPage - programs.SitePage) * programs.PageSlots
	c.sites, c.whos = c.counts[:whos], c.counts[whos:]
	return c
}

// site and who are what a slot had counted when read was last called.
func (c *counters) site(slot uint32) uint64 { return c.sites[slot] }
func (c *counters) who(slot uint32) uint64  { return c.whos[slot] }

// read sums each slot over banks and CPUs: what stands in its counters, and what is pending in a cache.
//
// What is pending moves to the counters while we read (settle in programs/body.h): it is taken from the one before it is added to
// the other. We read them in the same order, so what is under way is in neither, at the worst, and nothing is ever in both. So a
// sum may be too small for once, and never too large: it counts when it exceeds what has been read before.
func (c *counters) read() error {
	clear(c.sums)
	for bank := range c.banks {
		for page := uint32(programs.SitePage); page < c.bankPages; page++ {
			if err := readAt(c.pages, c.at(bank, page), &c.page); err != nil {
				return fmt.Errorf("read the counters: %w", err)
			}
			sums := c.sums[(page-programs.SitePage)*programs.PageSlots:]
			for slot, n := range &c.page {
				sums[slot] += n
			}
		}
	}
	c.fence.Add(1) // arm64 may read the later first
	for bank := range c.banks {
		for page := uint32(programs.CachePage); page < programs.SitePage; page++ {
			if err := readAt(c.pages, c.at(bank, page), &c.cache); err != nil {
				return fmt.Errorf("read what is pending: %w", err)
			}
			for i := range c.cache.Cached {
				n, site, who, audited := programs.Pending(&c.cache.Cached[i])
				c.sums[site] += n
				if audited {
					c.sums[len(c.sites)+int(who)] += n
				}
			}
		}
	}
	for i, sum := range c.sums {
		c.counts[i] = max(c.counts[i], sum)
	}
	return nil
}

// losses sums the kernel side's statistics.
func (c *counters) losses() (sum programs.StatValues, err error) {
	for bank := range c.banks {
		var v programs.StatValues
		if err := readAt(c.pages, c.at(bank, programs.StatPage), &v); err != nil {
			return sum, fmt.Errorf("read the statistics: %w", err)
		}
		sum.Lost += v.Lost
		sum.Withheld += v.Withheld
		sum.Unwinds += v.Unwinds
		sum.Declined += v.Declined
		sum.Second += v.Second
		sum.GoneLost += v.GoneLost
	}
	return sum, nil
}

// at is where a page of a bank begins, in bytes.
func (c *counters) at(bank, page uint32) int64 {
	return int64(bank*c.bankPages+page) * int64(unsafe.Sizeof(programs.Page{}))
}

// readAt copies what stands at an offset of a map's memory.
func readAt[T any](m io.ReaderAt, offset int64, v *T) error {
	_, err := m.ReadAt(bytesOf(v), offset)
	return err
}

// record reads one slot's record from a map's memory.
func record[T any](m io.ReaderAt, slot uint32, v *T) error {
	if err := readAt(m, int64(slot)*int64(unsafe.Sizeof(*v)), v); err != nil {
		return fmt.Errorf("read the record of slot %d: %w", slot, err)
	}
	return nil
}
