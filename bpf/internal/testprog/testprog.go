// Package testprog holds BPF programs that only tests and benchmarks attach: an empty one, one that sends a record for each
// check, and a witness that sends each check with its stack. They stand in for somebody else's, and know nothing of ours.
package testprog

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

//go:generate go tool bpf2go -target amd64,arm64 -no-global-types -cflags "-O2 -Wall -Werror -mcpu=v3 -I$BPF_HEADERS" -type record -type sighting testprog testprog.bpf.c

// Sighting is one check as the witness saw it.
type Sighting = testprogSighting

// The programs by name.
const (
	Both            = "both"
	CallsBegun      = "calls_begun"
	Empty           = "empty"
	ForeignFentry   = "foreign_fentry"
	ForeignFexit    = "foreign_fexit"
	ForeignSecurity = "foreign_security"
	ForeignWrapper  = "foreign_wrapper"
	LingerAfter     = "linger_after"
	LingerFexit     = "linger_fexit"
	Opts            = "opts"
	RecordEach      = "record_each"
	Witness         = "witness"
)

// Loaded is one program with the maps it uses, and those that were loaded beside it. None is attached.
type Loaded struct {
	Collection *ebpf.Collection
	Program    *ebpf.Program
}

// Load loads the one program, and others that share its maps. Beside CallsBegun, a witness sees only the threads that are watched.
func Load(name string, beside ...string) (*Loaded, error) {
	spec, err := loadTestprog()
	if err != nil {
		return nil, fmt.Errorf("read the test programs: %w", err)
	}
	for other := range spec.Programs {
		if other != name && !slices.Contains(beside, other) {
			delete(spec.Programs, other)
		}
	}
	if slices.Contains(beside, CallsBegun) {
		if err := spec.Variables["watched_only"].Set(uint32(1)); err != nil {
			return nil, fmt.Errorf("set what the test programs watch: %w", err)
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the test program %s: %w", name, err)
	}
	return &Loaded{Collection: c, Program: c.Programs[name]}, nil
}

// Attach attaches the program until the link is closed.
func (l *Loaded) Attach() (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: l.Program})
}

// AttachOf attaches one of those that were loaded together, likewise.
func (l *Loaded) AttachOf(name string) (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: l.Collection.Programs[name]})
}

// Close unloads the program, unless it is still attached.
func (l *Loaded) Close() { l.Collection.Close() }
