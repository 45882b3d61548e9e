package collectors

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Held returns the capabilities of the exporter's own process.
type Held func() ([]cap.Value, error)

// HeldByProcess reads the permitted set of the calling thread, which holds
// whatever the effective set may hold (capabilities(7), "Thread capability
// sets"). In a Go program whose capabilities are set through libcap all
// threads hold the same.
func HeldByProcess() ([]cap.Value, error) {
	set, err := cap.GetPID(0)
	if err != nil {
		return nil, fmt.Errorf("capget of the own process (does a seccomp filter refuse it?): %w", err)
	}
	var held []cap.Value
	for value := range cap.MaxBits() {
		permitted, err := set.GetFlag(cap.Permitted, value)
		if err != nil {
			return nil, fmt.Errorf("permitted flag of %s: %w", value, err)
		}
		if permitted {
			held = append(held, value)
		}
	}
	return held, nil
}

// Capabilities exposes which capabilities the exporter still holds. It reads
// them at every scrape and expects none, so one too many is seen.
type Capabilities struct {
	held Held
	info *prometheus.Desc
}

// NewCapabilities returns the collector of the exporter's own capabilities.
// Outside of tests held is [HeldByProcess].
func NewCapabilities(held Held) *Capabilities {
	return &Capabilities{held: held, info: desc("capability_exporter_capabilities_info",
		"A capability in the exporter's own permitted set: exactly CAP_BPF and CAP_PERFMON, or none with --privileges.keep=none.", "capability")}
}

// Describe implements [prometheus.Collector].
func (c *Capabilities) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.info
}

// Collect implements [prometheus.Collector].
func (c *Capabilities) Collect(ch chan<- prometheus.Metric) {
	held, err := c.held()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.info, fmt.Errorf("reading the exporter's own capabilities: %w", err))
		return
	}
	for _, value := range held {
		ch <- gauge(c.info, 1, Capability(uint8(value)))
	}
}
