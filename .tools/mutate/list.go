package main

import (
	"errors"
	"fmt"
	"strings"
)

// fault is one line of the list.
type fault struct {
	line    int    // its number
	text    string // all of it
	path    string // of the file, from the root of the repository
	old     string // what stands there, exactly once
	new     string // what is put in its place
	command string // for bash, in the root: the quickest test that should see it
	breaks  string // what the fault is, for the reader
	reason  string // why no test can see it; empty: one must
	build   bool   // it is seen by the compiler, and is meant to be
}

const (
	// separator stands between the fields of a line, and within one is written
	// as escapedSeparator.
	separator        = " | "
	escapedSeparator = ` \| `
	// newline stands for a line break within a text.
	newline = "⏎"
	// builds, in place of a reason, marks a fault for which a failed build is
	// what is wanted.
	builds = "build"
)

// parse reads a list. It returns what it can read and an error for each line
// that it cannot.
func parse(text string) ([]fault, []error) {
	var faults []fault
	var problems []error
	seen := map[string]int{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f, err := parseLine(line)
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		f.line = number
		change := f.path + separator + f.old + separator + f.new
		if first, twice := seen[change]; twice {
			problems = append(problems, fmt.Errorf("line %d: the same fault stands in line %d", number, first))
			continue
		}
		seen[change] = number
		faults = append(faults, f)
	}
	return faults, problems
}

func parseLine(line string) (fault, error) {
	fields := strings.Split(line, separator)
	if len(fields) != 5 && len(fields) != 6 {
		return fault{}, fmt.Errorf("%d fields, and not path%[2]sold%[2]snew%[2]scommand%[2]swhat it breaks, with or without %[2]sreason (within a text %[2]q is written %[3]q)",
			len(fields), separator, escapedSeparator)
	}
	for i := range fields {
		fields[i] = strings.ReplaceAll(fields[i], escapedSeparator, separator)
	}
	f := fault{
		text: line, path: strings.TrimSpace(fields[0]), command: strings.TrimSpace(fields[3]), breaks: strings.TrimSpace(fields[4]),
		old: strings.ReplaceAll(fields[1], newline, "\n"), new: strings.ReplaceAll(fields[2], newline, "\n"),
	}
	if len(fields) == 6 {
		f.reason = strings.TrimSpace(fields[5])
		if f.reason == "" {
			return fault{}, errors.New("the reason is empty")
		}
		if f.reason == builds {
			f.reason, f.build = "", true
		}
	}
	switch {
	case f.path == "" || f.old == "" || f.command == "" || f.breaks == "":
		return fault{}, errors.New("the path, the old text, the command or what it breaks is empty")
	case f.old == f.new:
		return fault{}, errors.New("the new text is the old one")
	}
	return f, nil
}

// inBPF tells whether the fault is in C, of which the tests see the compiled
// objects alone.
func (f fault) inBPF() bool {
	return strings.HasSuffix(f.path, ".h") || strings.HasSuffix(f.path, ".bpf.c")
}
