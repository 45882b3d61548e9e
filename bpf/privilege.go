package bpf

import "kernel.org/pub/linux/libs/security/libcap/cap"

// RequiredCapabilities lists what Open and Snapshot need, in the initial user
// namespace: CAP_BPF for the bpf(2) system call itself, CAP_PERFMON for
// programs that trace and that read kernel memory (capabilities(7)). Nothing
// in this package needs more, and nothing in it works with less.
//
// Each call returns a new slice.
func RequiredCapabilities() []cap.Value {
	return []cap.Value{cap.BPF, cap.PERFMON}
}
