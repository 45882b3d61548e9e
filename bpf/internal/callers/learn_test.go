package callers

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"capability_exporter/bpf/internal/programs"
)

// Where a made-up kernel puts things, in words above ctx. The numbers are those of a real one (6.18, amd64).
const (
	inCapable  = 0xffffffff81abd4ff
	inIterator = 0xffffffff81abcc20
	inSecurity = 0xffffffff81ac240f
	inNSCap    = 0xffffffff8128a111
	inOverride = 0xffffffff81ac3e10 // security_vm_enough_memory_mm
	firstAsker = 0xffffffff81300000

	inTrampoline = 0xffffffffc0201000
)

// stack makes a programs.Sample as the kernel side does, with stale copies of return addresses strewn over what nothing else needs.
func stack(r *rand.Rand, multi bool, caller, wrapper uint64, askerAt int, asker uint64, class uint32) *programs.Sample {
	s := &programs.Sample{Capable: inCapable, Caller: caller, Wrapper: wrapper, Asker: asker, Class: class}
	stale := []uint64{inCapable, inIterator, caller, wrapper, asker, 0}
	for i := range s.Words {
		s.Words[i] = r.Uint64()
		if r.IntN(3) == 0 {
			s.Words[i] = stale[r.IntN(len(stale))]
		}
	}
	move := 0
	if multi {
		move = 7
		s.Iterator = inIterator
		s.Words[10] = inIterator
	}
	s.Words[10+move], s.Words[12+move], s.Words[askerAt+move] = inCapable, caller, asker
	if wrapper != 0 {
		s.Words[17+move] = wrapper
	}
	return s
}

// trampoline puts a frame of somebody's between cap_capable's and its caller's.
func trampoline(s *programs.Sample, address uint64, words int) *programs.Sample {
	at := 12
	if s.Iterator != 0 {
		at += 7
	}
	s.Trampoline = address
	copy(s.Words[at+words:], s.Words[at:])
	clear(s.Words[at : at+words])
	s.Words[at], s.Words[at+words-1] = address, inCapable
	return s
}

func TestLearn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := NewLearner(false)
	for i := range 60 {
		multi := r.IntN(2) == 0
		l.Learn(stack(r, multi, inSecurity, inNSCap, 19, firstAsker+r.Uint64N(50), programs.ClassAudited))
		l.Learn(stack(r, multi, inOverride, 0, 16, firstAsker+r.Uint64N(50), programs.ClassNoAudit))
		// Somebody's trampoline stands between. At the half of it another takes its place.
		l.Learn(trampoline(stack(r, multi, inSecurity, inNSCap, 19, firstAsker+r.Uint64N(50), programs.ClassAudited), inTrampoline+uint64(i/30), 14+2*(i/30)))
	}
	var v programs.SettingValues
	l.Publish(&v)
	got := known(v.Pairs)
	v.Pairs = pairTable{}
	want := programs.SettingValues{
		Single:   programs.Layout{Capable: inCapable, CapableAt: 80},
		Multi:    programs.Layout{Capable: inCapable, CapableAt: 136, Iterator: inIterator, IteratorAt: 80},
		Security: inSecurity, CallerAfter: 16, WrapperAfter: 56, PairSeed: v.PairSeed,
	}
	want.Detour.Trampoline, want.Detour.Shift = inTrampoline+1, 128
	if !reflect.DeepEqual(v, want) {
		t.Errorf("learned %+v\nwant    %+v", v, want)
	}
	if len(got) != 2 || got[pairKey{inSecurity, inNSCap}].AskerAfter != 72 || got[pairKey{inOverride, 0}].AskerAfter != 48 {
		t.Errorf("learned %v", got)
	}
}

func known(table pairTable) map[pairKey]programs.Pair {
	m := map[pairKey]programs.Pair{}
	for _, p := range table {
		if p.Caller != 0 {
			m[pairKey{p.Caller, p.Wrapper}] = p
		}
	}
	return m
}

// TestLearnAmbiguous: where a copy always stands beside the right word, nothing is known.
func TestLearnAmbiguous(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	l := NewLearner(false)
	for range 50 {
		s := stack(r, false, inSecurity, inNSCap, 19, firstAsker, programs.ClassAudited)
		s.Words[40] = firstAsker
		l.Learn(s)
	}
	var v programs.SettingValues
	l.Publish(&v)
	if got := known(v.Pairs); len(got) != 0 {
		t.Errorf("took %v for known", got)
	}
	if v.Single.CapableAt != 80 {
		t.Errorf("layout %+v: the copy of the asker's address is no reason not to know it", v.Single)
	}
}

// TestLearnRecords: on a stack of frame records, a copy that always stands beside the right word is told from it.
func TestLearnRecords(t *testing.T) {
	const base = 0xffff800080cdb800
	r := rand.New(rand.NewPCG(9, 10))
	for _, beside := range []bool{false, true} {
		l := NewLearner(false)
		l.records = true
		for range 30 {
			asker := firstAsker + r.Uint64N(50)
			s := stack(r, false, inSecurity, inNSCap, 25, asker, programs.ClassAudited)
			for i := range s.Words { // no copies but those below
				if i != 10 && i != 12 && i != 17 && i != 25 {
					s.Words[i] = r.Uint64()
				}
			}
			s.Words[15] = inSecurity // left by a trampoline that has returned
			records := []int{10, 12, 17, 22, 25, 40}
			if beside {
				s = trampoline(s, inTrampoline, 20)
				records = []int{10, 12, 32, 37, 42, 45, 60}
			}
			for i, at := range records[:len(records)-1] {
				s.Words[at-1] = base + uint64(records[i+1]-1)*8
			}
			l.Learn(s)
		}
		var v programs.SettingValues
		l.Publish(&v)
		if v.CallerAfter != 16 || v.WrapperAfter != 56 || known(v.Pairs)[pairKey{inSecurity, inNSCap}].AskerAfter != 120 {
			t.Errorf("with a trampoline: %t; learned %+v, %v", beside, v.Single, known(v.Pairs))
		}
		if beside && (v.Detour.Trampoline != inTrampoline || v.Detour.Shift != 160) {
			t.Errorf("learned %+v", v.Detour)
		}
	}
}

// TestLearnAgain: what contradicts all before it is forgotten, and the new learned.
func TestLearnAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	l := NewLearner(false)
	teach := func(askerAt int) map[pairKey]programs.Pair {
		for range 30 {
			l.Learn(stack(r, false, inSecurity, inNSCap, askerAt, firstAsker+r.Uint64N(50), programs.ClassAudited))
		}
		var v programs.SettingValues
		l.Publish(&v)
		return known(v.Pairs)
	}
	teach(19)
	if got := teach(21); got[pairKey{inSecurity, inNSCap}].AskerAfter != 88 {
		t.Errorf("learned %v", got)
	}
}

// TestTwoClasses: a programs.Pair that has been seen with two classes tells none.
func TestTwoClasses(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, opts := range []bool{false, true} {
		l := NewLearner(opts)
		for i := range uint32(40) {
			l.Learn(stack(r, false, inSecurity, inNSCap, 19, firstAsker+r.Uint64N(50), programs.ClassNoAudit+i%2))
		}
		var v programs.SettingValues
		want := 0
		if opts {
			want = 1 // the source tells the class of each check, and the programs.Pair need not
		}
		l.Publish(&v)
		if got := known(v.Pairs); len(got) != want {
			t.Errorf("opts %t: %v", opts, got)
		}
	}
}

// TestPlace puts as many pairs as may be known on entries of their own, and leaves them there.
func TestPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	var pairs []programs.Pair
	for range pairLimit {
		pairs = append(pairs, programs.Pair{Caller: 0xffffffff81000000 + r.Uint64N(1<<24), Wrapper: 0xffffffff81000000 + r.Uint64N(1<<24)})
	}
	seed, table := place(pairs, 0)
	if len(known(table)) != len(pairs) {
		t.Fatalf("%d of %d pairs in the table", len(known(table)), len(pairs))
	}
	if again, _ := place(pairs, seed); again != seed {
		t.Error("moved without need")
	}
}

func TestRoles(t *testing.T) {
	for name := range Roles() {
		if len(name) >= programs.SymbolSize || name == "" {
			t.Errorf("%q cannot be a key of the kernel side's table", name)
		}
	}
}

// TestRolesOfMany holds some of each role against what the kernel's source has them do.
func TestRolesOfMany(t *testing.T) {
	roles := Roles()
	for role, names := range map[uint32][]string{
		programs.RoleCapable:  {"cap_capable"},
		programs.RoleIterator: {"__traceiter_cap_capable"},
		programs.RoleSecurity: {"security_capable"},
		programs.RoleAudited: {
			"capable", "ns_capable", "ns_capable_setid", "file_ns_capable", "capable_wrt_inode_uidgid", "has_capability", "has_ns_capability",
			"get_proc_task_net", "cap_capset", "cap_task_prctl", "cap_mmap_addr", "policy_ns_capable", "smack_privileged_cred",
		},
		programs.RoleNoAudit: {
			"ns_capable_noaudit", "capable_noaudit", "has_capability_noaudit", "has_ns_capability_noaudit", "ptracer_capable",
			"kallsyms_show_value", "cap_vm_enough_memory", "security_vm_enough_memory_mm", "aa_change_profile",
		},
		programs.RoleByCaller:      {"has_cap_mac_admin"},
		programs.RoleCallerAudited: {"selinux_inode_setxattr", "selinux_setprocattr", "selinux_lsm_setattr"},
		programs.RoleCallerNoAudit: {"selinux_inode_getsecurity"},
		programs.RoleNone:          {"", "path_mount"},
	} {
		for _, name := range names {
			if roles[name] != role {
				t.Errorf("%q has role %d, want %d", name, roles[name], role)
			}
		}
	}
}

// TestLearnTwice: two stacks are not enough, and three are.
func TestLearnTwice(t *testing.T) {
	var a agreement
	for n := 1; n <= 4; n++ {
		a.add([]uint32{80})
		if _, ok := a.settled(); ok != (n >= 3) {
			t.Errorf("settled after %d stacks: %t", n, ok)
		}
	}
}

// TestKnows counts what may be peeked at.
func TestKnows(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	l := NewLearner(false)
	for i := range 60 {
		l.Learn(stack(r, false, inSecurity, inNSCap, 19, firstAsker+r.Uint64N(50), programs.ClassAudited))
		l.Learn(stack(r, false, inOverride, 0, 16, firstAsker+r.Uint64N(50), programs.ClassNoAudit+uint32(i%2))) // of two classes
	}
	if n := l.Knows(); n != 1 {
		t.Errorf("knows %d, want 1", n)
	}
}

// FuzzLearn feeds the Learner any memory at all: it must not fail, and not publish what the last stacks contradict.
func FuzzLearn(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint64(1))
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		r := rand.New(rand.NewPCG(seed, uint64(len(raw))))
		l := NewLearner(seed%2 == 0)
		for i := range raw {
			s := stack(r, raw[i]&1 != 0, inSecurity+uint64(raw[i]>>6), inNSCap*uint64(raw[i]>>1&1), 18+int(raw[i]>>2&15), firstAsker+uint64(raw[i]), uint32(raw[i]%3))
			if raw[i]&2 != 0 {
				s = trampoline(s, inTrampoline+uint64(raw[i]>>7), 2+int(raw[i]>>3&15))
			}
			s.Words[r.IntN(len(s.Words))] = uint64(raw[i])
			l.records = raw[i]&32 != 0
			l.Learn(s)
		}
		var v programs.SettingValues
		l.Publish(&v)
		for k, p := range known(v.Pairs) {
			if p.Class == programs.ClassUnknown || p.AskerAfter == 0 || p.AskerAfter >= 8*64 {
				t.Errorf("published %v as %+v", k, p)
			}
		}
	})
}
