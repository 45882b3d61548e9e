// Command capability_exporter is a Prometheus exporter for the capability
// checks of the Linux kernel: which capability was asked for, by whom, and
// whether it was denied. It runs with CAP_BPF and CAP_PERFMON alone. It puts
// together what the packages below it know, and knows neither how checks are
// counted nor what is said of them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
	"capability_exporter/exporter/internal/confine"
	"capability_exporter/exporter/internal/limits"
	"capability_exporter/exporter/internal/logging"
	"capability_exporter/exporter/internal/privilege"
	"capability_exporter/exporter/internal/sdnotify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	// A log whose reader has gone is no reason to end: without this the Go
	// runtime kills a program that writes to such a standard error.
	signal.Ignore(unix.SIGPIPE)
	// From the first signal on, a second one kills: a stop that hangs can
	// still be ended from the keyboard.
	context.AfterFunc(ctx, stop)

	err := limits.Explain(run(ctx, env{
		args:           os.Args[1:],
		stdout:         os.Stdout,
		stderr:         os.Stderr,
		files:          limits.Files,
		dropPrivileges: dropPrivileges,
		openTracer:     openTracer,
		dropRest:       privilege.DropRest,
		confine:        confine.Confine,
		held:           collectors.HeldByProcess,
		manager:        sdnotify.Connect,
	}))
	if err != nil {
		last := logging.NewQueue(os.Stderr) // which may not be read, and must not keep us
		fmt.Fprintf(last, "capability_exporter: %v\n", err)
		last.Stop(logging.Grace)
		os.Exit(1)
	}
}

// dropPrivileges is privilege.Drop behind the circumstances interface.
func dropPrivileges(to privilege.User) (circumstances, error) { return privilege.Drop(to) }

// openTracer is bpf.Open behind the tracer interface. A nil *bpf.Tracer must
// not become a tracer that is not nil.
func openTracer(options bpf.Options) (tracer, error) {
	t, err := bpf.Open(options)
	if err != nil {
		return nil, err
	}
	return t, nil
}
