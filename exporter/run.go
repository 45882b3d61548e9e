package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
	"capability_exporter/exporter/internal/confine"
	"capability_exporter/exporter/internal/privilege"
	"capability_exporter/exporter/internal/sdnotify"
	"capability_exporter/exporter/internal/web"
)

// tracer is what the exporter needs of a *bpf.Tracer.
type tracer interface {
	Info() bpf.Info
	Snapshot() (*bpf.Snapshot, error)
	Held() bpf.Held
	Recheck() error
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
	files          func(least, most int) (int, error) // how many there is room for
	dropPrivileges func(to privilege.User) (circumstances, error)
	openTracer     func(bpf.Options) (tracer, error)
	dropRest       func() error // what dropPrivileges has left
	confine        func(files confine.Files, logger *slog.Logger) error
	held           collectors.Held
	manager        func() (*sdnotify.Manager, error) // who is told when it counts
}

// What is opened at one time: to start, where it is most while programs are
// loaded, and to serve, besides a connection for each client.
const (
	filesToStart  = 64
	filesToServe  = 16
	fewestClients = 16
)

// run is the program. It returns nil after a stop that ctx asked for, and
// after --help and --version.
//
// Privileges go first: even reading the command line is input (kingpin reads
// arguments from a file for "@file"). Whom root becomes must be known before; it
// is looked for by itself, and what the command line is found to say of it must
// then be the same.
//
// Before that nothing is opened, and so nothing read: whether it may open as much
// as it needs is found out first of all.
func run(ctx context.Context, e env) error {
	room, err := e.files(filesToStart+filesToServe+fewestClients, filesToStart+filesToServe+web.MaxConnections)
	if err != nil {
		return err
	}
	user := privilege.UserIn(e.args)
	found, err := e.dropPrivileges(user)
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
	if cfg.user != user {
		return fmt.Errorf("--%s=%v: must stand once, and on the command line itself: it is looked for before all else, and %v was found", privilege.UserFlag, &cfg.user, &user)
	}
	if err := found.Check(); err != nil {
		return err
	}
	return serve(ctx, e, cfg, found, room-filesToStart-filesToServe)
}
