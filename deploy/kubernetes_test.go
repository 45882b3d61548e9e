package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// daemonSet is what the tests look at of the manifest.
type daemonSet struct {
	Kind string `yaml:"kind"`
	Spec struct {
		Template struct {
			Spec struct {
				HostPID    bool  `yaml:"hostPID"`
				HostUsers  *bool `yaml:"hostUsers"`
				Containers []struct {
					SecurityContext struct {
						RunAsUser                int  `yaml:"runAsUser"`
						Privileged               bool `yaml:"privileged"`
						AllowPrivilegeEscalation bool `yaml:"allowPrivilegeEscalation"`
						ReadOnlyRootFilesystem   bool `yaml:"readOnlyRootFilesystem"`
						Capabilities             struct {
							Drop []string `yaml:"drop"`
							Add  []string `yaml:"add"`
						} `yaml:"capabilities"`
					} `yaml:"securityContext"`
				} `yaml:"containers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

// TestManifestPrivileges runs the exporter with the privileges that the
// DaemonSet's process has on a node, and then with one thing changed at a time.
// No container runtime is needed for it: what a runtime does about privileges
// is a few system calls before execve(2).
func TestManifestPrivileges(t *testing.T) {
	needsRoot(t)
	manifest := readManifest(t)
	exporter := buildExporter(t)

	pod := manifest.Spec.Template.Spec
	if !pod.HostPID || pod.HostUsers == nil || !*pod.HostUsers || len(pod.Containers) != 1 {
		t.Fatalf("one container in the host's pid and user namespaces is needed: %+v", pod)
	}
	security := pod.Containers[0].SecurityContext
	if security.Privileged || !security.ReadOnlyRootFilesystem || !slices.Equal(security.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("not hardened: %+v", security)
	}
	var add []string
	for _, name := range security.Capabilities.Add {
		add = append(add, "CAP_"+name)
	}

	// containerd and CRI-O hand `add` to runc as bounding, permitted and effective set.
	asWritten := container{UID: security.RunAsUser, Bounding: add, Held: add, NoNewPrivs: !security.AllowPrivilegeEscalation}
	for name, test := range map[string]struct {
		change   func(*container)
		fileCaps bool
		refused  string // in the exporter's message; empty: it runs
	}{
		"as written":           {change: func(*container) {}},
		"no_new_privs not set": {change: func(c *container) { c.NoNewPrivs = false }},
		"another user":         {change: func(c *container) { c.UID = 65534 }, refused: "another user than 0 gets none of the capabilities that are added"},
		"another user, may gain privileges": {
			change:  func(c *container) { c.UID, c.NoNewPrivs = 65534, false },
			refused: "another user than 0 gets none of the capabilities that are added",
		},
		// With file capabilities it depends on the runtime. Docker leaves a
		// user other than root with an empty permitted set before execve(2),
		// and no_new_privs then keeps the file's from being added; where the
		// permitted set was left as it is, they add nothing and are kept.
		"another user, file capabilities, empty permitted set": {
			change: func(c *container) { c.UID, c.Held = 65534, nil }, fileCaps: true,
			refused: "no_new_privs cancels them",
		},
		"another user, file capabilities, permitted set left": {
			change: func(c *container) { c.UID = 65534 }, fileCaps: true,
		},
		"without CAP_PERFMON": {
			change:  func(c *container) { c.Bounding, c.Held = add[:1], add[:1] },
			refused: "The bounding set lacks CAP_PERFMON",
		},
		"hostUsers: false": {
			change:  func(c *container) { c.InUserNS = true },
			refused: "the kernel asks for them in the initial one",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := asWritten
			test.change(&c)
			address := freeAddress(t)
			path := exporter
			if test.fileCaps {
				path = withFileCapabilities(t, exporter)
			}
			c.Args = []string{path, "--web.listen-address=" + address}
			if c.InUserNS {
				needsUserNamespaces(t)
			}
			p := start(t, c.command(t))
			if test.refused != "" {
				if err := p.wait(t); err == nil || !strings.Contains(p.output.String(), test.refused) {
					t.Errorf("ended with %v, and does not say %q:\n%s", err, test.refused, p.output)
				}
				return
			}
			checkHeld(t, p, p.scrape(t, address))
		})
	}
}

// needsUserNamespaces skips where the kernel's settings, a seccomp filter or a
// chroot refuse one.
func needsUserNamespaces(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), program(t, "unshare"), "--user", "true").CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("cannot create a user namespace: %v, %s", err, out))
	}
}

// checkHeld asks the kernel, and the exporter's own metric, for what the
// process holds: exactly the two.
func checkHeld(t *testing.T, p *process, metrics string) {
	t.Helper()
	want := []string{
		`capability_exporter_capabilities_info{capability="CAP_BPF"} 1`,
		`capability_exporter_capabilities_info{capability="CAP_PERFMON"} 1`,
	}
	if got := series(metrics, "capability_exporter_capabilities_info"); !slices.Equal(got, want) {
		t.Errorf("the exporter says it holds %q", got)
	}
	if len(series(metrics, "capability_checks_total")) == 0 {
		t.Error("it counts nothing")
	}
	two, err := mask([]string{"CAP_BPF", "CAP_PERFMON"})
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("CapPrm:\t%016x\n", two), fmt.Sprintf("CapEff:\t%016x\n", two),
		"CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n",
	} {
		if !bytes.Contains(status, []byte(want)) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
}

// withFileCapabilities copies a program and gives the copy both capabilities,
// permitted and effective.
func withFileCapabilities(t *testing.T, program string) string {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := worldReadableDir(t) + "/capability_exporter"
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	set, err := cap.FromText("cap_bpf,cap_perfmon=ep")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := set.SetFd(file); err != nil {
		t.Fatalf("setting file capabilities: %v", err)
	}
	return path
}

func readManifest(t *testing.T) daemonSet {
	t.Helper()
	content, err := os.Open("kubernetes/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	for decoder := yaml.NewDecoder(content); ; {
		var d daemonSet
		if err := decoder.Decode(&d); errors.Is(err, io.EOF) {
			t.Fatal("no DaemonSet in the manifest")
		} else if err != nil {
			t.Fatal(err)
		}
		if d.Kind == "DaemonSet" {
			return d
		}
	}
}
