package source

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// preemptMask is the part of preempt_count that counts disabled preemption (linux/preempt.h, PREEMPT_MASK).
const preemptMask = 0xff

// fullyPreemptible tells whether the kernel can preempt what runs in it, and so a trampoline's programs. Where that is chosen at
// boot, and was left to the kernel's configuration, nobody tells an unprivileged process; then it says no.
func fullyPreemptible() (bool, error) {
	version, err := os.ReadFile("/proc/version")
	if err != nil {
		return false, fmt.Errorf("read how the kernel was built: %w", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, fmt.Errorf("read how the kernel was started: %w", err)
	}
	return preemptionModel(string(version), string(cmdline)), nil
}

// preemptionModel looks at the words that the kernel's version has for it (init/Makefile: UTS_VERSION), and at the parameter
// preempt=.
func preemptionModel(version, cmdline string) (full bool) {
	for word := range strings.FieldsSeq(version) {
		switch word {
		case "PREEMPT", "PREEMPT_RT":
			return true
		case "PREEMPT_DYNAMIC":
			for parameter := range strings.FieldsSeq(cmdline) {
				if value, ok := strings.CutPrefix(parameter, "preempt="); ok {
					full = value == "full" || value == "lazy"
				}
			}
		}
	}
	return full
}

// Preemptible tells whether the kernel can preempt a program on the tracepoint cap_capable, by what the preemption counter
// says inside of one. If so, one program is not enough: see pair.h.
func (f *Features) Preemptible() (bool, error) {
	// Without CONFIG_PREEMPTION nothing in the kernel is preempted, and the counter may always be 0.
	if !hasFunc(f.kernel, "preempt_schedule") && !hasFunc(f.kernel, "preempt_schedule_irq") {
		return false, nil
	}
	on := &ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "cap_capable"}
	preemptible, err := f.preemptibleIn(on, attachTracepoint)
	if errors.Is(err, unix.ENOENT) {
		// Without CONFIG_KALLSYMS_ALL the kernel finds no variable by name.
		return f.PreemptibleByName(), nil
	}
	return preemptible, err
}

// iterator calls the tracepoint's functions where there are several, and is a function that has an entry. On arm64 nobody comes by it: that
// has no static calls (CONFIG_HAVE_STATIC_CALL), and so cap_capable calls the iterator itself, which the compiler then puts into it.
const iterator = "__traceiter_cap_capable"

// entryGuarded tries whether the kernel lets us have a program at the iterator's entry, calls it there, and keeps it from being
// preempted: see entry.h. It says what is not so.
func (f *Features) entryGuarded() error {
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "cap_capable", License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load an empty program: %w", err)
	}
	defer empty.Close()
	// Twice, else the iterator is not called.
	one, err := attachTracepoint(empty)
	if err != nil {
		return fmt.Errorf("attach an empty program: %w", err)
	}
	defer one.Close()
	two, err := attachTracepoint(empty)
	if err != nil {
		return fmt.Errorf("attach an empty program again: %w", err)
	}
	defer two.Close()
	kind := &ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceKprobeMulti, KernelVersion: anyVersion}
	preemptible, err := f.preemptibleIn(kind, attachEntry)
	if err == nil && preemptible {
		return errors.New("the kernel can preempt a program at " + iterator)
	}
	return err
}

// anyVersion is said to be the kernel's, which has not looked at it since Linux 5.0. The library would ask /proc/self/mem, which is
// closed to who has changed his user id.
const anyVersion = 1

func attachTracepoint(p *ebpf.Program) (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: p})
}

func attachEntry(p *ebpf.Program) (link.Link, error) {
	return link.KprobeMulti(p, link.KprobeMultiOptions{Symbols: []string{iterator}})
}

// preemptibleIn tells what the preemption counter says in a program of that kind.
func (f *Features) preemptibleIn(kind *ebpf.ProgramSpec, attach func(*ebpf.Program) (link.Link, error)) (bool, error) {
	load, err := f.loadPreemptCount()
	if err != nil {
		return false, err
	}
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Name: "preempt_count", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 2})
	if err != nil {
		return false, fmt.Errorf("make a map: %w", err)
	}
	defer seen.Close()
	// It sets one of two elements: the first where preemption is disabled, the second where it is not.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "preempt_count", Type: kind.Type, AttachType: kind.AttachType, AttachTo: kind.AttachTo, KernelVersion: kind.KernelVersion,
		License: "Dual BSD/GPL",
		Instructions: slices.Concat(load, asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.And.Imm(asm.R1, preemptMask),
			asm.JNE.Imm(asm.R1, 0, "disabled"),
			asm.StoreImm(asm.RFP, -4, 1, asm.Word),
			asm.StoreImm(asm.RFP, -8, 1, asm.Word).WithSymbol("disabled"),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		}),
	})
	if err != nil {
		return false, fmt.Errorf("load the probe: %w", err)
	}
	defer program.Close()
	l, err := attach(program)
	if err != nil {
		return false, fmt.Errorf("attach the probe: %w", err)
	}
	defer l.Close()
	for range 100 {
		_ = MakeCheck() // others will do as well
		var zero, more uint32
		if err := seen.Lookup(uint32(1), &zero); err != nil {
			return false, fmt.Errorf("read the probe: %w", err)
		}
		if err := seen.Lookup(uint32(0), &more); err != nil {
			return false, fmt.Errorf("read the probe: %w", err)
		}
		if zero != 0 || more != 0 {
			return zero != 0, nil
		}
		time.Sleep(time.Millisecond)
	}
	return false, fmt.Errorf("the probe saw no check")
}

// PreemptibleByName tells as much by what the kernel has: tracepoints are guarded by SRCU, and a program's rcu_read_lock leaves preemption
// on and is a function then (CONFIG_PREEMPT_RCU).
func (f *Features) PreemptibleByName() bool {
	return f.srcuTracepoints() && hasFunc(f.kernel, "__rcu_read_lock")
}

// srcuTracepoints tells whether tracepoints are guarded by SRCU, which leaves preemption on, by the name of what they lock.
func (f *Features) srcuTracepoints() bool {
	var v *btf.Var
	return f.kernel.TypeByName("tracepoint_srcu_srcu_data", &v) == nil
}

// stays tells whether a program may say where it is not to be preempted, and call its global functions there: so it is since 7.0, and an
// older kernel's programs on tracepoints are preempted nowhere. Up to 6.12 others than those are guarded by an SRCU of that name.
func (f *Features) stays() bool {
	return f.srcuTracepoints() && hasFunc(f.kernel, "bpf_local_irq_save")
}

// stayCalls are the kernel functions by which a program says where it is not to be preempted.
func stayCalls() []string {
	return []string{"bpf_preempt_disable", "bpf_preempt_enable", "bpf_local_irq_save", "bpf_local_irq_restore"}
}

// leaveOutStays takes those calls out that the kernel does not have, and that are not made then. The library would look for them in the
// BTF of modules, too, and ask for CAP_SYS_ADMIN.
func leaveOutStays(p *ebpf.ProgramSpec, has func(name string) bool) {
	for i := range p.Instructions {
		if ins := &p.Instructions[i]; ins.IsKfuncCall() && slices.Contains(stayCalls(), ins.Reference()) && !has(ins.Reference()) {
			*ins = asm.Mov.Imm(asm.R0, 0)
		}
	}
}

// MakeCheck has the kernel make a check of its own accord, as it does at each mapping: CAP_SYS_ADMIN, not audited.
func MakeCheck() error {
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	return unix.Munmap(page)
}

// loadPreemptCount loads preempt_count into R1.
func (f *Features) loadPreemptCount() (asm.Instructions, error) {
	if runtime.GOARCH == "arm64" {
		// arch/arm64/include/asm/preempt.h: current_thread_info()->preempt.count
		at, err := f.offset("task_struct", "thread_info", "preempt", "count")
		if err != nil {
			return nil, err
		}
		return asm.Instructions{asm.FnGetCurrentTaskBtf.Call(), asm.LoadMem(asm.R1, asm.R0, int16(at), asm.Word)}, nil
	}
	// arch/x86: a per-CPU variable, which from 6.2 to 6.14 was a member of another.
	for _, v := range []struct{ name, member string }{{"__preempt_count", ""}, {"pcpu_hot", "preempt_count"}} {
		var found *btf.Var
		if err := f.kernel.TypeByName(v.name, &found); err != nil {
			continue
		}
		id, err := f.kernel.TypeID(found)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", v.name, err)
		}
		at := uint32(0)
		if v.member != "" {
			if at, err = f.offset(v.name, v.member); err != nil {
				return nil, err
			}
		}
		const pseudoBTFID = 3 // BPF_PSEUDO_BTF_ID: the constant is a variable of the kernel's BTF
		address := asm.LoadImm(asm.R1, int64(id), asm.DWord)
		address.Src = pseudoBTFID
		return asm.Instructions{address, asm.FnThisCpuPtr.Call(), asm.LoadMem(asm.R1, asm.R0, int16(at), asm.Word)}, nil
	}
	return nil, fmt.Errorf("the kernel's BTF has no preempt_count")
}

// offset follows members from a struct, and returns the offset of the last in bytes.
func (f *Features) offset(name string, path ...string) (uint32, error) {
	var s *btf.Struct
	if err := f.kernel.TypeByName(name, &s); err != nil {
		return 0, fmt.Errorf("find struct %s: %w", name, err)
	}
	var typ btf.Type = s
	at := uint32(0)
	for _, member := range path {
		found, inside, ok := findMember(typ, member)
		if !ok {
			return 0, fmt.Errorf("struct %s has no %s", name, member)
		}
		typ, at = found, at+inside
	}
	return at, nil
}

// findMember looks into anonymous members, too.
func findMember(typ btf.Type, name string) (found btf.Type, at uint32, ok bool) {
	var members []btf.Member
	switch t := btf.UnderlyingType(typ).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m.Type, m.Offset.Bytes(), true
		}
		if m.Name == "" {
			if found, inside, ok := findMember(m.Type, name); ok {
				return found, m.Offset.Bytes() + inside, true
			}
		}
	}
	return nil, 0, false
}
