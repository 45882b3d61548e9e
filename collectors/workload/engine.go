package workload

import "strings"

// What containers are called by: the first digits, as the engines' own tools show them.
const (
	containerID = 64
	shortID     = 12
)

// isEngine: services below which an engine or a kubelet makes cgroups for others. Who runs them is root.
func isEngine(unit string) bool {
	switch unit {
	case "containerd.service", "docker.service", "cri-docker.service", "crio.service", "kubelet.service",
		"k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service",
		"k0scontroller.service", "k0sworker.service", "k0s.service",
		"snap.microk8s.daemon-containerd.service", "snap.microk8s.daemon-kubelite.service", "snap.docker.dockerd.service":
		return true
	}
	return false
}

// engineMade reads what root's engines make at the root, or below their own service: pods, and containers outside of them.
func engineMade(below string) (w Workload, ok bool) {
	slice := ""
	for {
		inner, rest, ok := nextSlice(slice, below)
		if !ok {
			break
		}
		slice, below = inner, rest
		if uid := podOfSlice(slice); uid != "" {
			return pod(uid, below), true
		}
	}
	name, inside := next(below)
	if unit, ok := unitOf(name); ok {
		// The service manager makes a scope at an engine's wish, who chooses its name.
		if id, ok := containerOf(unit); ok && strings.HasSuffix(unit, ".scope") {
			return container(id, unit), true
		}
		return Workload{}, false
	}
	if w, ok := wrongDriver(name); ok {
		return w, true
	}
	if slice != "" {
		return Workload{}, false
	}
	return inFolder(name, inside)
}

func container(id, unit string) Workload {
	return Workload{Name: "container/" + id[:shortID], Kind: KindContainer, Unit: unit, ContainerID: id, settled: true}
}

// pod is one of Kubernetes'. The kubelet makes its cgroup, and the engine those of its containers.
func pod(uid, below string) Workload {
	w := Workload{Name: "pod/" + uid, Kind: KindPod, PodUID: uid, settled: true}
	name, _ := next(below)
	w.Unit, _ = unitOf(name)
	w.ContainerID, _ = containerOf(name)
	return w
}

// podOfSlice returns the pod of a slice that the kubelet made: its own root's slice, then kubepods, the class of service unless it is
// the best, and the pod, whose dashes are underscores there (pkg/kubelet/cm/cgroup_manager_linux.go of Kubernetes).
func podOfSlice(slice string) (uid string) {
	i := strings.LastIndexByte(slice, '-')
	if i < 0 {
		return ""
	}
	name, ok := strings.CutPrefix(slice[i+1:], "pod")
	if !ok {
		return ""
	}
	parent := slice[:i]
	for _, class := range []string{"-burstable", "-besteffort"} {
		if above, ok := strings.CutSuffix(parent, class); ok {
			parent = above
			break
		}
	}
	if parent != kubepods && !strings.HasSuffix(parent, "-"+kubepods) {
		return ""
	}
	return podUID(strings.ReplaceAll(name, "_", "-"))
}

const kubepods = "kubepods"

// podUID returns it if it is one: a UUID, or the hash of a static pod's manifest (pkg/kubelet/config/common.go).
func podUID(uid string) string {
	if len(uid) == uuidLen && isUUID(uid, '-') || len(uid) == leastHex && isHex(uid) {
		return uid
	}
	return ""
}

// containerOf reads the identifier of a container off the name of its cgroup, where that ends in one. A name before it says who made
// it, or that it is the container's monitor, which is none.
func containerOf(name string) (id string, ok bool) {
	name = strings.TrimSuffix(name, ".scope")
	if len(name) < containerID {
		return "", false
	}
	prefix, id := name[:len(name)-containerID], name[len(name)-containerID:]
	if !isHex(id) || strings.HasSuffix(prefix, "conmon-") || prefix != "" && !strings.HasSuffix(prefix, "-") {
		return "", false
	}
	return id, true
}

// wrongDriver reads slice:prefix:identifier, which systemd would have made a scope of. Where the engine asks for systemd's driver, and
// its runtime has not been told, there is a folder of that name (getCgroupsPath in internal/cri/server of containerd).
func wrongDriver(name string) (w Workload, ok bool) {
	slice, rest, ok := strings.Cut(name, ":")
	if !ok {
		return w, false
	}
	slice, ok = strings.CutSuffix(slice, ".slice")
	prefix, id, two := strings.Cut(rest, ":")
	if !ok || !two || prefix == "" || strings.HasSuffix(prefix, "conmon") || len(id) != containerID || !isHex(id) {
		return w, false
	}
	if uid := podOfSlice(slice); uid != "" {
		w = pod(uid, id)
		return w, true
	}
	return container(id, ""), true
}

// inFolder reads what is not named by systemd. The folders at the root are root's; those that are not in this list may have been given
// to somebody, who then makes in them what he likes.
func inFolder(name, inside string) (w Workload, ok bool) {
	switch name {
	case kubepods:
		return inKubepods(inside)
	case "kubelet": // the root of kubelets that run in containers, such as kind's
		if name, inside := next(inside); name == kubepods {
			return inKubepods(inside)
		}
	case "docker", "actions_job", "default", "k8s.io":
		// Docker's own parent, the one it is given on GitHub's runners, and two of containerd's namespaces.
		return inParent(inside)
	case "libpod_parent":
		// Podman's, which calls containers libpod-ID, and gives a folder to each of its own pods.
		if pod, inside := next(inside); len(pod) == containerID && isHex(pod) {
			return inParent(inside)
		}
		return inParent(inside)
	case "ecs": // tasks, in clusters where the agent is an old one
		return inTask(inside)
	case "machine": // libvirt's, without systemd: qemu-1-name.libvirt-qemu (docs/cgroups.rst)
		name, _ := next(inside)
		if i := strings.LastIndex(name, ".libvirt-"); i > 0 {
			return machine(withoutNumber(name[:i])), true
		}
	case "lxc", "lxc.payload":
		if name, _ := next(inside); name != "" {
			return machine(name), true
		}
	default:
		if name, ok := strings.CutPrefix(name, "lxc.payload."); ok && name != "" {
			return machine(name), true
		}
		if name == "slurm" || strings.HasPrefix(name, "slurm_") {
			// Jobs are numbered; whose they are is what stays.
			if user, _ := next(inside); strings.HasPrefix(user, "uid_") && isNumber(user[len("uid_"):]) {
				return Workload{Name: withoutMadeUp("/" + name + "/" + user), Kind: KindPath, settled: true}, true
			}
		}
	}
	return Workload{}, false
}

func machine(name string) Workload {
	return Workload{Name: "machine/" + name, Kind: KindMachine, settled: true}
}

// inKubepods reads the folders of a kubelet without systemd.
func inKubepods(below string) (w Workload, ok bool) {
	name, inside := next(below)
	if name == "burstable" || name == "besteffort" {
		name, inside = next(inside)
	}
	name, ok = strings.CutPrefix(name, "pod")
	uid := podUID(name)
	if !ok || uid == "" {
		return w, false
	}
	return pod(uid, inside), true
}

// inParent reads a container below the folder that its engine makes them in.
func inParent(below string) (w Workload, ok bool) {
	name, _ := next(below)
	id, ok := containerOf(name)
	if !ok {
		return w, false
	}
	return container(id, ""), true
}

// inTask reads a container of ECS: task/container, or cluster/task/container (agent/api/task/task_linux.go of its agent).
func inTask(below string) (w Workload, ok bool) {
	for range 2 {
		name, inside := next(below)
		if podUID(name) != "" {
			return inParent(inside)
		}
		below = inside
	}
	return w, false
}
