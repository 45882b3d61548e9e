package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// generate compiles the BPF programs again.
const generate = "make --no-print-directory generate"

// verdict is what came out of one fault.
type verdict string

const (
	caught   verdict = "caught"
	survived verdict = "SURVIVED"
	excused  verdict = "no matter" // survived, and the line says why
	wrong    verdict = "WRONG LINE"
)

// outcome is how a command ended.
type outcome struct {
	failed      bool
	timedOut    bool
	buildFailed bool // nothing was tested, since it does not compile
	output      string
}

// unbuilt is what the go command says of a package that does not compile.
var unbuilt = regexp.MustCompile(`(?m)\[(build|setup) failed\]|^# capability_exporter\S*( \[.*\])?$`)

// untested is what it says where a test's name is wrong: nothing was run.
var untested = regexp.MustCompile(`\[no tests to run\]|\[no test files\]`)

// green returns nil if the command succeeded, and did something.
func (o outcome) green() error {
	switch {
	case o.timedOut:
		return errors.New("it did not end in time (-timeout)")
	case o.failed:
		return errors.New("it failed")
	case untested.MatchString(o.output):
		return errors.New("it ran no test")
	default:
		return nil
	}
}

// judge says what a command's end means for the fault that was planted, and
// what a reader needs beside that.
func judge(f fault, o outcome) (verdict, string) {
	switch {
	case o.timedOut:
		return wrong, "the command did not end in time, which may be the fault's doing or the machine's; give it a shorter limit of its own, such as go test's -timeout"
	case o.failed && o.buildFailed && !f.build:
		return wrong, "it does not compile, so no test has seen it:\n" + tail(o.output)
	case o.failed && !o.buildFailed && f.build:
		return wrong, "it compiles, and the line says it does not; a test sees it:\n" + tail(o.output)
	case o.failed && f.reason != "":
		return caught, "though the line says that no test can see it: " + f.reason
	case o.failed:
		return caught, ""
	case f.reason != "":
		return excused, f.reason
	default:
		return survived, "by: " + f.command
	}
}

// runner runs commands in a folder.
type runner struct {
	dir     string
	timeout time.Duration
}

// run runs a command to its end. What the tests would skip on a machine that
// lacks something is a failure (CI), and nothing is answered from a cache: Go
// does not know which files the programs read that a test starts.
func (r runner) run(ctx context.Context, command string) outcome {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "CI=true", "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -count=1"))
	// A group of its own, to end the programs that the command has started, too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Minute
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	o := outcome{failed: err != nil, timedOut: err != nil && limited.Err() != nil, output: output.String()}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		o.output += fmt.Sprintf("\nrunning %q: %v", command, err)
	}
	o.buildFailed = o.failed && unbuilt.MatchString(o.output)
	return o
}

// tail returns the last lines of an output, where a failure says what it is.
func tail(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}
