package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"
	"golang.org/x/sys/unix"

	"capability_exporter/exporter/internal/web"
)

// exporterAsPod has containerd start the exporter as a kubelet has it started by the manifest that is shipped: with its arguments and
// privileges, a root that is read-only, and the seccomp profile that containerd has for everybody.
func (r runtimes) exporterAsPod(t *testing.T) {
	const uid = "c2f7a1d4-6b0e-4d39-8a55-1f0e7c9b3d62"
	daemon := readContainer(t)
	if err := os.MkdirAll(logsOfPods, 0o755); err != nil {
		t.Fatal(err)
	}
	config := message{
		{1, message{{1, "exporter"}}}, // metadata
		{2, message{{1, imageName}}},  // image
		{3, "/capability_exporter"},   // command
		{7, message{{1, "/capability_exporter"}, {2, exporter(t)}, {3, 1}}},
		{11, "exporter.log"},
		{15, message{{2, daemon.securityContext(t)}}}, // linux
	}
	for _, arg := range daemon.Args {
		config = append(config, message{{4, arg}}...)
	}
	for _, m := range daemon.VolumeMounts {
		config = append(config, message{{7, message{{1, m.MountPath}, {2, m.MountPath}, {3, number(m.ReadOnly)}}}}...)
	}
	id := r.startContainer(t, "exporter", uid, "/kubepods.slice/kubepods-burstable.slice/"+podParent(uid), "", config)
	log := func() string {
		text, err := os.ReadFile(filepath.Join(logsOfPods, "exporter.log"))
		if err != nil {
			return err.Error()
		}
		return string(text)
	}

	p := &process{instance: &instance{address: "127.0.0.1:10041", client: newClient()}}
	t.Cleanup(p.client.CloseIdleConnections)
	ready := func() bool {
		response, err := p.client.Get("http://" + p.address + web.ReadyPath)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not ready:\n%s", log())
		}
	}
	c := newCRI(t)
	p.pid = firstProcess(t, c.status(t, id))
	// What it may not take away is out of reach: no_new_privs.
	p.checkPrivileges(t, holding("", bothMask|1<<unix.CAP_SETUID|1<<unix.CAP_SETGID))
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Seccomp_filters:\t([2-9]|\d\d)$`).Match(text) {
		t.Errorf("it has no other seccomp filter than its own:\n%s", text)
	}

	output(t, "systemctl", "restart", knownUnit)
	p.waitForAsks(t, knownUnit, map[string]float64{"CAP_SETGID granted": 1, "CAP_SYS_NICE denied": 1})

	const seconds = 60
	c.call(t, "RuntimeService/StopContainer", message{{1, id}, {2, seconds}})
	if reason := string(field(t, c.status(t, id), 1, 10)); reason != "Completed" {
		t.Errorf("it ended with %q\n%s", reason, log())
	}
	wasOrderly(t, log())
}

// A daemonContainer is what the manifest says of the container.
type daemonContainer struct {
	Args            []string `yaml:"args"`
	SecurityContext struct {
		RunAsUser                *int  `yaml:"runAsUser"`
		RunAsGroup               *int  `yaml:"runAsGroup"`
		Privileged               *bool `yaml:"privileged"`
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct {
			Drop []string `yaml:"drop"`
			Add  []string `yaml:"add"`
		} `yaml:"capabilities"`
		SeccompProfile struct {
			Type string `yaml:"type"`
		} `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

// readContainer reads it, from beside the exporter.
func readContainer(t *testing.T) daemonContainer {
	t.Helper()
	file, err := os.Open(filepath.Join(filepath.Dir(exporter(t)), "daemonset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for documents := yaml.NewDecoder(file); ; {
		var object struct {
			Kind string `yaml:"kind"`
			Spec struct {
				Template struct {
					Spec struct {
						Containers []daemonContainer `yaml:"containers"`
					} `yaml:"spec"`
				} `yaml:"template"`
			} `yaml:"spec"`
		}
		if err := documents.Decode(&object); err != nil {
			t.Fatalf("the manifest has no DaemonSet: %v", err)
		}
		if object.Kind == "DaemonSet" {
			return object.Spec.Template.Spec.Containers[0]
		}
	}
}

// securityContext is a LinuxContainerSecurityContext.
func (d daemonContainer) securityContext(t *testing.T) message {
	t.Helper()
	s := d.SecurityContext
	if s.SeccompProfile.Type != "RuntimeDefault" || *s.Privileged {
		t.Fatalf("the manifest's container is privileged, or has another seccomp profile than RuntimeDefault: %+v", s)
	}
	capabilities := message{}
	for _, name := range s.Capabilities.Add {
		capabilities = append(capabilities, message{{1, name}}...)
	}
	for _, name := range s.Capabilities.Drop {
		capabilities = append(capabilities, message{{2, name}}...)
	}
	return message{
		{1, capabilities},
		{3, inMachinesNetwork()},
		{5, message{{1, *s.RunAsUser}}},
		{7, number(s.ReadOnlyRootFilesystem)},
		{11, number(!*s.AllowPrivilegeEscalation)},
		{12, message{{1, *s.RunAsGroup}}},
		{15, message{}}, // seccomp: of no kind is RuntimeDefault
	}
}

// number is how a message has it.
func number(is bool) int {
	if is {
		return 1
	}
	return 0
}
