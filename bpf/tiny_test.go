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
	var file bytes.Buffer
	for _, part := range []any{header, segment, code} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, file.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
