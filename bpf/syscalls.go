package bpf

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/elastic/go-seccomp-bpf/arch"

	"capability_exporter/bpf/internal/callers"
	"capability_exporter/bpf/internal/programs"
)

// pathArguments says which argument of a system call, from 0, is the path that a check in it is most likely about: of two, the one
// that is made or changed.
func pathArguments() map[string]uint8 {
	paths := map[string]uint8{}
	for argument, calls := range [][]string{
		{
			"access", "acct", "chdir", "chmod", "chown", "chroot", "creat", "execve", "getxattr", "lchown", "lgetxattr", "listxattr",
			"llistxattr", "lremovexattr", "lsetxattr", "lstat", "mkdir", "mknod", "open", "pivot_root", "readlink", "removexattr",
			"rmdir", "setxattr", "stat", "statfs", "swapoff", "swapon", "truncate", "umount2", "unlink", "utime", "utimes",
		},
		{
			"execveat", "faccessat", "faccessat2", "fchmodat", "fchmodat2", "fchownat", "fspick", "futimesat", "getxattrat",
			"inotify_add_watch", "link", "listxattrat", "mkdirat", "mknodat", "mount", "mount_setattr", "name_to_handle_at", "newfstatat",
			"open_tree", "openat", "openat2", "quotactl", "readlinkat", "removexattrat", "rename", "setxattrat", "statx", "symlink",
			"unlinkat", "utimensat",
		},
		{"symlinkat"},
		{"linkat", "move_mount", "renameat", "renameat2"},
		{"fanotify_mark"},
	} {
		for _, call := range calls {
			paths[call] = uint8(argument) + 1
		}
	}
	for _, call := range []string{"bind", "connect"} {
		paths[call] = 1 + 1 | programs.PathInSockaddr
	}
	return paths
}

// fillBySystemCall tells the kernel side something of system calls, by this machine's numbers.
func fillBySystemCall[T any](table *ebpf.Map, of map[string]T) error {
	return fillByNumber(table, 0, "", of)
}

// fillFallbackCalls tells it where another function than the first may ask for another capability: in which system calls, by this
// machine's numbers and by those of its 32-bit programs, and in which requests of io_uring's.
func fillFallbackCalls(table *ebpf.Map) error {
	narrow, calls := map[string]string{"amd64": "386", "arm64": "arm"}[runtime.GOARCH], callers.FallbackCalls()
	if err := errors.Join(fillByNumber(table, 0, "", calls), fillByNumber(table, programs.CallsCompat, narrow, calls)); err != nil {
		return err
	}
	for opcode, caps := range callers.FallbackRequests() {
		if err := table.Put(programs.CallsUring+uint32(opcode), caps); err != nil {
			return fmt.Errorf("fill the table of io_uring's requests: %w", err)
		}
	}
	return nil
}

// fillByNumber does it by the numbers of an architecture ("": this machine's), from a place in the table on.
func fillByNumber[T any](table *ebpf.Map, from uint32, architecture string, of map[string]T) error {
	calls, err := arch.GetInfo(architecture)
	if err != nil {
		return fmt.Errorf("find the system calls' numbers: %w", err)
	}
	for name, value := range of {
		number, known := calls.SyscallNames[name]
		if !known { // arm64 has only the newer ones
			continue
		}
		if err := table.Put(from+uint32(number), value); err != nil {
			return fmt.Errorf("fill the table of system calls: %w", err)
		}
	}
	return nil
}

// syscallName names a system call of this machine: "" where there is none, or none is known.
func syscallName(number int64) string {
	calls, err := arch.GetInfo("")
	if err != nil {
		return ""
	}
	return calls.SyscallNumbers[int(number)]
}
