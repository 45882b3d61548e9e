package main

import (
	"context"
	"errors"
	"io"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

// tracer is what the exporter needs of a *bpf.Tracer.
type tracer interface {
	Info() bpf.Info
	Snapshot() (*bpf.Snapshot, error)
	Close() error
}

// circumstances are how the process was started, before it gave up privileges.
type circumstances interface {
	// Check says what is missing, why, and how to give it.
	Check() error
	// ExplainRefusal puts before an error of opening the tracer who refused.
	ExplainRefusal(err error) error
}

// env is all that run takes from the world around it, so that a test can run
// the whole program inside its own process.
type env struct {
	args           []string // without the program's name
	stdout, stderr io.Writer
	dropPrivileges func() (circumstances, error)
	openTracer     func(bpf.Options) (tracer, error)
	held           collectors.Held
}

// run is the program. It returns nil after a stop that ctx asked for, and
// after --help and --version.
//
// Privileges go first: even reading the command line is input (kingpin reads
// arguments from a file for "@file").
func run(ctx context.Context, e env) error {
	found, err := e.dropPrivileges()
	if err != nil {
		return err
	}
	cfg, err := parseFlags(e.args, e.stdout)
	if errors.Is(err, errAnswered) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := found.Check(); err != nil {
		return err
	}
	return serve(ctx, e, cfg, found)
}
