package bpf

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// moduleFile reads a module that vm/boot has put into the guest.
func moduleFile(t *testing.T, name string) []byte {
	t.Helper()
	inGuest(t)
	image, err := os.ReadFile("/modules/" + name + ".ko")
	if err != nil {
		t.Skip("the guest has no such module: ", err)
	}
	return image
}

// twin makes another module of the one called msr: its name and that of the function that asks are others, as long as they were, and
// nothing else is changed. So it has the same room, and the function stands at the same place in it.
func twin(t *testing.T, image []byte) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	// Without its signature, which would be wrong: a wrong one is refused, and none is not.
	image = bytes.Clone(bytes.TrimSuffix(image, []byte("~Module signature appended~\n")))
	for _, section := range []struct{ name, what string }{
		{".strtab", "%s_open\x00"}, {".modinfo", "\x00name=%s\x00"}, {".gnu.linkonce.this_module", "%s\x00"},
	} {
		s := f.Section(section.name)
		if s == nil {
			t.Fatalf("the module has no section %s", section.name)
		}
		in := image[s.Offset : s.Offset+s.FileSize]
		was, is := fmt.Appendf(nil, section.what, "msr"), fmt.Appendf(nil, section.what, "mst")
		if !bytes.Contains(in, was) {
			t.Fatalf("%s of the module has no %q", section.name, was)
		}
		copy(in, bytes.ReplaceAll(in, was, is))
	}
	return image
}

func insert(t *testing.T, image []byte) {
	t.Helper()
	if err := unix.InitModule(image, ""); err != nil {
		t.Fatal("init_module: ", err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := unix.DeleteModule(name, 0); err != nil {
		t.Fatalf("delete_module of %s: %v", name, err)
	}
}

// kernelAddress is where a kernel function stands.
func kernelAddress(t *testing.T, name string) uint64 {
	t.Helper()
	for _, s := range readSymbols(t) {
		if s.name == name {
			return s.address
		}
	}
	t.Fatalf("the kernel has no function %s", name)
	return 0
}

// openOften is the helper that opens a file: opens PATH N.
func openOften(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		fd, err := unix.Open(args[0], unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// TestModules asks through a module, through another that has taken its place at the same address, and through a third.
func TestModules(t *testing.T) {
	const process, device = "asks-modules", "/dev/cpu/0/msr"
	msr := moduleFile(t, "msr")
	mst := twin(t, msr)
	tr := openLive(t, Options{})
	path := executable(t, process)
	rawio := Check{Capability: uint8(cap.SYS_RAWIO)}
	var made uint64
	ask := func(n int) (s *Snapshot) {
		t.Helper()
		run(t, helper(path, "opens", device, strconv.Itoa(n)))
		made += uint64(n)
		s = checkIdentities(t, tr)
		if got := by(s, process)[rawio.String()]; short(got, made, mayMiss(t, tr, s)) {
			t.Errorf("%d checks by %s, want %d", got, process, made)
		}
		return s
	}
	at := func(s *Snapshot, symbol string) (n uint64) {
		for _, c := range s.Sites {
			if c.Check == rawio && c.Symbol == symbol {
				n += c.Count
			}
		}
		return n
	}
	const first, second = "msr_open [msr]", "mst_open [mst]"
	insert(t, msr)
	was := kernelAddress(t, "msr_open")
	s := ask(10)
	if n := at(s, first); n != 10 {
		t.Errorf("%d checks at %s, want 10", n, first)
	}
	remove(t, "msr")
	// The kernel usually gives it the same place, and need not.
	for range 50 {
		insert(t, mst)
		if kernelAddress(t, "mst_open") == was {
			break
		}
		remove(t, "mst")
	}
	defer remove(t, "mst")
	if is := kernelAddress(t, "mst_open"); is != was {
		t.Fatalf("the function of the second module stands at %#x, that of the first stood at %#x", is, was)
	}
	s = ask(10)
	if n, m := at(s, first), at(s, second); n+m != 20 {
		t.Errorf("%d checks at %s and %d at %s, want 20 together", n, first, m, second)
	}
	// An address in a module is taken to mean the same for MODULE_TRUST seconds.
	tolerated := at(s, first)
	ticks := func() uint32 { tr.mu.Lock(); defer tr.mu.Unlock(); return tr.settings.Tick }
	for over := ticks() + 31; ticks() < over; {
		time.Sleep(100 * time.Millisecond)
	}
	s = ask(10)
	if n, m := at(s, first), at(s, second); n != tolerated || n+m != 30 {
		t.Errorf("%d checks at %s and %d at %s, after half a minute; want %d and %d", n, first, m, second, tolerated, 30-tolerated)
	}
	t.Logf("%d checks at %s and %d at %s", at(s, first), first, at(s, second), second)

	insert(t, moduleFile(t, "tun"))
	defer remove(t, "tun")
	run(t, helper(path, "tun"))
	s = checkIdentities(t, tr)
	admin := Check{Capability: uint8(cap.NET_ADMIN)}
	sites := sitesOf(s, process, admin)
	if len(sites) != 1 || !strings.HasSuffix(sites[0], " [tun]") {
		t.Errorf("%v asked for by %v, want CAP_NET_ADMIN by a function of tun", by(s, process), sites)
	}
	t.Logf("CAP_NET_ADMIN asked for by %v", sites)
}

// openTun is the helper that makes a network interface of the module tun, which ends with it.
func openTun([]string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq("another%d")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, request), unix.Close(fd))
}

// TestLivepatched has the kernel's ns_capable replaced by a module's function (vm/patched.c), which goes a way to the check that nobody
// knows. What it asks is counted as of unknown class, and never by a guess; after it all is as before.
func TestLivepatched(t *testing.T) {
	f, err := os.Open("/patched.ko")
	if err != nil {
		t.Skip("the guest has no livepatch: ", err)
	}
	defer f.Close()
	const process, n, patch = "asks-livepatched", 5000, "/sys/kernel/livepatch/patched"
	tr := openLive(t, Options{})
	path := executable(t, process)
	ask := func(when string, wantNamed, wantUnknown uint64) {
		t.Helper()
		before := snapshot(t, tr)
		run(t, helper(path, "sethostname", strconv.Itoa(n)))
		s := checkIdentities(t, tr)
		named, unknown := total(by(s, process))-total(by(before, process)), unknownCount(s)-unknownCount(before)
		// Beside the helper's own, those of its start and of whoever else lives here.
		if named < wantNamed || named > wantNamed+20 || unknown < wantUnknown || unknown > wantUnknown+20 {
			t.Errorf("%s: %d checks by who asked and %d of unknown class, want %d and %d", when, named, unknown, wantNamed, wantUnknown)
		}
	}
	settled := func() {
		t.Helper()
		for range 100 {
			transition, err := os.ReadFile(filepath.Join(patch, "transition"))
			if errors.Is(err, fs.ErrNotExist) || err == nil && string(transition) == "0\n" {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatal("the patch does not get out of its transition")
	}
	ask("before", n, 0)
	if err := unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_IGNORE_VERMAGIC|unix.MODULE_INIT_IGNORE_MODVERSIONS); err != nil {
		t.Fatal("finit_module: ", err)
	}
	settled()
	ask("patched", 0, n)
	write(t, filepath.Join(patch, "enabled"), "0")
	settled()
	ask("after it", n, 0)
}
