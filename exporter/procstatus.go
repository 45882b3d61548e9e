package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// procStatus is what /proc/PID/status says of one thread's privileges, see
// proc_pid_status(5). A set of capabilities is a mask: bit n stands for
// capability n.
type procStatus struct {
	inheritable, permitted, effective, bounding, ambient uint64

	noNewPrivs bool
	seccomp    int // 0: off, 1: strict, 2: filters
}

// readProcStatus reads one such file. Kernels that do not know a field leave
// it out: it is zero then.
func readProcStatus(path string) (procStatus, error) {
	file, err := os.Open(path)
	if err != nil {
		return procStatus{}, err
	}
	defer file.Close()

	var s procStatus
	sets := map[string]*uint64{
		"CapInh": &s.inheritable,
		"CapPrm": &s.permitted,
		"CapEff": &s.effective,
		"CapBnd": &s.bounding,
		"CapAmb": &s.ambient,
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		var err error
		switch set := sets[key]; {
		case set != nil:
			*set, err = strconv.ParseUint(value, 16, 64)
		case key == "NoNewPrivs":
			s.noNewPrivs = value == "1"
		case key == "Seccomp":
			s.seccomp, err = strconv.Atoi(value)
		}
		if err != nil {
			return procStatus{}, fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	if err := lines.Err(); err != nil {
		return procStatus{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}
