package bpf

import (
	"encoding/binary"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Programs of a few instructions, whose threads do nothing: Go has threads of its own, and each costs a millisecond.

// An assembler puts machine code together. It goes over it twice: the second time it knows where the labels are.
type assembler struct {
	code   []byte
	labels map[string]int
}

// add is for the machine that this is.
func (a *assembler) add(amd64 []byte, arm64 ...uint32) {
	if runtime.GOARCH == "amd64" {
		a.code = append(a.code, amd64...)
		return
	}
	for _, word := range arm64 {
		a.code = binary.LittleEndian.AppendUint32(a.code, word)
	}
}

func (a *assembler) label(name string) { a.labels[name] = len(a.code) }

// to is how far it is to a label, from so many bytes behind here.
func (a *assembler) to(label string, behind int) int { return a.labels[label] - len(a.code) - behind }

func le32(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

const svc = 0xd4000001

// address loads that of a label into the first argument, or into what is counted on with (rbx, x19).
func (a *assembler) address(argument bool, label string) {
	op, rd := byte(0x1d), uint32(19)
	if argument {
		op, rd = 0x3d, 0
	}
	a.add(append([]byte{0x48, 0x8d, op}, le32(a.to(label, 7))...), 0x10000000|uint32(a.to(label, 0)/4&0x7ffff)<<5|rd)
}

// capset is capset(header, what is counted on with).
func (a *assembler) capset() {
	a.address(true, "header")
	a.add([]byte{0x48, 0x89, 0xde, 0xb8, 126, 0, 0, 0, 0x0f, 0x05}, 0xaa1303e1, 0xd2800b68, svc)
}

func (a *assembler) pause() {
	a.add([]byte{0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}, // mov $34, %eax; syscall; jmp to the first
		0xd2800000, 0xd2800001, 0xd2800002, 0xd2800003, 0xd2800004, 0xd2800928, svc, 0x17fffff9) // ppoll(0, 0, 0, 0, 0); b to the first
}

// threads starts one for each of the sets at the label. Each keeps of its capabilities those in its set.
func (a *assembler) threads(n int) {
	a.address(false, "sets")
	a.add(append([]byte{0x41, 0xbc}, le32(n)...), 0x52800014|uint32(n&0xffff)<<5, 0x72a00014|uint32(n>>16)<<5) // the count: r12d, w20
	a.label("loop")
	// clone(CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM, 0, 0, 0, 0): the stack is not used
	a.add([]byte{0xb8, 56, 0, 0, 0, 0xbf, 0, 0x0f, 5, 0, 0x31, 0xf6, 0x31, 0xd2, 0x4d, 0x31, 0xd2, 0x4d, 0x31, 0xc0, 0x0f, 0x05, 0x85, 0xc0},
		0xd281e000, 0xf2a000a0, 0xd2800001, 0xd2800002, 0xd2800003, 0xd2800004, 0xd2801b88, svc)
	a.add(append([]byte{0x0f, 0x84}, le32(a.to("thread", 6))...), 0xb4000000|uint32(a.to("thread", 0)/4&0x7ffff)<<5)
	a.add([]byte{0x48, 0x83, 0xc3, 24, 0x41, 0xff, 0xcc}, 0x91006273, 0x71000694) // on to the next set
	a.add(append([]byte{0x0f, 0x85}, le32(a.to("loop", 6))...), 0x54000001|uint32(a.to("loop", 0)/4&0x7ffff)<<5)
}

// ends is what a first thread does that ends.
const ends = -1

// threadsWith is a program that has a thread for each of some sets of capabilities, and keeps of its own those in first, or ends its first
// thread.
func threadsWith(t *testing.T, name string, first int64, sets ...uint64) string {
	t.Helper()
	set := func(set uint64) (data []byte) {
		for _, word := range []uint64{set, set, 0, set >> 32, set >> 32, 0} { // effective, permitted, inheritable
			data = binary.LittleEndian.AppendUint32(data, uint32(word))
		}
		return data
	}
	a := &assembler{labels: map[string]int{}}
	for range 2 {
		a.code = nil
		if len(sets) > 0 {
			a.threads(len(sets))
		}
		if first == ends {
			a.add([]byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}, 0xd2800000, 0xd2800ba8, svc) // exit(0)
		}
		a.address(false, "first")
		a.capset()
		a.pause()
		a.label("thread")
		a.capset()
		a.pause()
		for len(a.code)%4 != 0 {
			a.code = append(a.code, 0)
		}
		a.label("header")
		a.code = append(append(a.code, le32(unix.LINUX_CAPABILITY_VERSION_3)...), le32(0)...)
		a.label("first")
		a.code = append(a.code, set(uint64(max(first, 0)))...)
		a.label("sets")
		for _, s := range sets {
			a.code = append(a.code, set(s)...)
		}
	}
	path := bare(t, name, a.code)
	openToAll(t, filepath.Dir(path))
	return path
}
