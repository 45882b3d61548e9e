package programs

import (
	"fmt"
	"go/constant"
	"go/token"
	"go/types"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// TestABI compares the numbers in abi.go with those in abi.h.
func TestABI(t *testing.T) {
	defined := enumsOf(t, "abi.h")
	for name, want := range map[string]int64{
		"CAPABILITIES": Capabilities, "SYMBOL_SIZE": SymbolSize, "PAGE_SLOTS": PageSlots, "PAIR_BITS": PairBits,
		"STAT_PAGE": StatPage, "CACHE_PAGE": CachePage, "SITE_PAGE": SitePage,
		"PENDING_BITS": PendingBits, "SLOT_BITS": SlotBits,
		"WHAT_DENIED": WhatDenied, "WHAT_USERNS": WhatUserNS, "WHAT_CLASS_SHIFT": WhatClassShift,
		"WHAT_KIND_SHIFT": WhatKindShift, "WHAT_KIND": WhatKind,
		"HELD_ALL": HeldAll, "HELD_SLOTS": HeldSlots, "HELD_MOST": HeldMost, "HELD_NAMES": HeldNames,
		"SITE_FIXED": SiteFixed, "WHO_BORROWED": WhoBorrowed, "WHO_FIXED": WhoFixed,
		"CLASS_UNKNOWN": ClassUnknown, "CLASS_NOAUDIT": ClassNoAudit, "CLASS_AUDITED": ClassAudited,
		"KIND_FILE": KindFile, "KIND_KERNEL": KindKernel, "KIND_EXITING": KindExiting, "KIND_OTHER": KindOther,
		"POOL_GRANTED": PoolGranted, "PATH_IN_SOCKADDR": PathInSockaddr,
		"CALLS_COMPAT": CallsCompat, "CALLS_URING": CallsUring,
		"ROLE_NONE": RoleNone, "ROLE_CAPABLE": RoleCapable, "ROLE_ITERATOR": RoleIterator, "ROLE_SECURITY": RoleSecurity,
		"ROLE_AUDITED": RoleAudited, "ROLE_NOAUDIT": RoleNoAudit, "ROLE_BY_CALLER": RoleByCaller,
		"ROLE_CALLER_AUDITED": RoleCallerAudited, "ROLE_CALLER_NOAUDIT": RoleCallerNoAudit,
	} {
		if got, ok := defined[name]; !ok || got != want {
			t.Errorf("%s is %d in abi.h (defined: %t) and %d in abi.go", name, got, ok, want)
		}
	}
}

// enumsOf reads the enums of a header whose values are integer expressions.
func enumsOf(t *testing.T, name string) map[string]int64 {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(src), "")
	defined := map[string]int64{}
	for _, enum := range regexp.MustCompile(`(?s)enum \{(.*?)\}`).FindAllStringSubmatch(text, -1) {
		next := int64(0)
		for member := range strings.SplitSeq(enum[1], ",") {
			name, value, given := strings.Cut(strings.TrimSpace(member), "=")
			if name == "" {
				continue
			}
			if given {
				value = regexp.MustCompile(`[A-Z_]+`).ReplaceAllStringFunc(value, func(n string) string { return fmt.Sprint(defined[n]) })
				result, err := types.Eval(token.NewFileSet(), nil, token.NoPos, value)
				if err != nil {
					t.Fatal(err)
				}
				next, _ = constant.Int64Val(result.Value)
			}
			defined[strings.TrimSpace(name)] = next
			next++
		}
	}
	return defined
}

// fastPath is what a program has in its own function, before the others that it calls.
func fastPath(p *ebpf.ProgramSpec) asm.Instructions {
	for i, ins := range p.Instructions {
		if i > 0 && ins.Symbol() != "" {
			return p.Instructions[:i]
		}
	}
	return p.Instructions
}

// TestFastPathStack: a function with 64 bytes on its stack or more, in steps of 16, would be given a stack in a page of its own
// (check_max_stack_depth_subprog, kernel/bpf/verifier.c), see check in body.h.
func TestFastPathStack(t *testing.T) {
	const limit = 48
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"tracepoint": LoadTracepoint, "tracepoint_first": LoadTracepoint, "entry_first": LoadTracepoint, "fexit": LoadFexit, "fexit_first": LoadFexit,
	} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if name == "entry_first" && spec.Programs[name] == nil {
			continue // on arm64
		}
		depth := 0
		instructions := fastPath(spec.Programs[name])
		for _, ins := range instructions {
			switch class := ins.OpCode.Class(); {
			case class.IsStore() && ins.Dst == asm.R10, class.IsLoad() && ins.Src == asm.R10:
				depth = max(depth, -int(ins.Offset))
			}
		}
		if len(instructions) < 100 || depth == 0 || depth > limit {
			t.Errorf("%s: %d bytes on the stack of a function of %d instructions, want 1 to %d", name, depth, len(instructions), limit)
		}
	}
}

// TestFastPathCalls: a helper that the kernel has to call costs much of what the fast path does, see runs_on in pair.h. So that asks for the
// current task once, where it looks who asked. The others that it calls are compiled in, the number of the CPU since 6.10.
func TestFastPathCalls(t *testing.T) {
	inline := []asm.BuiltinFunc{asm.FnMapLookupElem, asm.FnGetSmpProcessorId}
	for object, programs := range map[string]map[string]int{
		"tracepoint_x86_bpfel.o":   {"tracepoint": 1, "tracepoint_first": 1, "tracepoint_second": 0, "entry_first": 1, "entry_second": 0},
		"tracepoint_arm64_bpfel.o": {"tracepoint": 1, "tracepoint_first": 1, "tracepoint_second": 0},
		"fexit_x86_bpfel.o":        {"fexit": 1, "fexit_first": 1, "fexit_second": 0},
		"fexit_arm64_bpfel.o":      {"fexit": 1, "fexit_first": 1, "fexit_second": 0},
	} {
		spec, err := ebpf.LoadCollectionSpec(object)
		if err != nil {
			t.Fatal(err)
		}
		for program, want := range programs {
			asks, ways := 0, 0
			instructions := fastPath(spec.Programs[program])
			for _, ins := range instructions {
				switch op := ins.OpCode.JumpOp(); {
				case op == asm.Call && ins.Reference() == "meet" && ways == 0:
					t.Errorf("%s: %s: there is no way around who was met last", object, program)
				case ins.OpCode.Class().IsJump() && op != asm.Call && op != asm.Ja:
					ways++
				}
				switch f := asm.BuiltinFunc(ins.Constant); {
				case !ins.IsBuiltinCall() || slices.Contains(inline, f):
				case f == asm.FnGetCurrentTaskBtf:
					asks++
				default:
					t.Errorf("%s: %s: its fast path calls %v", object, program, f)
				}
			}
			if asks != want || len(instructions) < 50 {
				t.Errorf("%s: %s: its fast path asks %d times which task it is, in %d instructions; want %d, in 50 or more", object, program, asks, len(instructions), want)
			}
		}
	}
}

// TestSettleOrder: what is pending is taken out of its entry before it is added to anything, see settle in body.h.
func TestSettleOrder(t *testing.T) {
	for _, object := range []string{"tracepoint_x86_bpfel.o", "tracepoint_arm64_bpfel.o", "fexit_x86_bpfel.o", "fexit_arm64_bpfel.o"} {
		spec, err := ebpf.LoadCollectionSpec(object)
		if err != nil {
			t.Fatal(err)
		}
		program, _, _ := strings.Cut(object, "_")
		var stores []int16 // at which offset, in their order; those to the stack apart
		inside := false
		for _, ins := range spec.Programs[program].Instructions {
			if symbol := ins.Symbol(); symbol != "" {
				inside = symbol == "settle"
			}
			if inside && ins.OpCode.Class().IsStore() && ins.Dst != asm.R10 {
				stores = append(stores, ins.Offset)
			}
		}
		want := []int16{int16(unsafe.Offsetof(Cached{}.Counted)), 0, 0}
		if !slices.Equal(stores, want) {
			t.Errorf("%s: settle stores at offsets %d, want %d: the entry's, then the two counters'", object, stores, want)
		}
	}
}

// TestStays: what takes long is not preempted, and who is to be preempted by its end is not while he is in the program, see stay in body.h.
func TestStays(t *testing.T) {
	stays := []string{"bpf_preempt_disable", "bpf_local_irq_save", "bpf_preempt_enable", "bpf_local_irq_restore"}
	for object, programs := range map[string]map[string]string{ // and the function that makes the calls
		"tracepoint_x86_bpfel.o":   {"tracepoint_first": "slowly_cast", "tracepoint_second": "unmarked", "entry_second": "unmarked_entry"},
		"tracepoint_arm64_bpfel.o": {"tracepoint_first": "slowly_cast", "tracepoint_second": "unmarked"},
		"fexit_x86_bpfel.o":        {"fexit_first": "slowly_cast", "fexit_second": "unmarked"},
		"fexit_arm64_bpfel.o":      {"fexit_first": "slowly_cast", "fexit_second": "unmarked"},
	} {
		spec, err := ebpf.LoadCollectionSpec(object)
		if err != nil {
			t.Fatal(err)
		}
		for program, where := range programs {
			calls := map[string][]string{} // of these, by the function that makes them
			within := ""
			for _, ins := range spec.Programs[program].Instructions {
				if symbol := ins.Symbol(); symbol != "" {
					within = symbol
				}
				if slices.Contains(stays, ins.Reference()) {
					calls[within] = append(calls[within], ins.Reference())
				}
			}
			want := map[string][]string{where: stays}
			if !maps.EqualFunc(calls, want, slices.Equal) {
				t.Errorf("%s: %s: %v, want %v", object, program, calls, want)
			}
		}
	}
}
