package confine

import (
	_ "embed"
	"fmt"
	"os"
	"strings"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// listed is the one list of system calls: the systemd unit has the same.
//
//go:embed syscalls.txt
var listed string

// calls returns those of a section of a list.
func calls(list, section string) []string {
	var names []string
	in := false
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			in = line == "["+section+"]"
		case in:
			names = append(names, line)
		}
	}
	return names
}

// conditions say for some of the calls which arguments pass, one set or another
// of them. What is behind a pointer a filter cannot see.
func conditions() map[string][]seccomp.ArgumentConditions {
	one := func(argument uint32, is seccomp.Operation, value uint64) []seccomp.ArgumentConditions {
		return []seccomp.ArgumentConditions{{{Argument: argument, Operation: is, Value: value}}}
	}
	var commands []seccomp.ArgumentConditions
	for _, command := range []uint64{
		unix.BPF_MAP_LOOKUP_ELEM, unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, // cgroups, and slots that are free again
		unix.BPF_PROG_RUN,           // the program that gives a slot back
		unix.BPF_OBJ_GET_INFO_BY_FD, // how often a program was not run
	} {
		commands = append(commands, one(0, seccomp.Equal, command)...)
	}
	return map[string][]seccomp.ArgumentConditions{
		"bpf":      commands,                                   // nothing is loaded, made or attached any more
		"clone":    one(0, seccomp.BitsSet, unix.CLONE_THREAD), // threads, and no processes
		"mmap":     one(2, seccomp.BitsNotSet, unix.PROT_EXEC), // no new code
		"mprotect": one(2, seccomp.BitsNotSet, unix.PROT_EXEC),
		"openat":   one(2, seccomp.BitsNotSet, unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|(unix.O_TMPFILE&^unix.O_DIRECTORY)), // to read
		"prctl":    one(0, seccomp.Equal, unix.PR_SET_VMA),                                                                             // names that Go gives to its memory
		"tgkill":   one(0, seccomp.Equal, uint64(os.Getpid())),                                                                         // its own threads
	}
}

// policy lets pass what stands in the list's section, and refuses all else with
// EPERM. Calls by another architecture's numbers are refused, too.
func policy(machine *arch.Info, list string) (seccomp.Policy, error) {
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	conditions := conditions()
	for _, name := range calls(list, "run") {
		known := nameOn(machine, name)
		if known == "" {
			return seccomp.Policy{}, fmt.Errorf("the system call %s is not known on %s", name, machine.Name)
		}
		sets, conditional := conditions[name]
		if !conditional {
			group.Names = append(group.Names, known)
		}
		for _, set := range sets {
			group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{Name: known, Conditions: set})
		}
	}
	// Its arguments are behind a pointer. A C library, where the program was
	// linked to one, takes this answer for an older kernel's, and uses clone.
	newer := seccomp.SyscallGroup{Names: []string{"clone3"}, Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)}
	return seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{group, newer}}, nil
}

// nameOn is what the library calls a system call on an architecture, or empty.
func nameOn(machine *arch.Info, name string) string {
	for _, name := range []string{name, strings.TrimPrefix(name, "new")} { // newfstatat, which is fstatat in its table of arm64
		if _, known := machine.SyscallNames[name]; known {
			return name
		}
	}
	return ""
}
