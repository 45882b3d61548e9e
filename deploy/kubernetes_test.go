package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// object is one of the manifest's three. It has all fields that stand there, and
// the manifest is read strictly: a field that is added, or misspelled, must be
// added here before it can go untested.
type object struct {
	APIVersion                   string   `yaml:"apiVersion"`
	Kind                         string   `yaml:"kind"`
	Metadata                     metadata `yaml:"metadata"`
	AutomountServiceAccountToken *bool    `yaml:"automountServiceAccountToken"`
	Spec                         struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		} `yaml:"selector"`
		UpdateStrategy struct {
			Type          string            `yaml:"type"`
			RollingUpdate map[string]string `yaml:"rollingUpdate"`
		} `yaml:"updateStrategy"`
		Template struct {
			Metadata metadata `yaml:"metadata"`
			Spec     podSpec  `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type metadata struct {
	Name      string            `yaml:"name"`
	Namespace string            `yaml:"namespace"`
	Labels    map[string]string `yaml:"labels"`
}

// podSpec has pointers where what is left out is not what is false.
type podSpec struct {
	ServiceAccountName           string              `yaml:"serviceAccountName"`
	AutomountServiceAccountToken *bool               `yaml:"automountServiceAccountToken"`
	EnableServiceLinks           *bool               `yaml:"enableServiceLinks"`
	PriorityClassName            string              `yaml:"priorityClassName"`
	NodeSelector                 map[string]string   `yaml:"nodeSelector"`
	HostPID                      bool                `yaml:"hostPID"`
	HostNetwork                  bool                `yaml:"hostNetwork"`
	HostUsers                    *bool               `yaml:"hostUsers"`
	Tolerations                  []map[string]string `yaml:"tolerations"`
	Containers                   []podContainer      `yaml:"containers"`
	Volumes                      []struct {
		Name     string            `yaml:"name"`
		HostPath map[string]string `yaml:"hostPath"`
	} `yaml:"volumes"`
}

type podContainer struct {
	Name            string   `yaml:"name"`
	Image           string   `yaml:"image"`
	ImagePullPolicy string   `yaml:"imagePullPolicy"`
	Args            []string `yaml:"args"`
	Ports           []struct {
		Name          string `yaml:"name"`
		ContainerPort int    `yaml:"containerPort"`
	} `yaml:"ports"`
	SecurityContext struct {
		RunAsUser                *int  `yaml:"runAsUser"`
		RunAsGroup               *int  `yaml:"runAsGroup"`
		Privileged               bool  `yaml:"privileged"`
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct {
			Drop []string `yaml:"drop"`
			Add  []string `yaml:"add"`
		} `yaml:"capabilities"`
		SeccompProfile map[string]string `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string `yaml:"name"`
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
	Resources                map[string]map[string]string `yaml:"resources"`
	ReadinessProbe           probe                        `yaml:"readinessProbe"`
	LivenessProbe            probe                        `yaml:"livenessProbe"`
	TerminationMessagePolicy string                       `yaml:"terminationMessagePolicy"`
}

type probe struct {
	HTTPGet struct {
		Path   string `yaml:"path"`
		Port   string `yaml:"port"`
		Scheme string `yaml:"scheme"`
	} `yaml:"httpGet"`
}

// TestManifest: what a cluster would refuse, or worse, would not.
func TestManifest(t *testing.T) {
	t.Parallel()
	objects, pod := readManifest(t)
	namespace, account, set := objects[0], objects[1], objects[2]
	if namespace.APIVersion != "v1" || namespace.Kind != "Namespace" || account.APIVersion != "v1" || account.Kind != "ServiceAccount" ||
		set.APIVersion != "apps/v1" || set.Kind != "DaemonSet" {
		t.Errorf("%s %s, %s %s and %s %s", namespace.APIVersion, namespace.Kind, account.APIVersion, account.Kind, set.APIVersion, set.Kind)
	}
	if in := namespace.Metadata.Name; in == "" || set.Metadata.Namespace != in || account.Metadata.Namespace != in {
		t.Errorf("the DaemonSet is in namespace %q and its account in %q, not in %q", set.Metadata.Namespace, account.Metadata.Namespace, in)
	}
	if level := namespace.Metadata.Labels["pod-security.kubernetes.io/enforce"]; level != "privileged" {
		t.Errorf("at the level %q no pod is admitted: both capabilities are refused", level)
	}
	// What it selects by can't be changed later, so a version does not stand there.
	pods, selector := set.Spec.Template.Metadata.Labels, set.Spec.Selector.MatchLabels
	if want := []string{"app.kubernetes.io/instance", "app.kubernetes.io/name"}; !slices.Equal(slices.Sorted(maps.Keys(selector)), want) {
		t.Errorf("it selects by %v, want %q", selector, want)
	}
	for label, value := range selector {
		if pods[label] != value {
			t.Errorf("it selects %v, and its pods are %v", selector, pods)
		}
	}
	if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken || pod.ServiceAccountName != account.Metadata.Name ||
		pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken || pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("the pod gets a token, or the names of all services, that it does not need")
	}
	if update := set.Spec.UpdateStrategy; update.Type != "RollingUpdate" || !maps.Equal(update.RollingUpdate, map[string]string{"maxUnavailable": "10%"}) {
		t.Errorf("an update is %+v", update)
	}
	if pod.PriorityClassName != "system-node-critical" || !maps.Equal(pod.NodeSelector, map[string]string{"kubernetes.io/os": "linux"}) {
		t.Errorf("its priority is %q, for nodes of %v", pod.PriorityClassName, pod.NodeSelector)
	}
	if len(pod.Tolerations) != 1 || !maps.Equal(pod.Tolerations[0], map[string]string{"operator": "Exists"}) {
		t.Errorf("nodes with other taints than %v are not watched", pod.Tolerations)
	}
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}

	exporter := pod.Containers[0]
	security := exporter.SecurityContext
	if add := security.Capabilities.Add; !slices.Equal(add, []string{"BPF", "PERFMON", "SETUID", "SETGID"}) {
		t.Errorf("it is given %q", add) // it drops what is too much, but only after it was started with it
	}
	if security.RunAsUser == nil || *security.RunAsUser != 0 || security.RunAsGroup == nil || *security.RunAsGroup != 0 {
		t.Error("another user than 0 keeps no capability, and one that is not named is the image's")
	}
	if security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation {
		t.Error("no_new_privs is not set")
	}
	if !maps.Equal(security.SeccompProfile, map[string]string{"type": "RuntimeDefault"}) {
		t.Errorf("the seccomp profile is %v; without one there is none in most clusters", security.SeccompProfile)
	}
	if ports := exporter.Ports; len(ports) != 1 || ports[0].Name != "metrics" || strconv.Itoa(ports[0].ContainerPort) != defaultPort(t) {
		t.Errorf("the ports are %+v", ports)
	}
	// The folder that is the flag's default, and no other; a pod is told by it.
	text, err := help()
	if err != nil {
		t.Fatal(err)
	}
	mounts, volumes := exporter.VolumeMounts, pod.Volumes
	if len(mounts) != 1 || len(volumes) != 1 || mounts[0].Name != volumes[0].Name || !mounts[0].ReadOnly ||
		!strings.Contains(string(text), `--kubernetes.pods-dir="`+mounts[0].MountPath+`"`) ||
		!maps.Equal(volumes[0].HostPath, map[string]string{"path": mounts[0].MountPath, "type": "DirectoryOrCreate"}) {
		t.Errorf("mounted are %+v of %+v", mounts, volumes)
	}
	// Ready while it counts nothing, or restarted while it is only not ready yet: either is worse than no probe.
	for path, probe := range map[string]probe{"/-/ready": exporter.ReadinessProbe, "/-/healthy": exporter.LivenessProbe} {
		if probe.HTTPGet.Path != path || probe.HTTPGet.Port != "metrics" || probe.HTTPGet.Scheme != "HTTP" {
			t.Errorf("%+v, want %s on port metrics", probe, path)
		}
	}
	// Without a request for memory it is the first to be killed where there is
	// little; with a limit on CPU time it would lose log records.
	want := map[string]map[string]string{"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
	if !reflect.DeepEqual(exporter.Resources, want) {
		t.Errorf("resources are %v, want %v", exporter.Resources, want)
	}
	if exporter.Name == "" || !strings.HasPrefix(exporter.Image, "capability_exporter:") || exporter.ImagePullPolicy != "IfNotPresent" {
		t.Errorf("container %q of image %q, pulled %s", exporter.Name, exporter.Image, exporter.ImagePullPolicy)
	}
	if want := []string{listenFlag + ":" + defaultPort(t), "--privileges.user=65534:65534"}; !slices.Equal(exporter.Args, want) {
		t.Errorf("started with %q, want %q", exporter.Args, want)
	}
	if exporter.TerminationMessagePolicy != "FallbackToLogsOnError" {
		t.Error("`kubectl describe` does not say why it ended")
	}
}

// listenFlag says where it listens: in a test, elsewhere.
const listenFlag = "--web.listen-address="

// seccompProfile is the chart's for runtimes whose default refuses bpf(2), in
// the form that runtimes read.
type seccompProfile struct {
	DefaultAction string   `json:"defaultAction"`
	Architectures []string `json:"architectures"`
	Syscalls      []struct {
		Comment string   `json:"comment"`
		Names   []string `json:"names"`
		Action  string   `json:"action"`
	} `json:"syscalls"`
}

func readSeccompProfile(t *testing.T) seccompProfile {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(read(t, "kubernetes/chart/seccomp.json")))
	decoder.DisallowUnknownFields()
	var profile seccompProfile
	if err := decoder.Decode(&profile); err != nil {
		t.Fatal(err)
	}
	return profile
}

// allowed returns the names of all calls that pass.
func (p seccompProfile) allowed() []string {
	var names []string
	for _, group := range p.Syscalls {
		names = append(names, group.Names...)
	}
	return names
}

// TestSeccompProfile: the profile is the list from which the exporter makes its
// own filter, as the unit's is, with what else it takes to start a container.
func TestSeccompProfile(t *testing.T) {
	t.Parallel()
	profile := readSeccompProfile(t)
	if profile.DefaultAction != "SCMP_ACT_ERRNO" || !slices.Equal(profile.Architectures, []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"}) {
		t.Errorf("%s on %q", profile.DefaultAction, profile.Architectures)
	}
	want := [][]string{
		listedCalls(t),
		{"setgroups", "setresgid", "setresuid"},
		{"close_range", "faccessat2", "getppid", "openat2", "statx"},
	}
	if len(profile.Syscalls) != len(want) {
		t.Fatalf("%d groups of system calls", len(profile.Syscalls))
	}
	for i, group := range profile.Syscalls {
		if group.Action != "SCMP_ACT_ALLOW" || !slices.Equal(group.Names, want[i]) {
			t.Errorf("%s %q,\nwant\n%q", group.Action, group.Names, want[i])
		}
	}
}

// TestManifestPrivileges runs the exporter with the privileges that the
// DaemonSet's process has on a node, and then with one thing changed at a time.
// No container runtime is needed for it: what a runtime does about privileges
// is a few system calls before execve(2).
func TestManifestPrivileges(t *testing.T) {
	needsRoot(t)
	_, pod := readManifest(t)
	exporter := buildExporter(t)

	if pod.HostPID || pod.HostNetwork || pod.HostUsers == nil || !*pod.HostUsers || len(pod.Containers) != 1 {
		t.Fatalf("one container in the host's user namespace, and a pid namespace of its own, is needed: %+v", pod)
	}
	security := pod.Containers[0].SecurityContext
	if security.Privileged || !security.ReadOnlyRootFilesystem || !slices.Equal(security.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("not hardened: %+v", security)
	}
	if security.RunAsUser == nil || security.AllowPrivilegeEscalation == nil {
		t.Fatal("the user, or whether it may gain privileges, is left to the image or the cluster")
	}
	var add []string
	for _, name := range security.Capabilities.Add {
		add = append(add, "CAP_"+name)
	}

	// containerd and CRI-O hand `add` to runc as bounding, permitted and effective set.
	asWritten := container{UID: *security.RunAsUser, Bounding: add, Held: add, NoNewPrivs: !*security.AllowPrivilegeEscalation}
	localhost := readSeccompProfile(t).allowed()
	for name, test := range map[string]struct {
		change   func(*container)
		fileCaps bool
		args     string // one more
		refused  string // in the exporter's message; empty: it runs
	}{
		"as written":           {change: func(*container) {}},
		"no_new_privs not set": {change: func(c *container) { c.NoNewPrivs = false }},
		"stays root":           {change: func(c *container) { c.Bounding, c.Held = add[:2], add[:2] }, args: "--privileges.user=0"},
		"without what leaves root": {
			change:  func(c *container) { c.Bounding, c.Held = add[:2], add[:2] },
			refused: "started as root, without CAP_SETGID and CAP_SETUID",
		},
		"another user": {change: func(c *container) { c.UID = 65534 }, refused: "another user than 0 gets none of the capabilities that are added"},
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
		// The chart's user.fileCapabilities.
		"another user, file capabilities, exactly the two": {
			change: func(c *container) { c.UID, c.Bounding, c.Held = 65534, add[:2], add[:2] }, fileCaps: true,
		},
		"the Localhost profile": {change: func(c *container) { c.Calls = localhost }},
		"a profile that refuses bpf(2)": {
			change: func(c *container) {
				c.Calls = slices.DeleteFunc(slices.Clone(localhost), func(name string) bool { return name == "bpf" })
			},
			refused: "a seccomp filter refuses the system call bpf(2)",
		},
		"without CAP_PERFMON": {
			change: func(c *container) {
				c.Bounding = slices.DeleteFunc(slices.Clone(add), func(name string) bool { return name == "CAP_PERFMON" })
				c.Held = c.Bounding
			},
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
			c.Args = []string{path, listenFlag + address}
			for _, arg := range pod.Containers[0].Args {
				if !strings.HasPrefix(arg, listenFlag) {
					c.Args = append(c.Args, arg)
				}
			}
			id := 65534 // whom it becomes, and in the tests of other users it is that already
			if test.args != "" {
				c.Args, id = []string{path, listenFlag + address, test.args}, 0
			}
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
			checkHeld(t, p.cmd.Process.Pid, p.scrape(t, address), id)
			for _, probe := range []probe{pod.Containers[0].ReadinessProbe, pod.Containers[0].LivenessProbe} {
				if _, err := get(t.Context(), "http://"+address+probe.HTTPGet.Path); err != nil {
					t.Errorf("a probe fails: %v", err)
				}
			}
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
// process holds: exactly the two, as an ordinary user in no group but its own.
func checkHeld(t *testing.T, pid int, metrics string, id int) {
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
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) < 3 {
		t.Fatalf("threads %q, %v", threads, err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", id), fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", id), "Groups:\t \n",
			fmt.Sprintf("CapPrm:\t%016x\n", two), fmt.Sprintf("CapEff:\t%016x\n", two),
			"CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n",
		} {
			if !bytes.Contains(status, []byte(want)) {
				t.Errorf("no %q in\n%s", want, status)
			}
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

// readManifest returns the manifest's three objects, and what the DaemonSet says
// of its pods.
func readManifest(t *testing.T) ([]object, podSpec) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "kubernetes/daemonset.yaml")))
	decoder.SetStrict(true)
	var objects []object
	for {
		var o object
		if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	if len(objects) != 3 || len(objects[2].Spec.Template.Spec.Containers) == 0 {
		t.Fatalf("not a namespace, an account and a DaemonSet: %+v", objects)
	}
	return objects, objects[2].Spec.Template.Spec
}
