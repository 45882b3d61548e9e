package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunc has Debian's runc start the exporter in a container, with what
// containerd and CRI-O make of the manifest for it: a root that is read-only and
// holds nothing but the program, the folder of the pods' logs, a pid namespace of
// its own, and the chart's seccomp profile. The network is the test's, which asks.
func TestRunc(t *testing.T) {
	needsRoot(t)
	runc := program(t, "runc")
	_, pod := readManifest(t)
	exporter := pod.Containers[0]
	bundle := worldReadableDir(t)
	root := filepath.Join(bundle, "root")
	for _, folder := range []string{"proc", "sys", "dev", exporter.VolumeMounts[0].MountPath} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(buildExporter(t), filepath.Join(root, "capability_exporter")); err != nil {
		t.Fatal(err)
	}
	pods := worldReadableDir(t)
	if err := os.Mkdir(filepath.Join(pods, "default_web-0_9b2ad1e0-54c7-4c0e-8f6a-3c1d0e9f7a25"), 0o755); err != nil {
		t.Fatal(err)
	}

	address := freeAddress(t)
	config, err := json.Marshal(ociConfig(t, exporter, address, pods))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	id := "ce-" + filepath.Base(bundle)
	state := []string{"--root", filepath.Join(bundle, "state")}
	t.Cleanup(func() { // also what of it stays in cgroups
		if out, err := exec.Command(runc, append(state, "delete", "--force", id)...).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	p := start(t, exec.CommandContext(t.Context(), runc, append(state, "run", "--bundle", bundle, id)...))
	metrics := p.scrape(t, address)
	out, err := exec.CommandContext(t.Context(), runc, append(state, "state", id)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var told struct{ PID int }
	if err := json.Unmarshal(out, &told); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, told.PID, metrics, 65534)
	for _, line := range []string{"Seccomp:\t2\n", "NSpid:\t"} {
		if status := read(t, fmt.Sprintf("/proc/%d/status", told.PID)); !strings.Contains(status, line) {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	for _, probe := range []probe{exporter.ReadinessProbe, exporter.LivenessProbe} {
		if _, err := get(t.Context(), "http://"+address+probe.HTTPGet.Path); err != nil {
			t.Errorf("a probe fails: %v", err)
		}
	}
	if output := p.output.String(); strings.Contains(output, "level=WARN") || strings.Contains(output, "level=ERROR") {
		t.Errorf("it complains:\n%s", output)
	}
	// As the kubelet ends it: by SIGTERM to the container's first process.
	p.eventually(t, func(ctx context.Context) error {
		return exec.CommandContext(ctx, runc, append(state, "kill", id, "TERM")...).Run()
	})
	if err := p.wait(t); err != nil {
		t.Errorf("it does not end well: %v\n%s", err, p.output)
	}
}

// ociConfig is the container's configuration, of the parts of which the
// manifest says something, and of those without which nothing starts.
func ociConfig(t *testing.T, c podContainer, address, pods string) map[string]any {
	t.Helper()
	var add []string
	for _, name := range c.SecurityContext.Capabilities.Add {
		add = append(add, "CAP_"+name)
	}
	args := []string{"/capability_exporter", listenFlag + address}
	for _, arg := range c.Args {
		if !strings.HasPrefix(arg, listenFlag) {
			args = append(args, arg)
		}
	}
	type mount map[string]any
	return map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"cwd": "/", "args": args,
			"user":            map[string]any{"uid": *c.SecurityContext.RunAsUser, "gid": *c.SecurityContext.RunAsGroup},
			"capabilities":    map[string]any{"bounding": add, "permitted": add, "effective": add},
			"noNewPrivileges": !*c.SecurityContext.AllowPrivilegeEscalation,
		},
		"root": map[string]any{"path": "root", "readonly": c.SecurityContext.ReadOnlyRootFilesystem},
		"mounts": []mount{
			{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{"destination": "/sys", "type": "bind", "source": "/sys", "options": []string{"rbind", "nosuid", "noexec", "nodev", "ro"}},
			{"destination": c.VolumeMounts[0].MountPath, "type": "bind", "source": pods, "options": []string{"rbind", "ro"}},
		},
		"linux": map[string]any{
			"namespaces": []map[string]any{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}},
			"seccomp":    json.RawMessage(read(t, "kubernetes/chart/seccomp.json")),
			"maskedPaths": []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/proc/scsi"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
