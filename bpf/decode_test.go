package bpf

import (
	"fmt"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/asm"
)

func recordOf(names string, truncated bool) *cgroupRecord {
	r := &cgroupRecord{Len: uint32(len(names))}
	if truncated {
		r.Truncated = 1
	}
	copy(r.Names[:], names)
	return r
}

func TestCgroupPath(t *testing.T) {
	for names, want := range map[string]string{
		"":                                "/",
		"a\x00":                           "/a",
		"leaf\x00middle\x00top\x00":       "/top/middle/leaf",
		"\n\x00\xff\x00":                  "/\xff/\n",
		strings.Repeat("d\x00", 2048):     strings.Repeat("/d", 2048),
		strings.Repeat("x", 255) + "\x00": "/" + strings.Repeat("x", 255),
	} {
		if got := recordOf(names, false).path(7); got.Path != want || got.ID != 7 || got.Truncated {
			t.Errorf("%.20q: %+v", names, got)
		}
	}
	if got := recordOf("leaf\x00", true).path(7); !got.Truncated || got.Path != "/leaf" {
		t.Errorf("%+v", got)
	}
}

// FuzzDecode reads records of any content: the kernel side is trusted, but its memory is shared with whoever may write it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("leaf\x00top\x00"), uint32(9))
	f.Add([]byte{}, uint32(1<<31))
	f.Fuzz(func(t *testing.T, raw []byte, n uint32) {
		r := cgroupRecord{Len: n}
		copy(r.Names[:], raw)
		if c := r.path(1); !strings.HasPrefix(c.Path, "/") {
			t.Errorf("%q is no path", c.Path)
		}
		for _, err := range []error{errOf(decode[announcementRecord](raw)), errOf(decode[sample](raw))} {
			if err == nil && len(raw) < int(unsafe.Sizeof(sample{})) && len(raw) < int(unsafe.Sizeof(announcementRecord{})) {
				t.Error("decoded a record that is too short")
			}
		}
		if name := processOf(uint8(n), raw).Name; strings.Contains(name, "\x00") {
			t.Errorf("%q holds a NUL", name)
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

func TestUsedHierarchies(t *testing.T) {
	proc := t.TempDir()
	write := func(pid, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cgroup"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...string) {
		t.Helper()
		used, err := usedHierarchies(proc)
		if err != nil {
			t.Fatal(err)
		}
		if len(used) != len(want) {
			t.Errorf("%v, want %v", used, want)
		}
		for _, w := range want {
			if !used[w] {
				t.Errorf("%v, want %v", used, want)
			}
		}
	}
	check()
	write("1", "4:memory:/\n1:name=systemd:/init.scope\n0::/\n")
	check()
	write("2", "8:pids:/x\n4:memory:/a:b\n3:cpu,cpuacct:/c\n7:blkio:/y\n0::/\n")
	check("pids", "memory", "cpu")
	write("3", "garbage\n0::/system.slice\n")
	check("pids", "memory", "cpu", "v2")
	write("self", "5:freezer:/not-a-process\n")
	check("pids", "memory", "cpu", "v2")
}

// TestABI compares the numbers in abi.go with those in abi.h.
func TestABI(t *testing.T) {
	defined := enumsOf(t, "abi.h")
	for name, want := range map[string]int64{
		"CAPABILITIES": capabilities, "SYMBOL_SIZE": symbolSize, "PAGE_SLOTS": pageSlots, "PAIR_BITS": pairBits,
		"STAT_PAGE": statPage, "CACHE_PAGE": cachePage, "SITE_PAGE": sitePage,
		"PENDING_BITS": pendingBits, "SLOT_BITS": slotBits,
		"WHAT_DENIED": whatDenied, "WHAT_USERNS": whatUserNS, "WHAT_CLASS_SHIFT": whatClassShift,
		"WHAT_KIND_SHIFT": whatKindShift, "WHAT_KIND": whatKind, "WHAT_HIERARCHY_SHIFT": whatHierarchyShift, "WHAT_HIERARCHY": whatHierarchy,
		"SITE_FIXED": siteFixed, "WHO_BORROWED": whoBorrowed, "WHO_FIXED": whoFixed,
		"CLASS_UNKNOWN": classUnknown, "CLASS_NOAUDIT": classNoAudit, "CLASS_AUDITED": classAudited,
		"KIND_FILE": kindFile, "KIND_KERNEL": kindKernel, "KIND_EXITING": kindExiting,
		"ROLE_NONE": roleNone, "ROLE_CAPABLE": roleCapable, "ROLE_ITERATOR": roleIterator, "ROLE_SECURITY": roleSecurity,
		"ROLE_AUDITED": roleAudited, "ROLE_NOAUDIT": roleNoAudit, "ROLE_BY_CALLER": roleByCaller,
		"ROLE_CALLER_AUDITED": roleCallerAudited, "ROLE_CALLER_NOAUDIT": roleCallerNoAudit,
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

// TestFastPathStack: a function with 64 bytes on its stack or more, in steps of 16, would be given a stack in a page of its own
// (check_max_stack_depth_subprog, kernel/bpf/verifier.c), see check in body.h.
func TestFastPathStack(t *testing.T) {
	const limit = 48
	for _, s := range sources() {
		spec, err := s.load()
		if err != nil {
			t.Fatal(err)
		}
		name := s.program[peekCast]
		depth, seen := 0, 0
		for i, ins := range spec.Programs[name].Instructions {
			if i > 0 && ins.Symbol() != "" {
				break // the next function
			}
			seen++
			switch class := ins.OpCode.Class(); {
			case class.IsStore() && ins.Dst == asm.R10, class.IsLoad() && ins.Src == asm.R10:
				depth = max(depth, -int(ins.Offset))
			}
		}
		if seen < 100 || depth == 0 || depth > limit {
			t.Errorf("%s: %d bytes on the stack of a function of %d instructions, want 1 to %d", name, depth, seen, limit)
		}
	}
}
