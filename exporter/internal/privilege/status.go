package privilege

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Status is what /proc/PID/status says of one thread's privileges, see
// proc_pid_status(5). A set of capabilities is a mask: bit n stands for
// capability n.
type Status struct {
	Inheritable, Permitted, Effective, Bounding, Ambient uint64

	UIDs, GIDs [4]uint32 // real, effective, saved, and the file system's
	Groups     string    // the supplementary ones, by number, with spaces between

	NoNewPrivs bool
	Seccomp    int // 0: off, 1: strict, 2: filters
}

// ReadStatus reads one such file. Kernels that do not know a field leave
// it out: it is zero then.
func ReadStatus(path string) (Status, error) {
	file, err := os.Open(path)
	if err != nil {
		return Status{}, err
	}
	defer file.Close()

	var s Status
	sets := map[string]*uint64{
		"CapInh": &s.Inheritable,
		"CapPrm": &s.Permitted,
		"CapEff": &s.Effective,
		"CapBnd": &s.Bounding,
		"CapAmb": &s.Ambient,
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		var err error
		switch set := sets[key]; {
		case set != nil:
			*set, err = strconv.ParseUint(value, 16, 64)
		case key == "Uid":
			s.UIDs, err = readIDs(value)
		case key == "Gid":
			s.GIDs, err = readIDs(value)
		case key == "Groups":
			s.Groups = value
		case key == "NoNewPrivs":
			s.NoNewPrivs = value == "1"
		case key == "Seccomp":
			s.Seccomp, err = strconv.Atoi(value)
		}
		if err != nil {
			return Status{}, fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	if err := lines.Err(); err != nil {
		return Status{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// readIDs reads the four of a line.
func readIDs(value string) (ids [4]uint32, err error) {
	fields := strings.Fields(value)
	if len(fields) != len(ids) {
		return ids, fmt.Errorf("%q has not %d ids", value, len(ids))
	}
	for n, field := range fields {
		id, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return ids, err
		}
		ids[n] = uint32(id)
	}
	return ids, nil
}
