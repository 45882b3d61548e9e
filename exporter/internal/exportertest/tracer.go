package exportertest

import (
	"sync"

	"capability_exporter/bpf"
)

// Tracer serves whatever a test sets, in place of a bpf.Tracer. It is safe for
// concurrent use.
type Tracer struct {
	info bpf.Info

	mu       sync.Mutex
	snapshot bpf.Snapshot
	held     bpf.Held
	err      error
	taken    int
	closed   int
}

// NewTracer has something to tell from the start; a Tracer's zero value has
// nothing.
func NewTracer(info bpf.Info, snapshot bpf.Snapshot) *Tracer {
	return &Tracer{info: info, snapshot: snapshot}
}

// Info returns what NewTracer was given.
func (f *Tracer) Info() bpf.Info { return f.info }

// Snapshot returns what was set last.
func (f *Tracer) Snapshot() (*bpf.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken++
	if f.err != nil {
		return nil, f.err
	}
	s := f.snapshot
	return &s, nil
}

// Held returns what was set last.
func (f *Tracer) Held() bpf.Held {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// Recheck fails as a snapshot does.
func (f *Tracer) Recheck() error {
	_, err := f.Snapshot()
	return err
}

// Close counts how often it is called.
func (f *Tracer) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

// Set changes the workloads of the snapshots, or lets them fail.
func (f *Tracer) Set(err error, workloads ...bpf.WorkloadCount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot.Workloads, f.err = workloads, err
}

// SetHeld changes what processes hold.
func (f *Tracer) SetHeld(held bpf.Held) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = held
}

// Taken is how many snapshots were asked for.
func (f *Tracer) Taken() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.taken
}

// Closed is how often it was closed.
func (f *Tracer) Closed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}
