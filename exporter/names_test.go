package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	podUID    = "12fdc709-933e-41d0-917f-cd84de9afa94"
	podSlice  = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12fdc709_933e_41d0_917f_cd84de9afa94.slice"
	container = "4f1a5fd2b9b1c6a3e0d7485c9a2b6e13f04d7c85a1e92b3660d8f7c4e5a1b2c3"
	another   = "9c3be1a47d20f5866b1e4a0d93c7f2580ae64d1b7f359c82e0a6d4b1f7c83e59"
)

// TestBinaryNames makes cgroups of the shapes that service managers, kubelets
// and engines make, in v2 and in a v1 hierarchy, and has somebody ask in each:
// it is counted under the name that outlives the cgroup.
func TestBinaryNames(t *testing.T) {
	needsRoot(t)
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0")
	mounts := mountedHierarchies(t)
	for hierarchy, mount := range mounts {
		t.Run(hierarchy, func(t *testing.T) {
			asker := copyOf(t, self(t))
			want := map[string]float64{}
			for _, shape := range []struct {
				path, workload string
			}{
				{"system.slice/ce-names.service", "ce-names.service"},
				{"system.slice/ce-names.service", "ce-names.service"}, // after a restart
				{`system.slice/ce\x2dnames.service/inner/nginx.service`, `ce\x2dnames.service`},
				{"user.slice/user-4711.slice/user@4711.service/app.slice/nginx.service", "user@4711.service/nginx.service"},
				{"user.slice/user-4711.slice/session-c7.scope", "user-4711.slice/session-*.scope"},
				{"user.slice/user-4711.slice/session-c8.scope", "user-4711.slice/session-*.scope"},
				{"system.slice/run-u4711.service", "run-*.service"},
				// Containers of one pod, one after the other.
				{podSlice + "/cri-containerd-" + container + ".scope", "pod/" + podUID},
				{podSlice + "/cri-containerd-" + another + ".scope/nginx.service", "pod/" + podUID},
				{"kubepods/burstable/pod" + podUID + "/" + container, "pod/" + podUID},
				{"system.slice/containerd.service/kubepods-pod712b37831be464ccc2fb1553ef89aa91.slice:cri-containerd:" + container, "pod/712b37831be464ccc2fb1553ef89aa91"},
				{"system.slice/docker-" + container + ".scope/kubepods/pod" + podUID, "container/4f1a5fd2b9b1"},
				{"docker/" + another, "container/9c3be1a47d20"},
				{"machine.slice/libpod-conmon-" + container + ".scope", "libpod-conmon-*.scope"},
				{"system.slice/ce-quadlet.service/libpod-payload-" + container, "ce-quadlet.service"},
				{"lxc.payload.ce-names/system.slice/nginx.service", "machine/ce-names"},
				{`machine.slice/machine-qemu\x2d9\x2dce\x2dnames.scope/libvirt/emulator`, "machine/ce-names"},
				{"ce-given/kubepods/pod" + podUID, "/ce-given/kubepods/pod*"},
			} {
				dir := filepath.Join(mount, shape.path)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				askIn(t, mounts, hierarchy, dir, asker)
				removeCgroup(t, mount, dir)
				want[shape.workload]++
			}
			got := map[string]float64{}
			for _, metric := range p.series(t, "capability_workload_checks_total") {
				labels := labelsOf(metric)
				if labels["process"] == filepath.Base(asker) && labels["capability"] == "CAP_SYS_ADMIN" {
					if _, twice := got[labels["workload"]]; twice {
						t.Errorf("%s has two series", labels["workload"])
					}
					got[labels["workload"]] = value(metric)
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("counted %v, want %v", got, want)
			}
		})
	}
}

// TestBinaryNamesPods: by the folders of the pods' logs, of which the program
// may see the names when it has confined itself. A pod whose folder comes later
// has its name later.
func TestBinaryNamesPods(t *testing.T) {
	needsRoot(t)
	mounts := mountedHierarchies(t)
	hierarchy := "v2"
	if mounts[hierarchy] == "" {
		hierarchy = "v1"
	}
	dir := worldReadable(t)
	folder := func(pod, uid string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, pod+"_"+uid), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	folder("default_web-0", podUID)
	const late = "712b37831be464ccc2fb1553ef89aa91"
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0", "--kubernetes.pods-dir="+dir)
	asker := copyOf(t, self(t))
	for _, path := range []string{
		podSlice + "/cri-containerd-" + container + ".scope", podSlice + "/cri-containerd-" + another + ".scope",
		"kubepods/burstable/pod" + late + "/" + container,
	} {
		at := filepath.Join(mounts[hierarchy], path)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		askIn(t, mounts, hierarchy, at, asker)
		removeCgroup(t, mounts[hierarchy], at)
	}
	want := map[string]string{
		"workload": "pod/" + podUID, "kind": "pod", "pod_uid": podUID, "namespace": "default", "pod": "web-0",
		"unit": "cri-containerd-" + another + ".scope", "container_id": another, "cgroup": "/" + podSlice + "/cri-containerd-" + another + ".scope",
	}
	told := p.info(t)
	if got := told["pod/"+podUID]; !maps.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if got := told["pod/"+late]; got["container_id"] != container || got["pod"] != "" || got["namespace"] != "" {
		t.Errorf("told %v of a pod that has no folder", got)
	}
	folder("kube-system_etcd-node", late)
	deadline := time.Now().Add(30 * time.Second)
	for p.info(t)["pod/"+late]["pod"] != "etcd-node" {
		if time.Now().After(deadline) {
			t.Fatalf("told %v of a pod that has a folder by now", p.info(t)["pod/"+late])
		}
		time.Sleep(time.Second)
	}
}

// TestBinaryNamesNoPods: it says once which group would be let into the folder,
// and with that is.
func TestBinaryNamesNoPods(t *testing.T) {
	needsRoot(t)
	dir := filepath.Join(worldReadable(t), "pods")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 0, 4711); err != nil {
		t.Fatal(err)
	}
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0", "--kubernetes.pods-dir="+dir)
	p.get(t, "/metrics")
	p.checkStop(t)
	const told = "of uid 0, gid 4711 (mode 0750), and is read as uid 65534, gid 65534"
	if log := p.log.whole(); strings.Count(log, told) != 1 || !strings.Contains(log, "--privileges.user=65534:4711") {
		t.Errorf("it does not say how to be let in, or more than once:\n%s", log)
	}
	p = startProcess(t, program, program, "--web.listen-address=127.0.0.1:0", "--kubernetes.pods-dir="+dir, "--privileges.user=65534:4711")
	p.get(t, "/metrics")
	p.checkStop(t)
	if log := p.log.whole(); strings.Contains(log, "Pods are told by their UID alone") {
		t.Errorf("it is not let in:\n%s", log)
	}
}

// askIn starts a program in a cgroup, where it asks for CAP_SYS_ADMIN once. In
// v2 it stands at the root if it is not to be there.
func askIn(t *testing.T, mounts map[string]string, hierarchy, dir, program string) {
	t.Helper()
	places := []string{dir}
	if root := mounts["v2"]; root != "" && hierarchy != "v2" {
		places = append(places, root)
	}
	script := `for place in "$@"; do echo 0 >"$place/cgroup.procs" || exit; done; exec "$0"`
	ask := command(slices.Concat([]string{"/bin/sh", "-c", script, program}, places)...)
	ask.Env = append(ask.Env, helperRole+"="+helperAsk)
	if out, err := ask.CombinedOutput(); err != nil {
		t.Fatalf("in %s: %v: %s", dir, err, out)
	}
}

// mountedHierarchies are v2 and the first v1 hierarchy that can name a workload, as far as they are mounted whole, by where.
func mountedHierarchies(t *testing.T) map[string]string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, subsystem := range []string{"cgroup2", "memory", "pids", "devices", "freezer", "cpu"} {
		for line := range strings.Lines(string(mounts)) {
			before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
			fields, mounted := strings.Fields(before), strings.Fields(after)
			switch {
			case fields[3] != "/":
			case mounted[0] == "cgroup2" && subsystem == "cgroup2":
				found["v2"] = fields[4]
			case mounted[0] == "cgroup" && found["v1"] == "" && slices.Contains(strings.Split(mounted[2], ","), subsystem):
				found["v1"] = fields[4]
			}
		}
	}
	if len(found) == 0 {
		t.Skip("no cgroup hierarchy is mounted whole")
	}
	return found
}

// removeCgroup removes it, and what leads to it as far as nobody else uses that.
func removeCgroup(t *testing.T, mount, dir string) {
	t.Helper()
	err := os.Remove(dir)
	for range 100 { // who was in it may not be gone yet
		if err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
		err = os.Remove(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		if dir = filepath.Dir(dir); dir == mount {
			return
		}
		err = os.Remove(dir)
	}
}
