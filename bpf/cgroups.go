package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"capability_exporter/bpf/internal/programs"
)

// A cgroupTable is the kernel side's records of cgroups, by serial number.
type cgroupTable interface {
	// Lookup returns nil where there is no record.
	Lookup(serial uint64) (*programs.CgroupRecord, error)
	Delete(serial uint64) error
}

// cgroups know the path of each cgroup that has a slot, and when it went. They ask the kernel side once for each, and are told which
// are gone.
type cgroups struct {
	table  cgroupTable
	nameOf func(Cgroup) string
	root   *cgroupState
	known  map[uint64]*cgroupState // by serial number
	v1, v2 bool                    // which hierarchies have named a workload so far
}

// A cgroupState is what is known of a cgroup.
type cgroupState struct {
	cgroup Cgroup
	name   string        // of its workload
	gone   time.Duration // boot time; 0: it exists
	// There was no memory for the record, or it was taken away while somebody in a cgroup that is gone asked once more. Then nobody
	// tells when it goes, and it is taken for gone from here on: what still asks is given another slot, and a record.
	nameless bool
}

func newCgroups(table cgroupTable, nameOf func(Cgroup) string) *cgroups {
	c := &cgroups{table: table, nameOf: nameOf, known: map[uint64]*cgroupState{}}
	c.root = c.state(Cgroup{Path: "/"})
	return c
}

func (c *cgroups) state(cgroup Cgroup) *cgroupState {
	return &cgroupState{cgroup: cgroup, name: c.name(cgroup)}
}

// name is that of a cgroup's workload.
func (c *cgroups) name(cgroup Cgroup) string { return c.nameOf(shown(cgroup)) }

// pathName takes each path for a workload, and each cgroup of whose path something is missing.
func pathName(c Cgroup) string {
	c = shown(c)
	if c.ID == 0 {
		return c.Path
	}
	return fmt.Sprintf("%d %s", c.ID, c.Path)
}

// of returns what is known of a cgroup. now is the boot time.
func (c *cgroups) of(serial uint64, now time.Duration) (*cgroupState, error) {
	if serial == 0 {
		return c.root, nil
	}
	if state := c.known[serial]; state != nil && !state.nameless {
		return state, nil
	}
	r, err := c.table.Lookup(serial)
	if err != nil {
		return nil, fmt.Errorf("read the path of the cgroup with serial number %d: %w", serial, err)
	}
	if r == nil {
		if c.known[serial] == nil {
			state := c.state(Cgroup{ID: serial})
			state.gone, state.nameless = now, true
			c.known[serial] = state
		}
		return c.known[serial], nil
	}
	c.v1, c.v2 = c.v1 || r.V1 != 0, c.v2 || r.V1 == 0
	state := c.state(pathOf(r))
	state.gone = time.Duration(r.Offline)
	c.known[serial] = state
	return state, nil
}

// left notes that a cgroup is gone. One that is not known yet needs no note: its record has one.
func (c *cgroups) left(serial uint64, now time.Duration) {
	if state := c.known[serial]; state != nil && state.gone == 0 {
		state.gone = now
	}
}

// lookAgain asks the kernel side for each whether it is gone.
func (c *cgroups) lookAgain(now time.Duration) error {
	for serial := range c.known {
		r, err := c.table.Lookup(serial)
		if err != nil {
			return fmt.Errorf("look whether a cgroup is gone: %w", err)
		}
		if r == nil || r.Offline != 0 {
			c.left(serial, now)
		}
	}
	return nil
}

// over tells whether a cgroup has been gone for longer than the retention.
func (s *cgroupState) over(now, retention time.Duration) bool {
	return s.gone != 0 && now-s.gone > retention
}

// forget takes away the record of a cgroup that has no slot any more.
func (c *cgroups) forget(serial uint64) error {
	if err := c.table.Delete(serial); err != nil {
		return fmt.Errorf("forget a cgroup: %w", err)
	}
	delete(c.known, serial)
	return nil
}

// dropNameless lets go of those that no slot is of.
func (c *cgroups) dropNameless(used map[uint64]*cgroupState) {
	for serial, state := range c.known {
		if state.nameless && used[serial] == nil {
			delete(c.known, serial)
		}
	}
}

// hierarchies says which have named a workload so far.
func (c *cgroups) hierarchies() string {
	switch {
	case c.v1 && c.v2:
		return "both"
	case c.v1:
		return "v1"
	case c.v2:
		return "v2"
	}
	return "none"
}

// cgroupMap is the kernel side's own table.
type cgroupMap struct{ *ebpf.Map }

func (m cgroupMap) Lookup(serial uint64) (*programs.CgroupRecord, error) {
	r := new(programs.CgroupRecord)
	if err := m.Map.Lookup(serial, r); errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil //nolint:nilnil // as the interface says
	} else if err != nil {
		return nil, err
	}
	return r, nil
}

func (m cgroupMap) Delete(serial uint64) error {
	if err := m.Map.Delete(serial); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}
