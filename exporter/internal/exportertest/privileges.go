// Package exportertest has what the tests of several of the exporter's packages
// share. Nothing of the program imports it, and it knows no package of the
// exporter.
package exportertest

import "golang.org/x/sys/unix"

// BothMask is CAP_BPF and CAP_PERFMON, as a set in /proc/PID/status.
const BothMask = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON
