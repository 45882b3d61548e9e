package callers

import (
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/programs"
)

func set(caps ...cap.Value) (mask uint64) {
	for _, c := range caps {
		mask |= 1 << c
	}
	return mask
}

// Fallbacks are, by capability, those that the kernel asks for where that one is denied: `capable(A) || capable(B)`, or the like. That a
// check is such a second is told by where it stands; this says of which denials it is worth to look.
//
// Linux 5.10 to 7.3. Where the second is asked for by another function than the first (as CAP_DAC_OVERRIDE by inode_permission, after
// CAP_FOWNER or CAP_SYS_ADMIN), nothing tells it from a check of its own.
func Fallbacks() (after [programs.Capabilities]uint64) {
	for _, first := range []cap.Value{
		// linux/capability.h: bpf_capable, perfmon_capable, checkpoint_restore_ns_capable; kernel/bpf/token.c: bpf_token_capable.
		cap.BPF, cap.PERFMON, cap.CHECKPOINT_RESTORE,
		// kernel/printk/printk.c: check_syslog_permissions, up to 6.1.
		cap.SYSLOG,
		// kernel/fork.c: copy_process; fs/pipe.c: pipe_is_unprivileged_user; net/unix/af_unix.c: too_many_unix_fds.
		cap.SYS_RESOURCE,
	} {
		after[first] = set(cap.SYS_ADMIN)
	}
	// linux/bpf.h: bpf_net_capable; crypto/af_alg.c. net/core/dev_ioctl.c: dev_load. net/ieee802154/socket.c: dgram_setsockopt.
	after[cap.NET_ADMIN] = set(cap.SYS_ADMIN, cap.SYS_MODULE, cap.NET_RAW)
	// net/core/sock.c: SO_PRIORITY, SO_MARK; IP_TRANSPARENT and IPV6_TRANSPARENT.
	after[cap.NET_RAW] = set(cap.NET_ADMIN)
	// block/ioprio.c: ioprio_check_cap; several drivers; net/caif.
	after[cap.SYS_ADMIN] = set(cap.SYS_NICE, cap.SYS_RAWIO, cap.NET_ADMIN, cap.SYS_TTY_CONFIG)
	// fs/namei.c: generic_permission; fs/fhandle.c: may_decode_fh.
	after[cap.DAC_READ_SEARCH] = set(cap.DAC_OVERRIDE, cap.SYS_ADMIN)
	// fs/attr.c: chown_ok, chgrp_ok, of another user namespace.
	after[cap.CHOWN] = set(cap.CHOWN)
	return after
}

// Harmless are the capabilities without which the kernel goes on wherever it asks. Of CAP_FSETID it only depends whether a file keeps its
// set-user-ID and set-group-ID bits.
func Harmless() uint64 { return set(cap.FSETID) }

// Probes says, by name without the compiler's suffixes, which kernel functions go on when they are denied a capability.
func Probes() map[string]uint64 {
	probes := map[string]uint64{
		// security/commoncap.c: cap_capset asks for it (cap_inh_is_capped) at each capset(2), needed or not.
		"security_capset": set(cap.SETPCAP),
		// It then tells less of the program.
		"bpf_prog_get_info_by_fd": set(cap.BPF, cap.SYS_ADMIN),
	}
	// Blocks of a file system that are kept for root.
	for _, name := range []string{
		"ext4_has_free_clusters", "ext2_has_free_blocks", "ext2_new_blocks", "ufs_new_fragments", "can_use_rp",
		"inc_valid_block_count", "__allow_reserved_blocks",
	} {
		probes[name] = set(cap.SYS_RESOURCE)
	}
	return probes
}
