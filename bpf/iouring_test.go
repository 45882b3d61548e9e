package bpf

import (
	"fmt"
	"os"
	"runtime"
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

// openInWorker opens another's file through io_uring, in one of its worker threads.
func openInWorker([]string) error {
	dir, err := os.MkdirTemp("", "iouring")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := strangersFile(dir)
	if err := makeStrangersFile(dir); err != nil {
		return err
	}
	var p uringParams
	fd, _, errno := unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(fd))
	ring, err := unix.Mmap(int(fd), 0, int(p.sq.array+4*p.sqEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	entries, err := unix.Mmap(int(fd), 0x10000000, int(unsafe.Sizeof(uringSQE{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) // IORING_OFF_SQES
	if err != nil {
		return err
	}
	path := append([]byte(name), 0)
	*(*uringSQE)(unsafe.Pointer(&entries[0])) = uringSQE{
		opcode: 18, flags: 1 << 4, fd: unix.AT_FDCWD, addr: uint64(uintptr(unsafe.Pointer(&path[0]))), // IORING_OP_OPENAT, IOSQE_ASYNC
	}
	*(*uint32)(unsafe.Pointer(&ring[p.sq.tail]))++
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, 1, 1, 1, 0, 0) // IORING_ENTER_GETEVENTS
	runtime.KeepAlive(path)
	if errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	return nil
}
