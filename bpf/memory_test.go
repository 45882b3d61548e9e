package bpf

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// TestMemory holds what is said to be needed against what the kernel says that it took.
func TestMemory(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var exact *btf.Func
	if kernel.TypeByName("htab_map_mem_usage", &exact) != nil {
		t.Skip("the kernel does not tell what a map takes, as it does since Linux 6.4")
	}
	for _, limit := range []int{64, 4096, 65536} {
		for _, pair := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, two programs: %t", limit, pair), func(t *testing.T) {
				var said Memory
				tr := openLive(t, Options{SeriesLimit: limit, pair: &pair, Fits: func(m Memory) error { said = m; return nil }})
				var took uint64
				for name, m := range tr.objects.Collection.Maps {
					info, err := m.Info()
					if err != nil {
						t.Fatal(err)
					}
					n, ok := info.Memlock()
					if !ok {
						t.Fatalf("%s: not told", name)
					}
					took += n
				}
				if said.Maps < took*95/100 || said.Maps > took*110/100 {
					t.Errorf("%d bytes are said to be needed, and %d are taken", said.Maps, took)
				}
				if least := uint64(limit) * 4096; said.Names < least || said.Names > 4*least {
					t.Errorf("%d bytes for the paths of %d cgroups", said.Names, limit)
				}
			})
		}
	}
}

// TestDoesNotFit: where there is no memory for one source, no other one is tried.
func TestDoesNotFit(t *testing.T) {
	needsRoot(t)
	asked := 0
	little := errors.New("too little")
	tr, err := Open(Options{Fits: func(Memory) error { asked++; return errors.Join(little, unix.ENOMEM) }})
	if err == nil {
		tr.Close()
	}
	if !errors.Is(err, little) || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}
