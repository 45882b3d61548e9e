package callers

import (
	"runtime"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

func set(caps ...cap.Value) (mask uint64) {
	for _, c := range caps {
		mask |= 1 << c
	}
	return mask
}

// A Place is where a capability is denied: a kernel function, by name without the compiler's suffixes. "" is any of them.
type Place struct {
	Function   string
	Capability cap.Value
}

// A Fallback is what the kernel asks for where one capability is denied, `capable(A) || capable(B)` or the like: the same function, or
// another one in the same system call.
type Fallback struct{ Same, Elsewhere uint64 }

// Interrupts are the functions that ask for CAP_NET_RAW whenever a packet has been sent, whoever has the CPU then (net/core/skbuff.c).
func Interrupts() []string {
	return []string{"skb_may_tx_timestamp", "__skb_tstamp_tx", "skb_complete_tx_timestamp"}
}

// systemCall is what the function of a system call is called.
func systemCall(name string) []string {
	return []string{"__do_sys_" + name, "__se_sys_" + name, "__x64_sys_" + name, "__arm64_sys_" + name}
}

// Fallbacks says what the kernel asks for after a denial, and where. Of each it holds that a task's next check after that denial is for
// want of what was denied: because the one is always followed by the other, or because the kernel never asks there for the other but
// after the one. A function stands here by its own name and by those that the compiler may make it a part of.
//
// Linux 5.10 to 7.3. What is not told: CAP_CHOWN in the file system's user namespace after CAP_CHOWN in the task's own (chown_ok,
// chgrp_ok), which look like two calls of chown(2); CAP_DAC_OVERRIDE in btrfs_ioctl_snap_destroy, which one and the same function asks for
// in place of CAP_SYS_ADMIN and besides; CAP_SYS_ADMIN after a CAP_NET_ADMIN that is not audited (af_alg_capable).
func Fallbacks() map[Place]Fallback {
	all := map[Place]Fallback{}
	add := func(first cap.Value, then Fallback, functions ...string) {
		for _, name := range functions {
			f := all[Place{name, first}]
			all[Place{name, first}] = Fallback{f.Same | then.Same, f.Elsewhere | then.Elsewhere}
		}
	}
	same := func(caps ...cap.Value) Fallback { return Fallback{Same: set(caps...)} }
	elsewhere := func(caps ...cap.Value) Fallback { return Fallback{Elsewhere: set(caps...)} }

	// linux/capability.h: bpf_capable, perfmon_capable, checkpoint_restore_ns_capable, parts of whoever calls them; kernel/bpf/token.c:
	// bpf_token_capable.
	for _, first := range []cap.Value{cap.BPF, cap.PERFMON, cap.CHECKPOINT_RESTORE} {
		add(first, same(cap.SYS_ADMIN), "")
	}
	// kernel/printk/printk.c, up to 6.1.
	add(cap.SYSLOG, same(cap.SYS_ADMIN), "check_syslog_permissions", "do_syslog", "devkmsg_open")
	// kernel/fork.c; fs/pipe.c; net/unix: scm.c, af_unix.c.
	add(cap.SYS_RESOURCE, same(cap.SYS_ADMIN), "copy_process",
		"pipe_is_unprivileged_user", "alloc_pipe_info", "pipe_set_size", "pipe_fcntl",
		"too_many_unix_fds", "unix_attach_fds", "unix_scm_to_skb", "unix_dgram_sendmsg", "unix_stream_sendmsg")
	// kernel/bpf/token.c; linux/bpf.h: bpf_net_capable; kernel/bpf/syscall.c: bpf_prog_load, up to 6.1.
	add(cap.NET_ADMIN, same(cap.SYS_ADMIN), "bpf_token_capable", "bpf_ns_capable", "bpf_prog_query", "bpf_prog_load", "__sys_bpf",
		"bpf_mprog_detach", "bpf_mprog_detach_empty")
	// net/core/dev_ioctl.c.
	add(cap.NET_ADMIN, same(cap.SYS_MODULE), "dev_load", "dev_ioctl")
	// net/ieee802154/socket.c.
	add(cap.NET_ADMIN, same(cap.NET_RAW), "dgram_setsockopt")
	// net/core/sock.c: SO_PRIORITY and SO_MARK, to setsockopt(2) and as a control message; IP_TRANSPARENT and IPV6_TRANSPARENT.
	add(cap.NET_RAW, same(cap.NET_ADMIN), "sk_setsockopt", "sock_setsockopt", "sk_set_prio_allowed", "__sock_cmsg_send",
		"do_ip_setsockopt", "do_ipv6_setsockopt", "sockopt_ns_capable")
	if runtime.GOARCH == "arm64" { // where the one is a part of sk_setsockopt, and the other a call
		add(cap.NET_RAW, elsewhere(cap.NET_ADMIN), "sk_setsockopt", "sock_setsockopt", "sk_set_prio_allowed")
	}
	// block/ioprio.c.
	add(cap.SYS_ADMIN, same(cap.SYS_NICE), append(systemCall("ioprio_set"), "ioprio_check_cap")...)
	// drivers/s390/block/dasd_eckd.c; drivers/media, up to 6.1; drivers/platform/x86/dell; net/caif, up to 6.12.
	add(cap.SYS_ADMIN, same(cap.SYS_RAWIO), "dasd_symm_io", "vivid_vid_cap_s_fbuf", "bttv_s_fbuf", "saa7134_s_fbuf", "vidioc_s_fbuf",
		"dell_smbios_call_filter")
	add(cap.SYS_ADMIN, same(cap.NET_ADMIN), "caif_create")
	add(cap.SYS_ADMIN, same(cap.SYS_TTY_CONFIG), "ldisc_open")
	// fs/namei.c.
	add(cap.DAC_READ_SEARCH, same(cap.DAC_OVERRIDE), "generic_permission")
	// fs/fhandle.c, since 6.12.
	add(cap.DAC_READ_SEARCH, same(cap.SYS_ADMIN), append(systemCall("open_by_handle_at"), "may_decode_fh", "handle_to_path", "do_handle_open")...)

	// Asked for by inode_permission, as for any other reason to write. In the place of CAP_FOWNER: mm/mincore.c, mm/madvise.c,
	// mm/filemap.c, fs/attr.c: may_setattr (on arm64 all by inode_owner_or_capable, which many call, but in those system calls).
	add(cap.FOWNER, elsewhere(cap.DAC_OVERRIDE), "")
	// fs/remap_range.c (5.10: allow_file_dedupe); fs/btrfs/ioctl.c.
	add(cap.SYS_ADMIN, elsewhere(cap.DAC_OVERRIDE), "may_dedupe_file", "allow_file_dedupe", "vfs_dedupe_file_range_one", "vfs_dedupe_file_range",
		"btrfs_ioctl_defrag")
	// kernel/events/core.c, of another's task: ptrace_may_access. Of the second, CAP_KILL, it asks in any case.
	events := append(systemCall("perf_event_open"), "perf_check_permission")
	add(cap.SYS_ADMIN, elsewhere(cap.SYS_PTRACE), events...)
	add(cap.KILL, elsewhere(cap.SYS_PTRACE), events...)
	// kernel/fork.c: may_access_mm, in 6.18 and not in 6.12; what it calls first is in kernel/ptrace.c, security/commoncap.c and security/yama.
	add(cap.SYS_PTRACE, elsewhere(cap.PERFMON), "__ptrace_may_access", "ptrace_may_access", "cap_ptrace_access_check", "yama_ptrace_access_check")
	return all
}

// FallbackCalls are, by name, the system calls in which another function asks: for want of which capabilities.
func FallbackCalls() map[string]uint64 {
	calls := map[string]uint64{"ioctl": set(cap.SYS_ADMIN), "perf_event_open": set(cap.SYS_ADMIN, cap.KILL), "setsockopt": set(cap.NET_RAW)}
	for _, name := range []string{
		"mincore", "madvise", "process_madvise", "cachestat", "utimensat", "utimensat_time64", "utimes", "utime", "futimesat",
	} {
		calls[name] = set(cap.FOWNER)
	}
	// Of what io_uring does in io_uring_enter itself nothing asks for CAP_PERFMON but in place of CAP_SYS_PTRACE, so it does not matter that
	// one call may do several things.
	for _, name := range []string{"open", "openat", "openat2", "read", "pread64", "process_vm_readv", "process_madvise", "io_uring_enter"} {
		calls[name] |= set(cap.SYS_PTRACE)
	}
	return calls
}

// FallbackRequests are, by opcode (linux/io_uring.h), the requests of which a worker of io_uring's does the same.
func FallbackRequests() map[uint8]uint64 {
	const openat, read, madvise, openat2 = 18, 22, 25, 28
	return map[uint8]uint64{
		madvise: set(cap.FOWNER), openat: set(cap.SYS_PTRACE), openat2: set(cap.SYS_PTRACE), read: set(cap.SYS_PTRACE),
	}
}

// Harmless are the capabilities without which the kernel goes on wherever it asks. Of CAP_FSETID it only depends whether a file keeps its
// set-user-ID and set-group-ID bits.
func Harmless() uint64 { return set(cap.FSETID) }

// A Probe is without which capabilities a kernel function goes on: whichever way it asks, or if by ns_capable itself.
type Probe struct{ Any, Plain uint64 }

// Probes says, by name without the compiler's suffixes, which kernel functions go on when they are denied a capability.
func Probes() map[string]Probe {
	probes := map[string]Probe{
		// security/commoncap.c: cap_capset asks for it (cap_inh_is_capped) at each capset(2), needed or not.
		"security_capset": {Any: set(cap.SETPCAP)},
		// There, too: may who has it already, by capable_wrt_inode_uidgid, write a file capability for all user namespaces, or for his own?
		"cap_convert_nscap": {Plain: set(cap.SETFCAP)},
		// It then tells less of the program.
		"bpf_prog_get_info_by_fd": {Any: set(cap.BPF, cap.SYS_ADMIN)},
		// drivers/infiniband/hw/mlx5/devx.c: what the context may do.
		"mlx5_ib_devx_create": {Any: set(cap.NET_RAW, cap.SYS_RAWIO)},
	}
	// net: inet_diag.c, tcp_diag.c, udp_diag.c, raw_diag.c, mptcp_diag.c, packet/diag.c tell less of the sockets.
	for _, name := range []string{
		"__inet_diag_dump", "inet_diag_dump", "inet_diag_dump_compat", "inet_diag_dump_icsk", "inet_diag_dump_one_icsk", "tcp_diag_dump",
		"tcp_diag_dump_one", "udp_dump", "udp_dump_one", "raw_diag_dump", "raw_diag_dump_one", "mptcp_diag_dump", "mptcp_diag_dump_one",
		"packet_diag_dump",
	} {
		probes[name] = Probe{Any: set(cap.NET_ADMIN)}
	}
	// Blocks of a file system that are kept for root.
	for _, name := range []string{
		"ext4_has_free_clusters", "ext2_has_free_blocks", "ext2_new_blocks", "ufs_new_fragments", "can_use_rp",
		"inc_valid_block_count", "__allow_reserved_blocks",
	} {
		probes[name] = Probe{Any: set(cap.SYS_RESOURCE)}
	}
	return probes
}
