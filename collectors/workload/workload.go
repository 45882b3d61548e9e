// Package workload tells what people call a cgroup: the unit, the pod, the container or the machine that its path names.
//
// A path is read from the root, and the first thing in it that is a workload of its own names it. What stands behind that was made by
// the one who is named, or at his wish, and is not looked at: a container may make cgroups that are called like a service, a pod or
// another container, and so may a user below his own manager. So each rule here says who makes the component by which it goes: it must
// be the service manager, the kubelet, or an engine that runs as root.
//
// It is pure but for [Pods], which read the names of folders.
package workload

import "strings"

// Kind is what a workload is.
type Kind string

// The kinds, as they stand in a label.
const (
	KindRoot      Kind = "root"      // the root of the hierarchy
	KindSlice     Kind = "slice"     // a slice itself, in which processes seldom are
	KindUnit      Kind = "unit"      // a service, scope, socket, mount or swap unit
	KindSession   Kind = "session"   // a user's login sessions
	KindPod       Kind = "pod"       // a Kubernetes pod
	KindContainer Kind = "container" // one outside of Kubernetes
	KindMachine   Kind = "machine"   // a container that is a whole system, or a virtual machine
	KindPath      Kind = "path"      // none of these
)

// A Workload is what a cgroup belongs to.
type Workload struct {
	// Name outlives a restart. It is raw: what stands in it was chosen by others.
	Name string
	Kind Kind
	// Unit is the system manager's unit as systemd writes it, escapes included; "" where there is none.
	Unit string
	// ContainerID has 64 hexadecimal digits, where the path tells them.
	ContainerID string
	// PodUID is as Kubernetes writes it; a static pod's is the hash of its manifest.
	PodUID string

	settled bool // nothing below the cgroup has another name
}

// rootPath is the path of the root.
const rootPath = "/"

// Parse reads the path of a cgroup, from the root of its hierarchy.
func Parse(path string) Workload {
	if path == rootPath {
		return Workload{Name: rootPath, Kind: KindRoot}
	}
	below, absolute := strings.CutPrefix(path, "/")
	if !absolute {
		return unexplained(path)
	}
	if w, ok := engineMade(below); ok {
		return w
	}
	slice, below := skipSlices(below)
	name, inside := next(below)
	if name == "" && slice != "" {
		return Workload{Name: slice + ".slice", Kind: KindSlice, Unit: slice + ".slice"}
	}
	// Below slices nobody but the service manager makes units: a slice cannot be delegated (docs/CGROUP_DELEGATION.md of systemd).
	if unit, ok := unitOf(name); ok {
		return systemUnit(slice, unit, inside)
	}
	return unexplained(path)
}

// systemUnit names a unit of the system manager.
func systemUnit(slice, unit, inside string) Workload {
	if uid, ok := userOf(slice); ok && isSession(unit) {
		// Sessions are numbered, and who is logged in is what matters.
		return Workload{Name: "user-" + uid + ".slice/session-*.scope", Kind: KindSession, Unit: unit, settled: true}
	}
	if isUserManager(unit) {
		w := userUnit(unit, inside)
		w.Unit = unit
		return w
	}
	if name, ok := machineOf(unit); ok {
		return Workload{Name: "machine/" + name, Kind: KindMachine, Unit: unit, settled: true}
	}
	if isEngine(unit) {
		// Its own cgroups, and those of the containers that it made by mistake, or by its configuration, below itself.
		if w, ok := engineMade(inside); ok {
			w.Unit = unit
			return w
		}
		return Workload{Name: unit, Kind: KindUnit, Unit: unit}
	}
	return Workload{Name: numbered(unit), Kind: KindUnit, Unit: unit, settled: true}
}

// userUnit names what stands below a user's own manager. All of it the user may have made, and called as he likes: so it bears the
// user's name first, and whatever is no unit is the manager's.
func userUnit(manager, below string) Workload {
	_, below = skipSlices(below)
	name, _ := next(below)
	unit, ok := unitOf(name)
	if !ok {
		return Workload{Name: manager, Kind: KindUnit, settled: name != ""}
	}
	if id, ok := containerOf(unit); ok && strings.HasSuffix(unit, ".scope") {
		return Workload{Name: manager + "/container/" + id[:shortID], Kind: KindContainer, ContainerID: id, settled: true}
	}
	if machine, ok := machineOf(unit); ok {
		return Workload{Name: manager + "/machine/" + machine, Kind: KindMachine, settled: true}
	}
	return Workload{Name: manager + "/" + numbered(unit), Kind: KindUnit, settled: true}
}

// next cuts a path's first component off.
func next(path string) (name, inside string) {
	name, inside, _ = strings.Cut(path, "/")
	return name, inside
}

// unexplained is called by its path. A component that a machine has made up would be another one at each start.
func unexplained(path string) Workload {
	return Workload{Name: withoutMadeUp(path), Kind: KindPath}
}
