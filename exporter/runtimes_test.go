package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"capability_exporter/exporter/internal/web"
)

// TestRuntimes has a real systemd run the exporter, by the unit that is shipped, and systemd, logind, machined, runc, containerd,
// Docker and Podman each start somebody who is granted one capability and denied another. He is counted under the name that README
// has for him, and what else is told of him is what the runtime itself says.
func TestRuntimes(t *testing.T) {
	if os.Getenv(prebuilt) == "" || !exists("/run/systemd/system") || !exists("/usr/bin/podman") {
		t.Skip("runs in a guest that has a systemd and container runtimes of its own (make test-vm)")
	}
	const pod, besteffort, wrong = podUID, "5d0b7c1e-9f42-4be3-a7d6-20c8e1f3b964", "9b2ad1e0-54c7-4c0e-8f6a-3c1d0e9f7a25"
	// The unit has the folder in its own view of the file system, if it is there.
	if err := os.MkdirAll("/var/log/pods/default_web-0_"+pod, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self(t), asker); err != nil {
		t.Fatal(err)
	}
	r := runtimes{root: rootOfContainers(t), image: pauseImage(t)}
	r.writeFiles(t)
	p := startUnit(t)
	output(t, "systemctl", "start", "--no-block", "docker.service", dockerWithoutSystemd) // and containerd with them

	workloads := map[string]bool{}
	for _, row := range []struct {
		name  string
		start func(*testing.T) runtimeWorkload
	}{
		{"service", r.service},
		{"instance", r.instance},
		{"transient", r.transient},
		{"scope", r.scope},
		{"session", r.session},
		{"user", r.user},
		{"runc", r.runc},
		{"containerd", r.containerd},
		{"pod", func(t *testing.T) runtimeWorkload { return r.pod(t, pod) }},
		{"pod without systemd", func(t *testing.T) runtimeWorkload { return r.podWithoutSystemd(t, besteffort) }},
		{"pod by mistake", func(t *testing.T) runtimeWorkload { return r.podByMistake(t, wrong) }},
		{"podman", r.podman},
		{"podman without root", r.podmanWithoutRoot},
		{"quadlet", r.quadlet},
		{"nspawn", r.nspawn},
		{"docker", r.docker},
		{"docker without systemd", r.dockerWithoutSystemd},
	} {
		t.Run(row.name, func(t *testing.T) {
			started := row.start(t)
			setgid := "CAP_SETGID " + cmp.Or(started.setgid, "granted")
			p.waitForAsks(t, started.workload, map[string]float64{setgid: 1, "CAP_SYS_NICE denied": 1})
			labels := started.says(t)
			got := p.info(t)[started.workload]
			for name, want := range labels {
				if got[name] != want {
					t.Errorf("%s is %q, want %q", name, got[name], want)
				}
			}
			workloads[started.workload] = true
			switch row.name {
			case "runc", "containerd", "pod", "pod without systemd", "podman": // what it took to set it up is not its own
				if used := p.lastChecks(t, started.workload); !maps.Equal(used, map[string]bool{"CAP_SETGID granted": true, "CAP_SYS_NICE denied": true}) {
					t.Errorf("it is told to have asked last for %v", used)
				}
			}
		})
	}
	t.Run("restart", func(t *testing.T) {
		output(t, "systemctl", "restart", knownUnit)
		p.waitForAsks(t, knownUnit, map[string]float64{"CAP_SETGID granted": 2, "CAP_SYS_NICE denied": 2})
	})

	for workload := range p.asksByWorkload(t) {
		if !workloads[workload] {
			t.Errorf("somebody asked as %s, which is none of those", workload)
		}
	}
	// Whoever else has asked for something in this system has a name, too.
	for workload, labels := range p.info(t) {
		if labels["kind"] == "path" {
			t.Errorf("%s is called by its path", workload)
		}
	}
	p.stopUnit(t)
	t.Run("the exporter as a pod", r.exporterAsPod)
}

const (
	// asker is the program that asks, on the host; in a container it is in the root folder.
	asker     = "/usr/local/bin/asker"
	unitName  = "capability_exporter.service"
	knownUnit = "ce-known.service"
	// userID is who logs in.
	userID, userName, userHome = 1000, "somebody", "/home/somebody"
	userManager                = "user@1000.service"
	// imageName is of the one image that there is.
	imageName = "localhost/pause:1"
	// patience is for a guest whose machine does much else.
	patience = 3 * time.Minute
	// logsOfPods is where containerd writes those of containers that have one.
	logsOfPods = "/var/log/ce-pods"
)

// runtimeWorkload is what a runtime has started.
type runtimeWorkload struct {
	workload string
	setgid   string // what is said to CAP_SETGID, where that is not "granted"
	// says asks the runtime for what ought to be the labels of capability_workload_info.
	says func(*testing.T) map[string]string
}

// runtimes start the asker, each in its own manner.
type runtimes struct {
	root  string // of containers
	image string // a file
}

// writeFiles writes those of units, Podman's among them, which it makes one of, the engines' configuration, and a user.
func (r runtimes) writeFiles(t *testing.T) {
	t.Helper()
	const service = "[Service]\nExecStart=" + asker + "\nEnvironment=" + askerRole + "\nCapabilityBoundingSet=CAP_SETGID\n"
	writeFile(t, "/etc/systemd/system/"+knownUnit, service)
	writeFile(t, "/etc/systemd/system/ce-worker@.service", service)
	if err := os.MkdirAll("/etc/containers/systemd", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "/etc/containers/systemd/ce-quadlet.container",
		"[Container]\nContainerName=ce-quadlet\nRootfs="+r.root+"\nExec=/asker\nEnvironment="+askerRole+"\nNetwork=none\n")

	writeFile(t, "/etc/hosts", "127.0.0.1 localhost\n") // which containerd copies
	writeFile(t, "/etc/resolv.conf", "")
	writeFile(t, "/etc/containerd/config.toml", `version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "`+imageName+`"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
options = {SystemdCgroup = true}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.`+handlerWithoutSystemd+`]
runtime_type = "io.containerd.runc.v2"
options = {SystemdCgroup = false}
`)
	writeFile(t, "/etc/docker/daemon.json", `{"bridge": "none", "iptables": false, "storage-driver": "vfs"}`)
	writeFile(t, "/etc/systemd/system/"+dockerWithoutSystemd, "[Unit]\nWants=containerd.service\nAfter=containerd.service\n"+
		"[Service]\nType=notify\nDelegate=yes\nExecStart=/usr/sbin/dockerd --exec-opt=native.cgroupdriver=cgroupfs"+
		" --containerd=/run/containerd/containerd.sock --containerd-namespace=other --containerd-plugins-namespace=other-plugins"+
		" --host=unix:///run/other/docker.sock --pidfile=/run/other/docker.pid --exec-root=/run/other/exec --data-root=/var/lib/other\n"+
		"RuntimeDirectory=other\n")

	users, err := os.OpenFile("/etc/passwd", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	if _, err := fmt.Fprintf(users, "%s:*:%d:%d::%s:/bin/sh\n", userName, userID, userID, userHome); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		writeFile(t, file, userName+":100000:65536\n")
	}
	if err := os.MkdirAll(userHome, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(userHome, userID, userID); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rootOfContainers holds nothing but the asker.
func rootOfContainers(t *testing.T) string {
	t.Helper()
	root := worldReadable(t)
	if err := os.Mkdir(filepath.Join(root, "usr"), 0o755); err != nil { // or systemd-nspawn does not take it for a system
		t.Fatal(err)
	}
	if err := os.Link(asker, filepath.Join(root, "asker")); err != nil {
		t.Fatal(err)
	}
	return root
}

// pauseImage has a program that does nothing, as a pod's sandbox wants, and is a file that each engine reads (docker-save(1)).
func pauseImage(t *testing.T) string {
	t.Helper()
	pause, err := os.ReadFile("/usr/bin/catatonit")
	if err != nil {
		t.Fatal(err)
	}
	layer := archive(t, map[string][]byte{"pause": pause})
	config := fmt.Appendf(nil, `{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/pause", "-P"]},
		"rootfs": {"type": "layers", "diff_ids": ["sha256:%x"]}}`, sha256.Sum256(layer))
	manifest := []byte(`[{"Config": "config.json", "RepoTags": ["` + imageName + `"], "Layers": ["layer.tar"]}]`)
	image := filepath.Join(worldReadable(t), "image.tar")
	writeFile(t, image, string(archive(t, map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer})))
	return image
}

// archive puts files that may be executed into one that tar(1) reads.
func archive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const askerRole = helperRole + "=" + helperStay

func (runtimes) service(t *testing.T) runtimeWorkload {
	output(t, "systemctl", "start", knownUnit)
	return runtimeWorkload{workload: knownUnit, says: saysUnit(knownUnit)}
}

func (runtimes) instance(t *testing.T) runtimeWorkload {
	const unit = "ce-worker@3.service"
	output(t, "systemctl", "start", unit)
	return runtimeWorkload{workload: unit, says: saysUnit(unit)}
}

func (runtimes) transient(t *testing.T) runtimeWorkload {
	output(t, "systemd-run", "--property=CapabilityBoundingSet=CAP_SETGID", "--setenv="+askerRole, asker)
	return runtimeWorkload{workload: "run-*.service", says: saysTransient("run-*.service")}
}

func (runtimes) scope(t *testing.T) runtimeWorkload {
	stays(t, "systemd-run", "--scope", "setpriv", "--bounding-set=-all,+setgid", "env", askerRole, asker)
	return runtimeWorkload{workload: "run-*.scope", says: saysTransient("run-*.scope")}
}

// session logs in, by PAM, as login(1), sshd(8) and cron(8) do.
func (runtimes) session(t *testing.T) runtimeWorkload {
	stays(t, "su", "--login", userName, "--command", "exec env "+askerRole+" "+asker)
	return runtimeWorkload{workload: "user-1000.slice/session-*.scope", setgid: "denied", says: func(t *testing.T) map[string]string {
		for line := range strings.Lines(output(t, "loginctl", "--no-legend", "list-sessions")) {
			// The user's manager has one, too, in its own service.
			scope := output(t, "loginctl", "show-session", "--value", "--property=Scope", strings.Fields(line)[0])
			if strings.HasSuffix(scope, ".scope") {
				labels := saysUnit(scope)(t)
				labels["kind"] = "session"
				return labels
			}
		}
		t.Fatal("logind knows of no session that has a scope")
		return nil
	}}
}

// user is a unit of the manager that logind has started for who is logged in.
func (runtimes) user(t *testing.T) runtimeWorkload {
	const unit = "ce-app.service"
	byUser(t, "systemd-run", "--user", "--unit="+unit, "--setenv="+askerRole, asker)
	return runtimeWorkload{workload: userManager + "/" + unit, setgid: "denied", says: func(t *testing.T) map[string]string {
		cgroup := byUser(t, "systemctl", "--user", "show", "--value", "--property=ControlGroup", unit)
		return map[string]string{"kind": "unit", "unit": userManager, "cgroup": cgroup}
	}}
}

// byUser has who is logged in do what he is told.
func byUser(t *testing.T, args ...string) string {
	t.Helper()
	id := strconv.Itoa(userID)
	return output(t, slices.Concat([]string{
		"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups",
		"env", "HOME=" + userHome, "XDG_RUNTIME_DIR=/run/user/" + id, usersStorage,
	}, args)...)
}

// usersStorage has his Podman try out nothing else.
const usersStorage = "STORAGE_DRIVER=vfs"

func (r runtimes) runc(t *testing.T) runtimeWorkload {
	bundle := worldReadable(t)
	only := `["CAP_SETGID"]`
	config := `{"ociVersion": "1.0.2", "root": {"path": "` + r.root + `"},
		"process": {"cwd": "/", "args": ["/asker"], "env": ["` + askerRole + `"], "user": {"uid": 0, "gid": 0},
			"capabilities": {"bounding": ` + only + `, "permitted": ` + only + `, "effective": ` + only + `}},
		"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
		"linux": {"cgroupsPath": "system.slice:runc:` + container + `", "namespaces": [{"type": "mount"}, {"type": "pid"}]}}`
	writeFile(t, filepath.Join(bundle, "config.json"), config)
	output(t, "runc", "--systemd-cgroup", "run", "--detach", "--bundle", bundle, container)
	return runtimeWorkload{workload: "container/" + container[:12], says: func(t *testing.T) map[string]string {
		var state struct{ ID string }
		if err := json.Unmarshal([]byte(output(t, "runc", "state", container)), &state); err != nil {
			t.Fatal(err)
		}
		labels := saysUnit("runc-" + container + ".scope")(t)
		labels["kind"], labels["container_id"] = "container", state.ID
		return labels
	}}
}

// ctr starts a container of containerd's.
func (r runtimes) ctr(t *testing.T, id string, options ...string) {
	t.Helper()
	output(t, "systemctl", "start", "containerd.service") // if it has not been yet
	start := []string{"ctr", "run", "--detach", "--null-io", "--env", askerRole}
	output(t, slices.Concat(start, options, []string{"--rootfs", r.root, id, "/asker"})...)
}

// saysContainerd has the cgroup that the container's first process is in.
func saysContainerd(t *testing.T, id string) map[string]string {
	t.Helper()
	var told struct{ ID string }
	if err := json.Unmarshal([]byte(output(t, "ctr", "containers", "info", id)), &told); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(output(t, "ctr", "tasks", "list")) {
		if fields := strings.Fields(line); fields[0] == id {
			return map[string]string{"container_id": told.ID, "cgroup": cgroupOf(t, fields[1])}
		}
	}
	t.Fatalf("containerd has no task of %s", id)
	return nil
}

func cgroupOf(t *testing.T, pid string) string {
	t.Helper()
	cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(cgroup), "0::"))
}

func (r runtimes) containerd(t *testing.T) runtimeWorkload {
	r.ctr(t, another)
	return runtimeWorkload{workload: "container/" + another[:12], says: func(t *testing.T) map[string]string {
		labels := saysContainerd(t, another)
		labels["kind"] = "container"
		return labels
	}}
}

// pod asks containerd for what a kubelet that goes by systemd asks it for.
func (r runtimes) pod(t *testing.T, uid string) runtimeWorkload {
	id := r.startPod(t, "web-0", uid, "/kubepods.slice/kubepods-burstable.slice/"+podParent(uid), "")
	return runtimeWorkload{workload: "pod/" + uid, says: func(t *testing.T) map[string]string {
		labels := r.saysCRI(t, id)
		maps.Copy(labels, saysUnit("cri-containerd-"+id+".scope")(t))
		labels["kind"], labels["pod_uid"], labels["namespace"], labels["pod"] = "pod", uid, "default", "web-0"
		return labels
	}}
}

// podWithoutSystemd is what one asks for that makes folders itself.
func (r runtimes) podWithoutSystemd(t *testing.T, uid string) runtimeWorkload {
	id := r.startPod(t, "web-1", uid, "/kubepods/besteffort/pod"+uid, handlerWithoutSystemd)
	return runtimeWorkload{workload: "pod/" + uid, says: func(t *testing.T) map[string]string {
		labels := r.saysCRI(t, id)
		labels["kind"], labels["pod_uid"], labels["unit"] = "pod", uid, ""
		return labels
	}}
}

// podByMistake is a pod with systemd where runc has not been told to have systemd make the cgroup.
func (r runtimes) podByMistake(t *testing.T, uid string) runtimeWorkload {
	id := "0b" + container[2:]
	r.ctr(t, id, "--cgroup", podParent(uid)+":cri-containerd:"+id)
	return runtimeWorkload{workload: "pod/" + uid, says: func(t *testing.T) map[string]string {
		labels := saysContainerd(t, id)
		labels["kind"], labels["pod_uid"] = "pod", uid
		return labels
	}}
}

func podParent(uid string) string {
	return "kubepods-burstable-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"
}

func (r runtimes) podman(t *testing.T) runtimeWorkload {
	id := output(t, "podman", "run", "--detach", "--network=none", "--env="+askerRole, "--rootfs", r.root, "/asker")
	return runtimeWorkload{workload: "container/" + id[:12], says: func(t *testing.T) map[string]string {
		labels := saysPodman(t, output, id)
		labels["kind"], labels["unit"] = "container", "libpod-"+id+".scope"
		labels["cgroup"] += "/container" // crun's, of which Podman does not tell
		return labels
	}}
}

// saysPodman asks the Podman of root, by output, or that of the user.
func saysPodman(t *testing.T, run func(*testing.T, ...string) string, container string) map[string]string {
	t.Helper()
	id, cgroup, _ := strings.Cut(run(t, "podman", "inspect", "--format={{.Id}} {{.State.CgroupPath}}", container), " ")
	return map[string]string{"container_id": id, "cgroup": cgroup}
}

// podmanWithoutRoot starts a container in a user namespace of its own, whose cgroup the user's manager makes.
func (r runtimes) podmanWithoutRoot(t *testing.T) runtimeWorkload {
	root := rootOfContainers(t)
	if err := os.Chown(root, userID, userID); err != nil { // he makes what to mount on
		t.Fatal(err)
	}
	// In a session: within a unit, Podman leaves the container's monitor in that.
	id := output(t, "su", "--login", userName, "--command",
		usersStorage+" podman run --detach --network=none --env="+askerRole+" --rootfs "+root+" /asker")
	return runtimeWorkload{
		workload: userManager + "/container/" + id[:12],
		setgid:   "granted userns",
		says: func(t *testing.T) map[string]string {
			labels := saysPodman(t, byUser, id)
			labels["kind"], labels["unit"] = "container", userManager
			labels["cgroup"] += "/container"
			return labels
		},
	}
}

// quadlet has Podman make a unit, which has the container's cgroup inside its own.
func (r runtimes) quadlet(t *testing.T) runtimeWorkload {
	output(t, "systemctl", "start", "ce-quadlet.service")
	return runtimeWorkload{workload: "ce-quadlet.service", says: func(t *testing.T) map[string]string {
		return map[string]string{"kind": "unit", "unit": "ce-quadlet.service", "cgroup": saysPodman(t, output, "ce-quadlet")["cgroup"]}
	}}
}

func (r runtimes) nspawn(t *testing.T) runtimeWorkload {
	stays(t, "systemd-nspawn", "--quiet", "--directory="+r.root, "--machine=ce-machine",
		"--drop-capability=CAP_SYS_NICE", "--setenv="+askerRole, "/asker")
	return runtimeWorkload{workload: "machine/ce-machine", says: func(t *testing.T) map[string]string {
		labels := saysUnit(output(t, "machinectl", "show", "--value", "--property=Unit", "ce-machine"))(t)
		labels["kind"] = "machine"
		labels["cgroup"] += "/payload"
		return labels
	}}
}

const (
	dockerWithoutSystemd       = "ce-docker.service"
	dockerWithoutSystemdSocket = "unix:///run/other/docker.sock"
)

func (r runtimes) docker(t *testing.T) runtimeWorkload {
	return r.runDocker(t, "docker.service", "unix:///run/docker.sock", func(id string) map[string]string {
		return saysUnit("docker-" + id + ".scope")(t)
	})
}

// dockerWithoutSystemd has a daemon that makes folders itself.
func (r runtimes) dockerWithoutSystemd(t *testing.T) runtimeWorkload {
	return r.runDocker(t, dockerWithoutSystemd, dockerWithoutSystemdSocket, func(string) map[string]string {
		return map[string]string{"unit": ""}
	})
}

func (r runtimes) runDocker(t *testing.T, daemon, socket string, unit func(id string) map[string]string) runtimeWorkload {
	t.Helper()
	output(t, "systemctl", "start", daemon) // waits until it has started
	docker := func(t *testing.T, args ...string) string {
		t.Helper()
		return output(t, append([]string{"docker", "--host=" + socket}, args...)...)
	}
	docker(t, "load", "--quiet", "--input="+r.image)
	id := docker(t, "run", "--detach", "--network=host", "--env="+askerRole, "--volume="+asker+":/asker", imageName, "/asker")
	return runtimeWorkload{workload: "container/" + id[:12], says: func(t *testing.T) map[string]string {
		id, pid, _ := strings.Cut(docker(t, "inspect", "--format={{.Id}} {{.State.Pid}}", id), " ")
		labels := unit(id)
		labels["kind"], labels["container_id"], labels["cgroup"] = "container", id, cgroupOf(t, pid)
		return labels
	}}
}

// saysUnit asks the system's manager.
func saysUnit(unit string) func(*testing.T) map[string]string {
	return func(t *testing.T) map[string]string {
		t.Helper()
		return map[string]string{"kind": "unit", "unit": unit, "cgroup": property(t, unit, "ControlGroup")}
	}
}

// saysTransient finds the one unit of such a name.
func saysTransient(pattern string) func(*testing.T) map[string]string {
	return func(t *testing.T) map[string]string {
		t.Helper()
		units := strings.Fields(output(t, "systemctl", "list-units", "--plain", "--no-legend", pattern))
		if len(units) == 0 {
			t.Fatalf("systemd has no %s", pattern)
		}
		return saysUnit(units[0])(t)
	}
}

// output is that of a program that does what it is told.
func output(t *testing.T, args ...string) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "") // a pipe would be held open by what goes on in the background
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	failure, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer failure.Close()
	cmd := command(args...)
	cmd.Stdout, cmd.Stderr = file, failure
	err = cmd.Run()
	content, readErr := os.ReadFile(file.Name())
	if err != nil || readErr != nil {
		said, _ := os.ReadFile(failure.Name())
		t.Fatalf("%v: %v, %v\n%s%s", args, err, readErr, content, said)
	}
	return strings.TrimSpace(string(content))
}

// stays starts a program that runs for as long as the guest.
func stays(t *testing.T, args ...string) {
	t.Helper()
	cmd := command(args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// startUnit installs the exporter as its unit's file says.
func startUnit(t *testing.T) *process {
	t.Helper()
	writeFile(t, "/etc/default/capability_exporter", "ARGS=--held.interval=5s\n")
	output(t, "install", "-m", "0755", exporter(t), "/usr/local/bin/")
	output(t, "install", "-m", "0644", filepath.Join(filepath.Dir(exporter(t)), unitName), "/etc/systemd/system/")
	output(t, "systemctl", "enable", "--now", unitName)
	return serving(t, "127.0.0.1:10041")
}

// serving is the exporter as its unit has started it: systemctl(1) has waited until it said that it is ready.
func serving(t *testing.T, address string) *process {
	t.Helper()
	if got := property(t, unitName, "SubState"); got != "running" {
		t.Fatalf("it is %s\n%s", got, output(t, "journalctl", "--no-pager", "--unit="+unitName))
	}
	p := &process{instance: &instance{address: address, client: newClient()}}
	t.Cleanup(p.client.CloseIdleConnections)
	if got := p.get(t, web.ReadyPath).StatusCode; got != http.StatusOK {
		t.Fatalf("it says that it is ready, and answers %d\n%s", got, output(t, "journalctl", "--no-pager", "--unit="+unitName))
	}
	if got := property(t, unitName, "StatusText"); !strings.HasPrefix(got, "Counting capability checks via ") {
		t.Errorf("its status is %q", got)
	}
	var err error
	if p.pid, err = strconv.Atoi(property(t, unitName, "MainPID")); err != nil {
		t.Fatal(err)
	}
	return p
}

// property is one of a unit's, as systemd has it.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return output(t, "systemctl", "show", "--value", "--property="+name, unit)
}

// stopUnit looks at what systemd has made of the unit, and ends it.
func (p *process) stopUnit(t *testing.T) {
	t.Helper()
	uid, err := strconv.ParseUint(property(t, unitName, "UID"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	want := asUser(holding("", bothMask), uint32(uid), uint32(uid))
	want.Groups = fmt.Sprint(uid)
	p.checkPrivileges(t, want)
	for _, capability := range []string{"CAP_BPF", "CAP_PERFMON"} {
		if n := p.metric(t, `capability_held_processes{capability="`+capability+`",scope="host",workload="`+unitName+`"}`); n != 1 {
			t.Errorf("%v processes of its own hold %s", n, capability)
		}
	}
	if restarts := property(t, unitName, "NRestarts"); restarts != "0" {
		t.Errorf("it was started again %s times", restarts)
	}
	output(t, "systemctl", "stop", unitName)
	result, status := property(t, unitName, "Result"), property(t, unitName, "ExecMainStatus")
	if result != "success" || status != "0" {
		t.Errorf("it ended with %s, exit status %s", result, status)
	}
	wasOrderly(t, output(t, "journalctl", "--no-pager", "--unit="+unitName))
}

// wasOrderly looks at a log from start to stop.
func wasOrderly(t *testing.T, log string) {
	t.Helper()
	if !strings.Contains(log, "level=INFO") || !strings.Contains(log, "msg=Stopping") || strings.Contains(log, "level=ERROR") {
		t.Errorf("its log does not tell of an orderly run:\n%s", log)
	}
}

// asksByWorkload are what the asker was counted for.
func (p *process) asksByWorkload(t *testing.T) map[string]map[string]float64 {
	t.Helper()
	asks := map[string]map[string]float64{}
	for _, metric := range p.series(t, "capability_workload_checks_total") {
		labels := labelsOf(metric)
		if labels["process"] != filepath.Base(asker) {
			continue
		}
		workload := labels["workload"]
		if asks[workload] == nil {
			asks[workload] = map[string]float64{}
		}
		ask := labels["capability"] + " " + labels["result"]
		if labels["scope"] != "host" {
			ask += " " + labels["scope"]
		}
		asks[workload][ask] += value(metric)
	}
	return asks
}

// waitForAsks waits until a workload was counted for what its asker does.
func (p *process) waitForAsks(t *testing.T, workload string, want map[string]float64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(300 * time.Millisecond) {
		asks := p.asksByWorkload(t)
		if maps.Equal(asks[workload], want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s asked for %v, want %v; all asked for %v", workload, asks[workload], want, asks)
		}
	}
}

// info has the labels of capability_workload_info, by workload.
func (p *process) info(t *testing.T) map[string]map[string]string {
	t.Helper()
	told := map[string]map[string]string{}
	for _, metric := range p.series(t, "capability_workload_info") {
		labels := labelsOf(metric)
		told[labels["workload"]] = labels
	}
	return told
}

// lastChecks are those of which it is told when a workload made them last.
func (p *process) lastChecks(t *testing.T, workload string) map[string]bool {
	t.Helper()
	checks := map[string]bool{}
	for _, metric := range p.series(t, "capability_workload_last_check_timestamp_seconds") {
		if labels := labelsOf(metric); labels["workload"] == workload {
			checks[labels["capability"]+" "+labels["result"]] = true
		}
	}
	return checks
}
