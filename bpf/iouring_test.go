package bpf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of linux/io_uring.h that one asynchronous open needs.
type (
	uringOffsets struct{ head, tail, ringMask, ringEntries, flags, dropped, array, resv1, userAddr1, userAddr2 uint32 }
	uringParams  struct {
		sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
		resv                                                                   [3]uint32
		sq, cq                                                                 uringOffsets
	}
	uringSQE struct {
		opcode, flags         uint8
		ioprio                uint16
		fd                    int32
		off, addr             uint64
		length, openFlags     uint32
		userData              uint64
		bufIndex, personality uint16
		fileIndex             uint32
		addr3, pad            uint64
	}
)

// A uring is an io_uring of one request at a time.
type uring struct {
	fd      uintptr
	p       uringParams
	ring    []byte
	entries []byte
}

func newUring() (u *uring, err error) {
	u = &uring{}
	var errno unix.Errno
	u.fd, _, errno = unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&u.p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	const prot, entriesAt = unix.PROT_READ | unix.PROT_WRITE, 0x10000000 // IORING_OFF_SQES
	if u.ring, err = unix.Mmap(int(u.fd), 0, int(u.p.sq.array+4*u.p.sqEntries), prot, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	u.entries, err = unix.Mmap(int(u.fd), entriesAt, int(unsafe.Sizeof(uringSQE{})), prot, unix.MAP_SHARED)
	return u, err
}

// at is one of the numbers that are shared with the kernel.
func (u *uring) at(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.ring[offset])) }

// do has a request done, and does not look what became of it. A signal ends the wait for it, and not the request: Go sends its threads some.
func (u *uring) do(request uringSQE) error {
	*(*uringSQE)(unsafe.Pointer(&u.entries[0])) = request
	*u.at(u.p.sq.tail)++
	head, tail := u.at(u.p.cq.head), u.at(u.p.cq.tail)
	for left := uintptr(1); atomic.LoadUint32(tail) == *head; {
		switch taken, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, u.fd, left, 1, 1, 0, 0); errno { // IORING_ENTER_GETEVENTS
		case 0:
			left -= taken
		case unix.EINTR:
		default:
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
	*head++
	return nil
}

// What requests are.
const (
	uringOpenat  = 18
	uringMadvise = 25
	uringTimeout = 11
	uringAsync   = 1 << 4 // IOSQE_ASYNC: a worker does it
)

// TestUringSignalled: a request is done when do says so, whatever signals come meanwhile.
func TestUringSignalled(t *testing.T) {
	u, err := newUring()
	if err != nil {
		t.Skipf("no io_uring: %v", err)
	}
	t.Cleanup(func() { _ = errors.Join(unix.Munmap(u.ring), unix.Munmap(u.entries), unix.Close(int(u.fd))) })
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done := unix.Gettid(), make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
			}
		}
	}()
	defer close(done)
	const long = 50 * time.Millisecond
	after, start := unix.NsecToTimespec(int64(long)), time.Now()
	var pinner runtime.Pinner
	pinner.Pin(&after)
	defer pinner.Unpin()
	if err := u.do(uringSQE{opcode: uringTimeout, addr: uint64(uintptr(unsafe.Pointer(&after))), length: 1}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < long {
		t.Errorf("a request of %v was said to be done after %v", long, took)
	}
}

// open opens a file, or has a worker open it.
func (u *uring) open(name string, openFlags uint32, flags uint8) error {
	path := append([]byte(name), 0)
	var pinner runtime.Pinner
	pinner.Pin(&path[0])
	defer pinner.Unpin()
	return u.do(uringSQE{opcode: uringOpenat, flags: flags, fd: unix.AT_FDCWD, addr: uint64(uintptr(unsafe.Pointer(&path[0]))), openFlags: openFlags})
}

// openInWorker opens another's file through io_uring, in one of its worker threads.
func openInWorker([]string) error {
	dir, err := os.MkdirTemp("", "iouring")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := makeStrangersFile(dir); err != nil {
		return err
	}
	u, err := newUring()
	if err != nil {
		return err
	}
	return u.open(strangersFile(dir), unix.O_RDONLY, uringAsync)
}
