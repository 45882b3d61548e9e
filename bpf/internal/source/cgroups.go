package source

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// v1Hierarchies are the v1 hierarchies a workload may be told by, best first.
func v1Hierarchies() []string { return []string{"memory", "pids", "devices", "freezer", "cpu"} }

// A Hierarchy is the cgroup hierarchy that workloads are told by.
type Hierarchy struct {
	Name  string // "v2", or the v1 subsystem's
	At    uint32 // of the subsystem's pointer in struct css_set, in bytes
	Index uint32 // of the subsystem plus one; 0 for v2
}

// ChooseHierarchy takes v2 if any process stands below its root; else the first v1 hierarchy that has one; else v2.
// See cgroups(7), "/proc/[pid]/cgroup".
func ChooseHierarchy(proc string, kernel *btf.Spec) (Hierarchy, error) {
	v2 := Hierarchy{Name: "v2"}
	used, err := usedHierarchies(proc)
	if err != nil {
		return Hierarchy{}, err
	}
	if used["v2"] {
		return v2, nil
	}
	for _, name := range v1Hierarchies() {
		if used[name] {
			return v1Hierarchy(name, kernel)
		}
	}
	return v2, nil
}

// usedHierarchies names the hierarchies in which some process stands below the root.
func usedHierarchies(proc string) (map[string]bool, error) {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cgroup"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	used := map[string]bool{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue // it has ended
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// hierarchy-ID:controller-list:cgroup-path
			parts := strings.SplitN(lines.Text(), ":", 3)
			if len(parts) != 3 || parts[2] == "/" {
				continue
			}
			if parts[0] == "0" {
				used["v2"] = true
			}
			for name := range strings.SplitSeq(parts[1], ",") {
				if slices.Contains(v1Hierarchies(), name) {
					used[name] = true
				}
			}
		}
		f.Close()
	}
	return used, nil
}

// v1Hierarchy finds where the kernel keeps the subsystem in struct css_set.
func v1Hierarchy(name string, kernel *btf.Spec) (Hierarchy, error) {
	var (
		ids *btf.Enum
		set *btf.Struct
	)
	if err := kernel.TypeByName("cgroup_subsys_id", &ids); err != nil {
		return Hierarchy{}, fmt.Errorf("find the kernel's cgroup subsystems: %w", err)
	}
	if err := kernel.TypeByName("css_set", &set); err != nil {
		return Hierarchy{}, fmt.Errorf("find the kernel's struct css_set: %w", err)
	}
	id := slices.IndexFunc(ids.Values, func(v btf.EnumValue) bool { return v.Name == name+"_cgrp_id" })
	subsys := slices.IndexFunc(set.Members, func(m btf.Member) bool { return m.Name == "subsys" })
	if id < 0 || subsys < 0 {
		return Hierarchy{}, fmt.Errorf("the kernel has no cgroup subsystem %s in struct css_set", name)
	}
	index := uint32(ids.Values[id].Value)
	return Hierarchy{Name: name, At: set.Members[subsys].Offset.Bytes() + index*8, Index: index + 1}, nil
}
