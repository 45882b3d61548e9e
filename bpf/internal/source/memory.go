package source

import (
	"errors"
	"math/bits"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Memory is about how much the kernel takes for what is counted in.
type Memory struct {
	Maps  uint64 // from the start
	Names uint64 // at most besides, for the paths of cgroups as they come
}

// What the kernel adds to each element of a hash table, and a bucket's and a cache's unit (kernel/bpf/hashtab.c, struct htab_elem and
// struct bucket; mm/slab_common.c).
const (
	elementSize = 48
	bucketSize  = 16
	noPrealloc  = 1 // BPF_F_NO_PREALLOC
)

// memoryOf adds up what maps of these sizes take.
func memoryOf(spec *ebpf.CollectionSpec, cpus int) (m Memory) {
	align := func(n, to uint64) uint64 { return (n + to - 1) / to * to }
	page := uint64(os.Getpagesize())
	for _, s := range spec.Maps {
		key, value, entries := align(uint64(s.KeySize), 8), align(uint64(s.ValueSize), 8), uint64(s.MaxEntries)
		switch s.Type {
		case ebpf.Hash:
			m.Maps += bucketSize << bits.Len64(entries-1)
			if s.Flags&noPrealloc != 0 {
				m.Names += entries << bits.Len64(elementSize+key+value-1) // each from a cache of such a power of two
			} else {
				m.Maps += (entries + uint64(cpus)) * (elementSize + key + value)
			}
		case ebpf.PerCPUArray:
			m.Maps += entries * value * uint64(cpus)
		case ebpf.Queue:
			m.Maps += align(entries*uint64(s.ValueSize), page)
		case ebpf.RingBuf:
			m.Maps += entries + 3*page
		case ebpf.Array:
			m.Maps += align(entries*value, page)
		default: // of tasks, for a moment and a few bytes each
		}
	}
	return m
}

// Exhausted tells an error of a machine or a process that has no more to give. It is none of the source's: another would fail, too,
// or be taken though it is the lesser one.
func Exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}
