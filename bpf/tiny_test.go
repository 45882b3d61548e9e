package bpf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// wakeAlarm is the capability that tiny executables ask for: CAP_WAKE_ALARM, which hardly anything else does.
const wakeAlarm = 35

// tiny makes an executable that makes exactly one check and ends: timerfd_create(CLOCK_REALTIME_ALARM, 0), _exit(0). It has no
// loader and no library, so that ten thousand of them start in seconds.
func tiny(t *testing.T, name string) string {
	t.Helper()
	var code []byte
	switch runtime.GOARCH {
	case "amd64":
		code = []byte{
			0xbf, 8, 0, 0, 0, // mov $8, %edi
			0x31, 0xf6, // xor %esi, %esi
			0xb8, 0x1b, 1, 0, 0, // mov $283, %eax
			0x0f, 0x05, // syscall
			0x31, 0xff, // xor %edi, %edi
			0xb8, 60, 0, 0, 0, // mov $60, %eax
			0x0f, 0x05, // syscall
		}
	case "arm64":
		for _, word := range []uint32{
			0xd2800100, // mov x0, #8
			0xd2800001, // mov x1, #0
			0xd2800aa8, // mov x8, #85
			0xd4000001, // svc #0
			0xd2800000, // mov x0, #0
			0xd2800ba8, // mov x8, #93
			0xd4000001, // svc #0
		} {
			code = binary.LittleEndian.AppendUint32(code, word)
		}
	default:
		t.Fatalf("no machine code for %s", runtime.GOARCH)
	}
	return bare(t, name, code)
}

// bare makes an executable of nothing but code, which is loaded to address 0x400078.
func bare(t *testing.T, name string, code []byte) string {
	t.Helper()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: base + headers,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(header.Ident[:], elf.ELFMAG+"\x02\x01\x01") // 64 bits, little-endian
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, imageOf(t, header, segment, code), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// imageOf is a file of these parts.
func imageOf(t *testing.T, parts ...any) []byte {
	t.Helper()
	var file bytes.Buffer
	for _, part := range parts {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

// narrow is a 32-bit program, whose system calls have other numbers and take their arguments elsewhere: utimensat(2) of a file that
// anybody may read, and of one that anybody may write, then open(2) of a stranger's.
func narrow(t *testing.T) []byte {
	code, machine, flags := []byte{
		0xbb, 0x9c, 0xff, 0xff, 0xff, // mov $AT_FDCWD, %ebx
		0x8b, 0x4c, 0x24, 8, // mov 8(%esp), %ecx
		0x31, 0xd2, // xor %edx, %edx
		0x31, 0xf6, // xor %esi, %esi
		0xb8, 0x40, 1, 0, 0, // mov $320, %eax
		0xcd, 0x80, // int $0x80
		0x8b, 0x4c, 0x24, 12, // mov 12(%esp), %ecx
		0xb8, 0x40, 1, 0, 0, // mov $320, %eax
		0xcd, 0x80, // int $0x80
		0x8b, 0x5c, 0x24, 16, // mov 16(%esp), %ebx
		0xb9, 1, 0, 0, 0, // mov $O_WRONLY, %ecx
		0xb8, 5, 0, 0, 0, // mov $5, %eax
		0xcd, 0x80, // int $0x80
		0x31, 0xdb, // xor %ebx, %ebx
		0xb8, 1, 0, 0, 0, // mov $1, %eax
		0xcd, 0x80, // int $0x80
	}, elf.EM_386, uint32(0)
	if runtime.GOARCH == "arm64" {
		code, machine, flags = nil, elf.EM_ARM, 0x05000000 // EABI version 5
		for _, word := range []uint32{
			0xe3e00063, // mvn r0, #99
			0xe59d1008, // ldr r1, [sp, #8]
			0xe3a02000, // mov r2, #0
			0xe3a03000, // mov r3, #0
			0xe300715c, // movw r7, #348
			0xef000000, // svc #0
			0xe3e00063, // mvn r0, #99
			0xe59d100c, // ldr r1, [sp, #12]
			0xef000000, // svc #0
			0xe59d0010, // ldr r0, [sp, #16]
			0xe3a01001, // mov r1, #O_WRONLY
			0xe3a07005, // mov r7, #5
			0xef000000, // svc #0
			0xe3a00000, // mov r0, #0
			0xe3a07001, // mov r7, #1
			0xef000000, // svc #0
		} {
			code = binary.LittleEndian.AppendUint32(code, word)
		}
	}
	const base, headers = 0x400000, 52 + 32
	size := uint32(headers + len(code))
	header := elf.Header32{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: base + headers,
		Phoff: 52, Flags: flags, Ehsize: 52, Phentsize: 32, Phnum: 1,
	}
	copy(header.Ident[:], elf.ELFMAG+"\x01\x01\x01") // 32 bits, little-endian
	segment := elf.Prog32{
		Type: uint32(elf.PT_LOAD), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: 0x1000,
	}
	return imageOf(t, header, segment, code)
}
