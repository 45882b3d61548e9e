package source

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"capability_exporter/bpf/internal/programs"
)

// Held is the loaded program that looks at what processes hold. It is apart from those that count: a kernel that refuses it is none the
// less counted on.
type Held struct {
	Looks, Slots, Names *ebpf.Memory
	objects             programs.HeldObjects
}

// OpenHeld loads it. seed is odd, and most is how many cgroups may hold something.
func OpenHeld(f *Features, seed uint64, most uint32) (*Held, error) {
	spec, err := programs.LoadHeld()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	spec.Programs["look"].KernelVersion = anyVersion
	full, err := allCapabilities()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(spec.Variables["seed"].Set(seed), spec.Variables["full"].Set(full), spec.Variables["most"].Set(most)); err != nil {
		return nil, fmt.Errorf("set the BPF object's variables: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	h := &Held{}
	if err := spec.LoadAndAssign(&h.objects, &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: f.kernel}}); err != nil {
		return nil, f.explain(fmt.Errorf("load the BPF objects: %w", err), memoryOf(spec, cpus))
	}
	for _, m := range []struct {
		from *ebpf.Map
		to   **ebpf.Memory
	}{{h.objects.Looks, &h.Looks}, {h.objects.HeldSlots, &h.Slots}, {h.objects.HeldNames, &h.Names}} {
		if *m.to, err = m.from.Memory(); err != nil {
			return nil, errors.Join(fmt.Errorf("map the memory of %s: %w", m.from, err), h.Close())
		}
	}
	return h, nil
}

// Begin begins a look.
func (h *Held) Begin(number uint32) error {
	if err := h.objects.Looks.Put(uint32(0), programs.HeldLook{Number: number}); err != nil {
		return fmt.Errorf("begin a look: %w", err)
	}
	return nil
}

// Run goes on with it, for a while.
func (h *Held) Run() error {
	if _, err := h.objects.Look.Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("run the BPF program look: %w", err)
	}
	return nil
}

// Info is what the kernel says of the program.
func (h *Held) Info() (*ebpf.ProgramInfo, error) { return h.objects.Look.Info() }

// Close frees all.
func (h *Held) Close() error { return h.objects.Close() }

// allCapabilities are those that the kernel knows, which it tells also where /proc is hidden.
func allCapabilities() (set uint64, err error) {
	for c := range programs.Capabilities {
		switch _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); {
		case errors.Is(err, unix.EINVAL):
			return set, nil
		case err != nil:
			return 0, fmt.Errorf("ask which capabilities the kernel knows: %w", err)
		}
		set |= 1 << c
	}
	return set, nil
}
