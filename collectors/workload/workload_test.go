package workload

import (
	"strings"
	"testing"
)

// What stands for an identifier in the rows below.
const (
	id    = "4f1a5fd2b9b1c6a3e0d7485c9a2b6e13f04d7c85a1e92b3660d8f7c4e5a1b2c3"
	short = "4f1a5fd2b9b1"
	other = "9c3be1a47d20f5866b1e4a0d93c7f2580ae64d1b7f359c82e0a6d4b1f7c83e59"
	uid   = "12fdc709-933e-41d0-917f-cd84de9afa94"
	hash  = "712b37831be464ccc2fb1553ef89aa91"     // a static pod's
	task  = "e95a40efbde84cbc8600660a109ec194"     // ECS'
	alloc = "f7d90c1e-2b3a-7c44-9a51-0c6f2d8e1b77" // Nomad's
	build = "jvifp9a6b1lxa1kuw8bwfcovf"            // BuildKit's
)

// under_ is a UUID as it stands in a slice's name.
func under_(uid string) string { return strings.ReplaceAll(uid, "-", "_") }

func slicePod(root, class, uid string) string {
	path, name := "", ""
	for _, part := range []string{root, "kubepods", class, "pod" + under_(uid)} {
		if part != "" {
			name = strings.TrimPrefix(name+"-"+part, "-")
			path += "/" + name + ".slice"
		}
	}
	return path
}

// row is a path that somebody makes, and where that stands.
type row struct {
	where string
	path  string
	want  Workload // without settled
}

func unit(name string) Workload { return Workload{Name: name, Kind: KindUnit, Unit: name} }

// numberedUnit has a name of its own each time.
func numberedUnit(name, unit string) Workload {
	return Workload{Name: name, Kind: KindUnit, Unit: unit}
}

// ofUser is below the manager of user 1000.
func ofUser(name string) Workload {
	return Workload{Name: userManager + name, Kind: KindUnit, Unit: userManager}
}

const (
	userManager = "user@1000.service"
	userPath    = "/user.slice/user-1000.slice/" + userManager
)

func aSlice(name string) Workload { return Workload{Name: name, Kind: KindSlice, Unit: name} }

func aPod(uid, container, unit string) Workload {
	return Workload{Name: "pod/" + uid, Kind: KindPod, PodUID: uid, ContainerID: container, Unit: unit}
}

func aContainer(unit string) Workload {
	return Workload{Name: "container/" + short, Kind: KindContainer, ContainerID: id, Unit: unit}
}

func aMachine(name, unit string) Workload {
	return Workload{Name: "machine/" + name, Kind: KindMachine, Unit: unit}
}

func aPath(name string) Workload { return Workload{Name: name, Kind: KindPath} }

func scope(prefix string) string { return prefix + "-" + id + ".scope" }

func documented() []row {
	return []row{
		{"cgroups(7)", "/", Workload{Name: "/", Kind: KindRoot}},

		// systemd
		{"systemd.slice(5)", "/system.slice/nginx.service", unit("nginx.service")},
		{"systemd.special(7)", "/init.scope", unit("init.scope")},
		{"systemd.unit(5), a template", "/system.slice/system-getty.slice/getty@tty1.service", unit("getty@tty1.service")},
		{"systemd.unit(5), escapes", `/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service`, unit("serial-getty@ttyS0.service")},
		{"systemd.unit(5), escapes", `/system.slice/dev-disk-by\x2duuid-0dbd1d85\x2d1234.swap`, unit(`dev-disk-by\x2duuid-0dbd1d85\x2d1234.swap`)},
		{"systemd.slice(5), slices within slices", "/a.slice/a-b.slice/a-b-c.slice/job.service", unit("job.service")},
		{"systemd.resource-control(5), Slice=-.slice", "/job.service", unit("job.service")},
		{"systemd.resource-control(5), DelegateSubgroup=", "/system.slice/foo.service/supervisor", unit("foo.service")},
		{"systemd.mount(5)", "/system.slice/dev-hugepages.mount", unit("dev-hugepages.mount")},
		{"systemd.socket(5)", "/system.slice/systemd-udevd-control.socket", unit("systemd-udevd-control.socket")},
		{"systemd: src/basic/cgroup-util.c, cg_escape", "/system.slice/_cpu.service", unit("cpu.service")},
		{"systemd: src/basic/cgroup-util.c, cg_escape", "/system.slice/__x.service", unit("_x.service")},
		{"systemd.special(7)", "/system.slice", aSlice("system.slice")},
		{"systemd: docs/CGROUP_DELEGATION.md, v1 of devices", "/user.slice", aSlice("user.slice")},
		{"user@.service(5)", "/user.slice/user-1000.slice", aSlice("user-1000.slice")},
		{
			"systemd: src/login/logind-session.c", "/user.slice/user-1000.slice/session-22.scope",
			Workload{Name: "user-1000.slice/session-*.scope", Kind: KindSession, Unit: "session-22.scope"},
		},
		{
			"systemd: src/login/logind-session.c", "/user.slice/user-0.slice/session-c1.scope",
			Workload{Name: "user-0.slice/session-*.scope", Kind: KindSession, Unit: "session-c1.scope"},
		},
		{"user@.service(5)", "/user.slice/user-1000.slice/user-runtime-dir@1000.service", unit("user-runtime-dir@1000.service")},
		{"user@.service(5)", userPath + "/init.scope", ofUser("/init.scope")},
		{"systemd: docs/DESKTOP_ENVIRONMENTS.md", userPath + "/app.slice/app-foo.service", ofUser("/app-foo.service")},
		{"systemd: docs/DESKTOP_ENVIRONMENTS.md", userPath + `/app.slice/app-gnome-org.gnome.Terminal-4711.scope`, ofUser("/app-gnome-org.gnome.Terminal-*.scope")},
		{"systemd: docs/DESKTOP_ENVIRONMENTS.md", userPath + `/app.slice/app-gnome-firefox@` + hash + `.service`, ofUser("/app-gnome-firefox@*.service")},
		{"systemd: docs/DESKTOP_ENVIRONMENTS.md", userPath + `/app.slice/app-org.kde.kalarm@autostart.service`, ofUser("/app-org.kde.kalarm@autostart.service")},
		{"VTE: src/systemd.cc", userPath + "/app.slice/app-org.gnome.Terminal.slice/vte-spawn-" + uid + ".scope", ofUser("/vte-spawn-*.scope")},
		{"snapd: sandbox/cgroup/tracking.go", userPath + "/app.slice/snap.firefox.firefox-" + uid + ".scope", ofUser("/snap.firefox.firefox-*.scope")},
		{"user@.service(5)", userPath, ofUser("")},
		{"user@.service(5)", userPath + "/session.slice", ofUser("")},
		{"systemd-run(1)", "/system.slice/run-u42.service", numberedUnit("run-*.service", "run-u42.service")},
		{"systemd-run(1)", "/system.slice/run-r" + hash + ".scope", numberedUnit("run-*.scope", "run-r"+hash+".scope")},
		{"systemd: src/run/run.c, since 257", "/user.slice/run-p1234-i5678.service", numberedUnit("run-*.service", "run-p1234-i5678.service")},
		{"systemd: src/run/run.c", "/system.slice/run-1234.scope", numberedUnit("run-*.scope", "run-1234.scope")},
		{"systemd-run(1)", userPath + "/app.slice/run-u7.service", ofUser("/run-*.service")},
		{"systemd.unit(5): a unit that people named", "/system.slice/run-parts.service", unit("run-parts.service")},
		{"systemd.unit(5): a unit that people named", "/system.slice/run-rcafe.service", unit("run-rcafe.service")},
		{"systemd.unit(5): a unit that people named", "/system.slice/worker@a-1-2.service", unit("worker@a-1-2.service")},
		{"systemd.mount(5): /run/user/1000", "/system.slice/run-user-1000.mount", unit("run-user-1000.mount")},
		{
			"systemd.socket(5), Accept=", "/system.slice/system-sshd.slice/sshd@3-192.0.2.1:22-198.51.100.7:51234.service",
			numberedUnit("sshd@*.service", "sshd@3-192.0.2.1:22-198.51.100.7:51234.service"),
		},
		{
			"systemd: src/core/socket.c, instance_from_socket", "/system.slice/sshd@4-2001:db8::1:22-2001:db8::2:40000.service",
			numberedUnit("sshd@*.service", "sshd@4-2001:db8::1:22-2001:db8::2:40000.service"),
		},
		{
			"systemd: src/core/socket.c, instance_from_socket", `/system.slice/system-systemd\x2dcoredump.slice/systemd-coredump@0-1234-0.service`,
			numberedUnit("systemd-coredump@*.service", "systemd-coredump@0-1234-0.service"),
		},
		{
			"systemd: src/core/socket.c, since 258", "/system.slice/systemd-coredump@1-77-1234_5678-0.service",
			numberedUnit("systemd-coredump@*.service", "systemd-coredump@1-77-1234_5678-0.service"),
		},
		{"systemd: src/core/socket.c", "/system.slice/x@5-unknown.service", numberedUnit("x@*.service", "x@5-unknown.service")},
		{
			"dbus-broker: src/launch/launcher.c", "/system.slice/system-dbus\\x2d:1.2\\x2dorg.freedesktop.problems.slice/dbus-:1.2-org.freedesktop.problems@0.service",
			numberedUnit("dbus-:*-org.freedesktop.problems@*.service", "dbus-:1.2-org.freedesktop.problems@0.service"),
		},
		{"user@.service(5): an ordinary instance with a number", "/system.slice/worker@3.service", unit("worker@3.service")},
		{"capsule@.service(5)", "/capsule.slice/capsule@tmp.service/app.slice/x.service", unit("capsule@tmp.service")},
		{"systemd: v1 of pids", "/system.slice/cron.service", unit("cron.service")},

		// Kubernetes, with systemd
		{"Kubernetes: pkg/kubelet/cm/cgroup_manager_linux.go", slicePod("", "burstable", uid) + "/" + scope("cri-containerd"), aPod(uid, id, scope("cri-containerd"))},
		{"Kubernetes: pkg/kubelet/cm/cgroup_manager_linux.go", slicePod("", "besteffort", uid) + "/" + scope("cri-containerd"), aPod(uid, id, scope("cri-containerd"))},
		{"Kubernetes: pkg/kubelet/cm/pod_container_manager_linux.go, guaranteed", slicePod("", "", uid) + "/" + scope("cri-containerd"), aPod(uid, id, scope("cri-containerd"))},
		{"Kubernetes: pkg/kubelet/config/common.go, static", slicePod("", "burstable", hash) + "/" + scope("cri-containerd"), aPod(hash, id, scope("cri-containerd"))},
		{"Kubernetes: --cgroup-root=/my/root", "/my.slice" + slicePod("my-root", "burstable", uid) + "/" + scope("cri-containerd"), aPod(uid, id, scope("cri-containerd"))},
		{"kind: cgroup root /kubelet", slicePod("kubelet", "besteffort", uid) + "/" + scope("cri-containerd"), aPod(uid, id, scope("cri-containerd"))},
		{"Kubernetes: pod without a container", slicePod("", "burstable", uid), aPod(uid, "", "")},
		{"Kubernetes: kubepods itself", "/kubepods.slice/kubepods-burstable.slice", aSlice("kubepods-burstable.slice")},
		{"CRI-O: internal/config/cgmgr/systemd_linux.go; OpenShift", slicePod("", "besteffort", uid) + "/" + scope("crio"), aPod(uid, id, scope("crio"))},
		{"CRI-O with crun", slicePod("", "besteffort", uid) + "/" + scope("crio") + "/container", aPod(uid, id, scope("crio"))},
		{"CRI-O: internal/config/cgmgr/systemd_linux.go, the monitor", slicePod("", "besteffort", uid) + "/" + scope("crio-conmon"), aPod(uid, "", scope("crio-conmon"))},
		{"CRI-O: internal/config/cgmgr/systemd_linux.go, the sandbox", slicePod("", "", uid) + "/crio-" + id, aPod(uid, id, "")},
		{"cri-dockerd; EKS with Docker", slicePod("", "burstable", uid) + "/" + scope("docker"), aPod(uid, id, scope("docker"))},
		{"RKE2, EKS, GKE with systemd, Bottlerocket: containerd", slicePod("", "burstable", uid) + "/" + scope("cri-containerd"), aPod(uid, id, scope("cri-containerd"))},

		// without
		{"Kubernetes: cgroupfs, GKE, MicroK8s, Talos", "/kubepods/burstable/pod" + uid + "/" + id, aPod(uid, id, "")},
		{"Kubernetes: cgroupfs", "/kubepods/besteffort/pod" + uid + "/" + id, aPod(uid, id, "")},
		{"Kubernetes: cgroupfs, guaranteed", "/kubepods/pod" + uid + "/" + id, aPod(uid, id, "")},
		{"Kubernetes: cgroupfs, static", "/kubepods/burstable/pod" + hash + "/" + id, aPod(hash, id, "")},
		{"CRI-O: internal/config/cgmgr/cgroupfs_linux.go", "/kubepods/burstable/pod" + uid + "/crio-" + id, aPod(uid, id, "")},
		{"CRI-O: internal/config/cgmgr/cgroupfs_linux.go", "/kubepods/burstable/pod" + uid + "/crio-conmon-" + id, aPod(uid, "", "")},
		{"kind: cgroup root /kubelet", "/kubelet/kubepods/besteffort/pod" + uid + "/" + id, aPod(uid, id, "")},
		{"Kubernetes: kubepods itself", "/kubepods/burstable", aPath("/kubepods/burstable")},
		{"Talos: pkg/machinery/constants/constants.go", "/podruntime/kubelet", aPath("/podruntime/kubelet")},
		{"Talos: pkg/machinery/constants/constants.go", "/system/runtime", aPath("/system/runtime")},

		// below an engine's own service
		{
			"containerd: getCgroupsPath, with runc's own driver", "/system.slice/containerd.service/kubepods-burstable-pod" + under_(uid) + ".slice:cri-containerd:" + id,
			aPod(uid, id, "containerd.service"),
		},
		{"the same, at the root", "/kubepods-besteffort-pod" + under_(uid) + ".slice:cri-containerd:" + id, aPod(uid, id, "")},
		{"the same, with CRI-O", "/kubepods-pod" + under_(hash) + ".slice:crio:" + id, aPod(hash, id, "")},
		{"moby: cmd/dockerd/daemon_systemd_unix.go, the same", "/system.slice/containerd.service/system.slice:docker:" + id, aContainer("containerd.service")},
		{"k3s: below its own service", "/system.slice/k3s.service" + slicePod("", "burstable", uid) + "/" + scope("cri-containerd"), aPod(uid, id, "k3s.service")},
		{"k3s: below its own service", "/system.slice/k3s-agent.service/kubepods/burstable/pod" + uid + "/" + id, aPod(uid, id, "k3s-agent.service")},
		{"k0s: below its own service", "/system.slice/k0sworker.service/kubepods/besteffort/pod" + uid + "/" + id, aPod(uid, id, "k0sworker.service")},
		{"MicroK8s: below its own service", "/system.slice/snap.microk8s.daemon-kubelite.service/kubepods/pod" + uid, aPod(uid, "", "snap.microk8s.daemon-kubelite.service")},
		{"Docker: below its own service", "/system.slice/docker.service/docker/" + id, aContainer("docker.service")},
		{"the engine itself", "/system.slice/containerd.service", unit("containerd.service")},
		{"the engine itself", "/system.slice/k3s.service/init", unit("k3s.service")},
		{"Bottlerocket: packages/containerd", "/runtime.slice/containerd.service", unit("containerd.service")},

		// containers
		{"moby: cmd/dockerd/daemon_systemd_unix.go", "/system.slice/" + scope("docker"), aContainer(scope("docker"))},
		{"dockerd(8), --cgroup-parent", "/batch.slice/" + scope("docker"), aContainer(scope("docker"))},
		{"moby: cmd/dockerd/daemon_systemd_unix.go, cgroupfs", "/docker/" + id, aContainer("")},
		{"Docker in Docker", "/docker/" + id + "/docker/" + other, aContainer("")},
		{"Docker in Docker", "/system.slice/" + scope("docker") + "/docker/" + other, aContainer(scope("docker"))},
		{"kind", "/system.slice/" + scope("docker") + "/kubelet.slice/kubelet-kubepods.slice", aContainer(scope("docker"))},
		{"moby: contrib/dockerd-rootless.sh", userPath + "/user.slice/" + scope("docker"), Workload{
			Name: userManager + "/container/" + short, Kind: KindContainer, ContainerID: id, Unit: userManager,
		}},
		{"moby: daemon/internal/builder-next/executor_linux.go", "/system.slice/system.slice:docker:" + build, aPath("/system.slice/system.slice:docker:*")},
		{"moby: daemon/internal/builder-next/executor_linux.go, cgroupfs", "/docker/" + build, aPath("/docker/*")},
		{"BuildKit: containerd's namespace", "/buildkit/" + build, aPath("/buildkit/*")},
		{"nerdctl: pkg/cmd/container/run_cgroup_linux.go", "/system.slice/" + scope("nerdctl"), aContainer(scope("nerdctl"))},
		{"nerdctl: pkg/cmd/container/run_cgroup_linux.go, cgroupfs", "/default/" + id, aContainer("")},
		{"nerdctl: pkg/cmd/container/run_cgroup_linux.go, rootless", userPath + "/user.slice/" + scope("nerdctl"), Workload{
			Name: userManager + "/container/" + short, Kind: KindContainer, ContainerID: id, Unit: userManager,
		}},
		{"containerd: pkg/oci, the default path; cri-tools issue 1292", "/k8s.io/" + id, aContainer("")},
		{"containerd: pkg/oci; Bottlerocket's host-ctr", "/default/admin", aPath("/default/admin")},
		{"Podman: libpod/container_internal_linux.go", "/machine.slice/" + scope("libpod") + "/container", aContainer(scope("libpod"))},
		{"Podman: libpod/oci_conmon_linux.go, the monitor", "/machine.slice/" + scope("libpod-conmon"), numberedUnit("libpod-conmon-*.scope", scope("libpod-conmon"))},
		{"podman-pod-create(1)", "/machine.slice/machine-libpod_pod_" + other + ".slice/" + scope("libpod"), aContainer(scope("libpod"))},
		{"Podman: cgroupfs", "/libpod_parent/libpod-" + id, aContainer("")},
		{"Podman: cgroupfs, a pod", "/libpod_parent/" + other + "/libpod-" + id, aContainer("")},
		{"Podman: cgroupfs, a pod itself", "/libpod_parent/" + other, aPath("/libpod_parent/*")},
		{"Podman: cgroupfs, the monitor", "/libpod_parent/conmon", aPath("/libpod_parent/conmon")},
		{"Podman: rootless", userPath + "/user.slice/" + scope("libpod") + "/container", Workload{
			Name: userManager + "/container/" + short, Kind: KindContainer, ContainerID: id, Unit: userManager,
		}},
		{"Podman: rootless, a pod", userPath + "/user.slice/user-libpod_pod_" + other + ".slice/" + scope("libpod"), Workload{
			Name: userManager + "/container/" + short, Kind: KindContainer, ContainerID: id, Unit: userManager,
		}},
		{"Podman: rootless, the monitor", userPath + "/user.slice/" + scope("libpod-conmon"), ofUser("/libpod-conmon-*.scope")},
		{"Podman: rootless with cgroupfs, its own scope", userPath + "/user.slice/podman-4711.scope", ofUser("/podman-*.scope")},
		{"podman-run(1), --cgroups=split; podman-systemd.unit(5)", "/system.slice/web.service/libpod-payload-" + id, unit("web.service")},
		{"podman-run(1), --cgroups=split, the monitor", "/system.slice/web.service/runtime", unit("web.service")},
		{"podman-systemd.unit(5), rootless", userPath + "/app.slice/web.service/libpod-payload-" + id, ofUser("/web.service")},
		{"CRI-O outside of Kubernetes", "/system.slice/" + scope("crio"), aContainer(scope("crio"))},
		{"Amazon ECS agent: agent/api/task/task_linux.go", "/ecs/" + task + "/" + id, aContainer("")},
		{"Amazon ECS agent: agent/api/task/task_linux.go, with its cluster", "/ecs/production/" + uid + "/" + id, aContainer("")},
		{"Amazon ECS agent: agent/api/task/task_linux.go, v2", "/ecstasks.slice/ecstasks-" + task + ".slice/" + scope("docker"), aContainer(scope("docker"))},
		{"SPIRE tutorials: GitHub's runners", "/actions_job/" + id, aContainer("")},
		{"GitHub's runners: a job without a container", "/azure.slice/walinuxagent.service", unit("walinuxagent.service")},

		// machines
		{"lxc.container.conf(5)", "/lxc.payload.web/system.slice/nginx.service", aMachine("web", "")},
		{"lxc.container.conf(5), lxc.cgroup.dir", "/lxc.payload/web", aMachine("web", "")},
		{"lxc.container.conf(5), before 4.0", "/lxc/web/init.scope", aMachine("web", "")},
		{"Proxmox VE: src/PVE/LXC.pm of pve-container", "/lxc/101/ns/system.slice/cron.service", aMachine("101", "")},
		{"lxc.container.conf(5), the monitor", "/lxc.monitor.web", aPath("/lxc.monitor.web")},
		{"Incus: doc/explanation/projects.md", "/lxc.payload.shop_web/init.scope", aMachine("shop_web", "")},
		{"systemd-nspawn(1)", "/machine.slice/systemd-nspawn@web.service/payload", aMachine("web", "systemd-nspawn@web.service")},
		{"systemd-machined.service(8)", `/machine.slice/machine-my\x2dbox.scope/payload/system.slice`, aMachine("my-box", `machine-my\x2dbox.scope`)},
		{"systemd-machined.service(8)", `/machine.slice/machine-box\x2d.scope`, aMachine("box-", `machine-box\x2d.scope`)},
		{"libvirt: docs/cgroups.rst", `/machine.slice/machine-qemu\x2d1\x2dweb\x2d1.scope/libvirt/emulator`, aMachine("web-1", `machine-qemu\x2d1\x2dweb\x2d1.scope`)},
		{"libvirt: docs/cgroups.rst, after its next start", `/machine.slice/machine-qemu\x2d23\x2dweb\x2d1.scope/libvirt/vcpu0`, aMachine("web-1", `machine-qemu\x2d23\x2dweb\x2d1.scope`)},
		{"libvirt: docs/cgroups.rst, a partition", `/machine.slice/machine-prod.slice/machine-lxc\x2d7\x2ddb.scope`, aMachine("db", `machine-lxc\x2d7\x2ddb.scope`)},
		{"libvirt: docs/cgroups.rst, without systemd", "/machine/qemu-1-web.libvirt-qemu/emulator", aMachine("web", "")},

		// schedulers
		{"Slurm: doc/html/cgroup_v2.shtml", "/system.slice/slurmstepd.scope/job_42/step_0/user/task_0", unit("slurmstepd.scope")},
		{"Slurm: doc/html/cgroup_v2.shtml, several on one machine", "/system.slice/node1_slurmstepd.scope/job_42", unit("node1_slurmstepd.scope")},
		{"Slurm: doc/html/cgroups.shtml, v1", "/slurm/uid_1000/job_42/step_0", aPath("/slurm/uid_1000")},
		{"Slurm: doc/html/cgroups.shtml, v1", "/slurm_node1/uid_1000/job_43", aPath("/slurm_node1/uid_1000")},
		{"HTCondor: docs/admin-manual/ep-policy-configuration.rst, v1", "/htcondor/condor_var_lib_condor_execute_slot1", aPath("/htcondor/condor_var_lib_condor_execute_slot1")},
		{"HTCondor: v2", "/system.slice/htcondor/condor_var_lib_condor_execute_slot1_23@host", aPath("/system.slice/htcondor/condor_var_lib_condor_execute_slot1_23@host")},
		{"Nomad: client/lib/cgroupslib/editor.go", "/nomad.slice/share.slice/" + alloc + ".web.scope", aPath("/nomad.slice/share.slice/*.web.scope")},
		{"Nomad: client/lib/cgroupslib/editor.go, v1", "/nomad/" + alloc + ".web", aPath("/nomad/*.web")},

		// none of them
		{"OpenRC: sh/rc-cgroup.sh", "/openrc.nginx", aPath("/openrc.nginx")},
		{"libcgroup: cgcreate(1)", "/batch/low", aPath("/batch/low")},
		{"dockerd(8), --cgroup-parent without systemd", "/batch/" + id, aPath("/batch/*")},
		{"Kubernetes: --cgroup-root without systemd", "/custom/kubepods/burstable/pod" + uid + "/" + id, aPath("/custom/kubepods/burstable/pod*/*")},
		{"libcgroup: cgcreate(1), a word of 25 letters", "/abcdefghijklmnopqrstuvwxy", aPath("/abcdefghijklmnopqrstuvwxy")},
		{"libcgroup: cgcreate(1), more than a UUID", "/" + uid + "x", aPath("/" + uid + "x")},
		{"Kata Containers: docs/design/host-cgroups.md", "/kata_overhead/" + id, aPath("/kata_overhead/*")},
	}
}

// TestParse: a name for each shape that is documented somewhere.
func TestParse(t *testing.T) {
	for _, r := range documented() {
		if got := withoutSettled(Parse(r.path)); got != r.want {
			t.Errorf("%s:\n%s is\n%+v, want\n%+v", r.where, r.path, got, r.want)
		}
	}
}

func withoutSettled(w Workload) Workload {
	w.settled = false
	return w
}

// TestImpostors: whatever is made inside a workload, or below what was given to somebody, stays that workload's, and bears no other's
// name.
func TestImpostors(t *testing.T) {
	for _, test := range []struct{ who, path, want string }{
		{"a service with a delegated tree makes another's unit", "/system.slice/evil.service/nginx.service", "evil.service"},
		{"and slices for it", "/system.slice/evil.service/system.slice/nginx.service", "evil.service"},
		{"and a container", "/system.slice/evil.service/docker/" + id, "evil.service"},
		{"and a container's scope", "/system.slice/evil.service/" + scope("docker"), "evil.service"},
		{"and a pod", "/system.slice/evil.service" + slicePod("", "burstable", uid) + "/" + scope("cri-containerd"), "evil.service"},
		{"and a pod's folder", "/system.slice/evil.service/kubepods/burstable/pod" + uid + "/" + id, "evil.service"},
		{"and a user's manager", "/system.slice/evil.service" + userPath + "/x.service", "evil.service"},
		{"and a machine", "/system.slice/evil.service/lxc.payload.web", "evil.service"},
		{"and a pod as an engine's mistake", "/system.slice/evil.service/kubepods-pod" + under_(uid) + ".slice:cri-containerd:" + id, "evil.service"},
		{"one whose name is nearly an engine's", "/system.slice/mycontainerd.service/docker/" + id, "mycontainerd.service"},
		{"an instance that is called like an engine", "/system.slice/x@containerd.service/docker/" + id, "x@containerd.service"},
		{"what an engine runs itself has no unit's name", "/system.slice/containerd.service/nginx.service", "containerd.service"},
		{"nor a user's", "/system.slice/containerd.service/user.slice/user-1000.slice/session-1.scope", "containerd.service"},
		{"nor a machine's unit", "/system.slice/containerd.service/machine.slice/machine-web.scope", "containerd.service"},

		{"a container makes a unit", "/docker/" + id + "/nginx.service", "container/" + short},
		{"and a container", "/docker/" + id + "/docker/" + other, "container/" + short},
		{"and a pod", "/docker/" + id + "/kubepods/pod" + uid, "container/" + short},
		{"and in its scope", "/system.slice/" + scope("docker") + "/system.slice/nginx.service", "container/" + short},
		{"a container in a pod makes a pod", slicePod("", "burstable", uid) + "/" + scope("cri-containerd") + slicePod("", "", "00000000-0000-0000-0000-000000000000"), "pod/" + uid},
		{"and directly in its pod's cgroup", slicePod("", "burstable", uid) + "/kubepods/pod" + hash, "pod/" + uid},
		{"and a slice there", slicePod("", "burstable", uid) + "/kubepods-burstable-pod" + under_(uid) + "-x.slice/nginx.service", "pod/" + uid},
		{"a container in a pod's folder makes a pod", "/kubepods/burstable/pod" + uid + "/" + id + "/kubepods/burstable/pod" + hash, "pod/" + uid},
		{"a machine makes a machine", "/lxc.payload.web/lxc.payload.db", "machine/web"},
		{"and a unit", "/machine.slice/machine-web.scope/system.slice/nginx.service", "machine/web"},
		{"a virtual machine's emulator makes a unit", `/machine.slice/machine-qemu\x2d1\x2dweb.scope/nginx.service`, "machine/web"},

		{"a user calls his service like the system's", userPath + "/app.slice/nginx.service", userManager + "/nginx.service"},
		{"and puts it into a slice of that name", userPath + "/system.slice/nginx.service", userManager + "/nginx.service"},
		{"and makes a container of another's identifier", userPath + "/user.slice/" + scope("docker"), userManager + "/container/" + short},
		{"and a folder for one", userPath + "/docker/" + id, userManager},
		{"and a pod", userPath + slicePod("", "burstable", uid) + "/" + scope("cri-containerd"), userManager + "/container/" + short},
		{"and a pod's folder", userPath + "/kubepods/burstable/pod" + uid + "/" + id, userManager},
		{"and a pod as an engine's mistake", userPath + "/kubepods-pod" + under_(uid) + ".slice:cri-containerd:" + id, userManager},
		{"and an engine's service with a container in it", userPath + "/docker.service/docker/" + id, userManager + "/docker.service"},
		{"and another user's manager", userPath + "/user.slice/user-0.slice/user@0.service/x.service", userManager + "/user@0.service"},
		{"and a session of another's", userPath + "/user.slice/user-0.slice/session-1.scope", userManager + "/session-*.scope"},
		{"and a machine", userPath + "/machine.slice/machine-web.scope", userManager + "/machine/web"},
		{"and LXC's folder", userPath + "/lxc.payload.web", userManager},
		{"and a name that goes on behind a slash that is none", userPath + `/x\x2f..\x2fnginx.service`, userManager + `/x\x2f..\x2fnginx.service`},
		{"in his session he makes a unit", "/user.slice/user-1000.slice/session-3.scope/nginx.service", "user-1000.slice/session-*.scope"},
		{"and a pod", "/user.slice/user-1000.slice/session-3.scope/kubepods/pod" + uid, "user-1000.slice/session-*.scope"},

		{"a folder that was given away has a unit", "/given/nginx.service", "/given/nginx.service"},
		{"and slices", "/given/system.slice/nginx.service", "/given/system.slice/nginx.service"},
		{"and a container", "/given/docker/" + id, "/given/docker/*"},
		{"and a container's scope", "/given/" + scope("docker"), "/given/docker-*.scope"},
		{"and a pod", "/given/kubepods/burstable/pod" + uid + "/" + id, "/given/kubepods/burstable/pod*/*"},
		{"and a pod's slices", "/given" + slicePod("", "", uid), "/given/kubepods.slice/kubepods-pod*.slice"},
		{"and a user", "/given" + userPath + "/x.service", "/given" + userPath + "/x.service"},
		{"and a machine", "/given/lxc.payload.web", "/given/lxc.payload.web"},
		{"and Slurm's user", "/given/slurm/uid_0/job_1", "/given/slurm/uid_0/job_1"},

		{"a folder of an engine's name in a slice", "/batch.slice/docker/" + id, "/batch.slice/docker/*"},
		{"Slurm's folder of no user", "/slurm/uid_joe/job_1", "/slurm/uid_joe/job_1"},
		{"a container is called like the identifier of another, too short", "/docker/" + id[:63], "/docker/*"},
		{"in upper case", "/docker/" + strings.ToUpper(id), "/docker/" + strings.ToUpper(id)},
		{"with something behind it", "/docker/" + id + "x", "/docker/" + id + "x"},
		{"with something before it that is no prefix", "/docker/x" + id, "/docker/x" + id},
		{"in containerd's namespace, by a name", "/default/docker-nginx", "/default/docker-nginx"},
		{"a scope that ends in no identifier", "/system.slice/docker-" + id[:63] + ".scope", "docker-*.scope"},
		{"a service that is called like a container", "/system.slice/docker-" + id + ".service", "docker-" + id + ".service"},
		{"a monitor is no container", "/system.slice/crio-conmon-" + id + ".scope", "crio-conmon-*.scope"},
		{"as an engine's mistake", "/system.slice:crio-conmon:" + id, "/system.slice:crio-conmon:*"},

		{"a pod's slice outside of kubepods", "/kubepods-pod" + under_(uid) + ".slice", "/kubepods-pod*.slice"},
		{"in another's", "/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod" + under_(uid) + ".slice/x.scope", "/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod*.slice/x.scope"},
		{"of a kubelet that is none", "/mykubepods.slice/mykubepods-pod" + under_(uid) + ".slice/" + scope("cri-containerd"), "container/" + short},
		{"of no pod", "/kubepods.slice/kubepods-podweb.slice/" + scope("cri-containerd"), "container/" + short},
		{"a pod's folder of no pod", "/kubepods/burstable/podweb/" + id, "/kubepods/burstable/podweb/*"},
		{"of a class that there is none of", "/kubepods/guaranteed/pod" + uid, "/kubepods/guaranteed/pod*"},
		{"of a pod in dashes and underscores", "/kubepods/pod" + under_(uid), "/kubepods/pod*"},

		{"a slice of a slice that is not its own", "/system.slice/user-1000.slice/session-3.scope", "/system.slice/user-1000.slice/session-3.scope"},
		{"a session outside of a user's slice", "/system.slice/session-3.scope", "session-*.scope"},
		{"a session that is a service", "/user.slice/user-1000.slice/session-3.service", "session-3.service"},
		{"a user by a name", "/user.slice/user-joe.slice/session-3.scope", "session-*.scope"},
		{"a manager of no user", "/system.slice/user@joe.service/x.service", "user@joe.service"},
		{"a template", "/system.slice/x@.service", "/system.slice/x@.service"},
		{"an instance of nothing", "/system.slice/@x.service", "/system.slice/@x.service"},
		{"a unit of no type", "/system.slice/x.target", "/system.slice/x.target"},
		{"a unit with a byte that none has", "/system.slice/ngin\xe9.service", "/system.slice/ngin\xe9.service"},
		{"with a space", "/system.slice/nginx .service", "/system.slice/nginx .service"},
		{"with a line break", "/system.slice/nginx\n.service", "/system.slice/nginx\n.service"},
		{"without a name", "/system.slice/.service", "/system.slice/.service"},
		{"longer than any", "/system.slice/" + strings.Repeat("x", 250) + ".service", "/system.slice/" + strings.Repeat("x", 250) + ".service"},
		{"a machine whose name is another path", `/machine.slice/machine-a\x2fb.scope`, `machine-a\x2fb.scope`},
		{"with a byte that is not seen", `/machine.slice/machine-a\x0ab.scope`, `machine-a\x0ab.scope`},
		{"a machine without a name", "/machine.slice/machine-.scope", "machine-.scope"},
		{"LXC's folder alone", "/lxc.payload.", "/lxc.payload."},
		{"an empty component", "//system.slice/nginx.service", "//system.slice/nginx.service"},
		{"another", "/system.slice//nginx.service", "system.slice"},
		{"a path that has lost its beginning", "nginx.service", "nginx.service"},
	} {
		if got := Parse(test.path).Name; got != test.want {
			t.Errorf("%s: %q is %q, want %q", test.who, test.path, got, test.want)
		}
	}
}
