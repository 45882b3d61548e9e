package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/yaml"
)

const folder = repository + "/" + kubernetes + "/chart"

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Helm tells of each symbolic link
	os.Exit(m.Run())
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// chosen are values that somebody may choose, and the kinds of what is made of them.
func chosen(t *testing.T) map[string]struct {
	values string
	kinds  []string
} {
	t.Helper()
	return map[string]struct {
		values string
		kinds  []string
	}{
		"defaults":           {"", []string{"ServiceAccount", "DaemonSet"}},
		"the plain manifest": {read(t, repository+"/"+kubernetes+"/daemonset.values.yaml"), []string{"Namespace", "ServiceAccount", "DaemonSet"}},
		"nothing":            {read(t, "testdata/nothing.yaml"), []string{"DaemonSet"}},
		"everything": {read(t, "testdata/everything.yaml"), []string{
			"Namespace", "NetworkPolicy", "ServiceAccount", "ConfigMap", "ConfigMap", "ConfigMap", "ConfigMap", "DaemonSet", "PodMonitor", "PrometheusRule",
		}},
		"a ServiceMonitor": {"serviceMonitor: {enabled: true}", []string{"ServiceAccount", "Service", "DaemonSet", "ServiceMonitor"}},
		"README's": {quickStart(t), []string{
			"ServiceAccount", "ConfigMap", "ConfigMap", "ConfigMap", "ConfigMap", "DaemonSet", "PodMonitor", "PrometheusRule",
		}},
		"of another chart": {"global: {imageRegistry: registry.example}", []string{"ServiceAccount", "DaemonSet"}},
	}
}

// quickStart are the values that README's `helm install` sets.
func quickStart(t *testing.T) string {
	t.Helper()
	_, command, found := strings.Cut(read(t, repository+"/README.md"), "helm install "+name+" "+kubernetes+"/chart --namespace "+name+" ")
	if !found {
		t.Fatal("README does not install the chart")
	}
	command, _, _ = strings.Cut(strings.ReplaceAll(command, "\\\n", ""), "\n")
	values := map[string]any{}
	for _, set := range regexp.MustCompile(`--set (\S+)`).FindAllStringSubmatch(command, -1) {
		if err := strvals.ParseInto(set[1], values); err != nil {
			t.Fatalf("README: --set %s: %v", set[1], err)
		}
	}
	text, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestQuickStart: what README's commands install is the image that they have pushed, and kube-prometheus-stack's Prometheus, which
// selects by the label `release` unless it is told otherwise, finds monitor and rules.
func TestQuickStart(t *testing.T) {
	t.Parallel()
	values := quickStart(t)
	image := object[apps.DaemonSet](t, values).Spec.Template.Spec.Containers[0].Image
	for _, selected := range []map[string]string{object[monitoring.PodMonitor](t, values).Labels, object[monitoring.PrometheusRule](t, values).Labels} {
		if selected["release"] != "kube-prometheus-stack" {
			t.Errorf("README installs what no Prometheus selects: %v", selected)
		}
	}
	readme := read(t, repository+"/README.md")
	for _, command := range []string{"-t " + image + " .", "docker push " + image + "\n", "|image: " + image + "|"} {
		if !strings.Contains(readme, command) {
			t.Errorf("README installs %s, and has no %q", image, command)
		}
	}
}

// objects returns what is rendered, one text an object.
func objects(t *testing.T, values string) []string {
	t.Helper()
	r, err := render(load(t), values)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for text := range strings.SplitSeq(strings.TrimPrefix(r.manifest, "---\n"), "\n---\n") {
		texts = append(texts, text)
	}
	return texts
}

// object returns the one of a kind, read strictly.
func object[T any](t *testing.T, values string) T {
	t.Helper()
	var found []T
	for _, text := range objects(t, values) {
		if kindOf(t, text).Kind != reflect.TypeFor[T]().Name() {
			continue
		}
		var o T
		if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		found = append(found, o)
	}
	if len(found) != 1 {
		t.Fatalf("%d of %v", len(found), reflect.TypeFor[T]())
	}
	return found[0]
}

type kind struct{ APIVersion, Kind string }

func kindOf(t *testing.T, text string) kind {
	t.Helper()
	var k kind
	if err := yaml.Unmarshal([]byte(text), &k); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return k
}

// TestLint is `helm lint --strict`.
func TestLint(t *testing.T) {
	t.Parallel()
	for name, c := range chosen(t) {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(c.values), &values); err != nil {
			t.Fatal(err)
		}
		for _, message := range lint.RunAll(folder, values, "elsewhere").Messages {
			if message.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, message)
			}
		}
	}
}

// TestObjects holds each object that is rendered against what three versions of
// Kubernetes, the Prometheus Operator and a release's own names ask of it.
func TestObjects(t *testing.T) {
	t.Parallel()
	parsers, said := map[string]*typed.Parser{}, ofClusters(t)
	for version, c := range clusters {
		parsers[version] = schemas(t, c.clientGo)
	}
	for name, c := range chosen(t) {
		var kinds []string
		for _, text := range objects(t, c.values) {
			k := kindOf(t, text)
			kinds = append(kinds, k.Kind)
			into, schema := knownAs(k)
			if into == nil {
				t.Errorf("%s: %v is not checked", name, k)
				continue
			}
			if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
				t.Errorf("%s: %v: %v", name, k, err)
			}
			for version, parser := range parsers {
				if err := said[version].refuses(t, into, text); err != nil {
					t.Errorf("%s: Kubernetes 1.%s does not take the %s: %v", name, version, k.Kind, err)
				}
				if schema == "" {
					continue
				}
				if _, err := parser.Type(schema).FromYAML(typed.YAMLObject(text)); err != nil {
					t.Errorf("%s: client-go 0.%s does not take the %s: %v", name, version, k.Kind, err)
				}
			}
		}
		if !slices.Equal(kinds, c.kinds) {
			t.Errorf("%s: made are %q, want %q", name, kinds, c.kinds)
		}
	}
}

// TestSchemas: what is no field, of another type or named twice is seen.
func TestSchemas(t *testing.T) {
	t.Parallel()
	for version, c := range clusters {
		parser := schemas(t, c.clientGo)
		for _, wrong := range []string{"hostPid: true", "hostPID: [true]", "containers: [{name: a, ports: {containerPort: 1}}]", "volumes: [{name: a}, {name: a}]"} {
			if _, err := parser.Type("io.k8s.api.core.v1.PodSpec").FromYAML(typed.YAMLObject(wrong)); err == nil {
				t.Errorf("client-go 0.%s takes %s", version, wrong)
			}
		}
	}
}

// knownAs returns what an object is read into, and what it is called in the
// schemas of Kubernetes, if it is one of its own.
func knownAs(k kind) (into any, schema string) {
	switch k {
	case kind{"v1", "Namespace"}:
		return &core.Namespace{}, "io.k8s.api.core.v1.Namespace"
	case kind{"v1", "ServiceAccount"}:
		return &core.ServiceAccount{}, "io.k8s.api.core.v1.ServiceAccount"
	case kind{"v1", "Service"}:
		return &core.Service{}, "io.k8s.api.core.v1.Service"
	case kind{"v1", "ConfigMap"}:
		return &core.ConfigMap{}, "io.k8s.api.core.v1.ConfigMap"
	case kind{"apps/v1", "DaemonSet"}:
		return &apps.DaemonSet{}, "io.k8s.api.apps.v1.DaemonSet"
	case kind{"networking.k8s.io/v1", "NetworkPolicy"}:
		return &networking.NetworkPolicy{}, "io.k8s.api.networking.v1.NetworkPolicy"
	case kind{"monitoring.coreos.com/v1", "PodMonitor"}:
		return &monitoring.PodMonitor{}, ""
	case kind{"monitoring.coreos.com/v1", "ServiceMonitor"}:
		return &monitoring.ServiceMonitor{}, ""
	case kind{"monitoring.coreos.com/v1", "PrometheusRule"}:
		return &monitoring.PrometheusRule{}, ""
	}
	return nil, ""
}

// A cluster is a version of Kubernetes, by the sums of the modules that say what it takes.
type cluster struct{ clientGo, kubernetes module }

// A module is a version of one, with its sum.
type module struct{ version, sum string }

// clusters are those that the objects are held against, without the 1. at the beginning, as modules of whatever patch can be had of both. The
// first is the oldest that the chart is for.
var clusters = map[string]cluster{
	"30": {
		module{"v0.30.14", "h1:D81QZvBtv897JU4HRsx4YoaCDnzeZSvB8eApgmbtXVA="},
		module{"v1.30.14", "h1:MrlKXh9uhLIJpyxOeXhcndzRVSvwiV9iJ8NgH8nqPsg="},
	},
	"35": {
		module{"v0.35.10", "h1:HXF+042qTnXFFISMiuMHiM5yN2lVonVQQAkpIWxSGPk="},
		module{"v1.35.4", "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM="},
	},
	"37": {
		module{"v0.37.2", "h1:sgFtyRZukGkOrsu+QgS7LYnbFFJ5ut3MchdBNduD//E="},
		module{"v1.37.2", "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE="},
	},
}

// download returns the folder of a module whose files are read and not compiled.
func download(t *testing.T, path string, m module) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", path+"@"+m.version)
	command.Dir = t.TempDir() // of no module
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go mod download %s@%s: %v\n%s", path, m.version, err, out)
	}
	var got struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.Sum != m.sum {
		t.Fatalf("%s %s has the sum %s, want %s", path, m.version, got.Sum, m.sum)
	}
	return got.Dir
}

// schemas returns those of a version that an API server goes by where fields have owners (server-side apply), of which client-go has
// a copy. They alone say which list may not have the same key twice, and nothing of what must be there.
func schemas(t *testing.T, clientGo module) *typed.Parser {
	t.Helper()
	_, text, found := strings.Cut(read(t, filepath.Join(download(t, "k8s.io/client-go", clientGo), "applyconfigurations/internal/internal.go")), "typed.YAMLObject(`")
	text, _, ends := strings.Cut(text, "`)")
	if !found || !ends {
		t.Fatalf("client-go %s has no schemas where they were", clientGo.version)
	}
	parser, err := typed.NewParser(typed.YAMLObject(text))
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

// TestRefusedValues: what cannot be meant is refused, by its name.
func TestRefusedValues(t *testing.T) {
	t.Parallel()
	c := load(t)
	for values, want := range map[string]string{
		"prot: 10041":                                  "additional properties 'prot' not allowed",
		"podMonitor: {enable: true}":                   "at '/podMonitor': additional properties 'enable' not allowed",
		"port: \"10041\"":                              "at '/port': got string, want integer",
		"port: 70000":                                  "at '/port': maximum",
		"args: --series.limit=8192":                    "at '/args': got string, want array",
		"args: [series.limit=8192]":                    "at '/args/0': 'series.limit=8192' does not match",
		"seccompProfile: {type: Unconfined}":           "at '/seccompProfile/type': value must be one of 'RuntimeDefault', 'Localhost'",
		"seccompProfile: {localhostProfile: /etc/x}":   "at '/seccompProfile/localhostProfile': '/etc/x' does not match",
		"user: {uid: 0}":                               "at '/user/uid': minimum",
		"image: {digest: abc}":                         "at '/image/digest': 'abc' does not match",
		"resources: {limit: {memory: 1Gi}}":            "at '/resources': additional properties 'limit' not allowed",
		"securityContext: {privileged: true}":          "additional properties 'securityContext' not allowed",
		"dashboards: {labels: {grafana_dashboard: 1}}": "at '/dashboards/labels/grafana_dashboard': got number, want string",
		"{podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}": "both enabled: everything would be scraped twice",
		"prometheusRule: {runbooks: \"\"}":                               "at '/prometheusRule/runbooks': '' does not match",
		"prometheusRule: {grafana: grafana.example}":                     "at '/prometheusRule/grafana': 'grafana.example' does not match",
		"prometheusRule: {grafana: 'https://{{x}}'}":                     "at '/prometheusRule/grafana': 'https://{{x}}' does not match",
	} {
		if _, err := render(c, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", values, err, want)
		}
	}
}

// TestSchemaKnowsAllValues: each value has its place in the schema, and nothing
// else has, wherever keys are not the user's own.
func TestSchemaKnowsAllValues(t *testing.T) {
	t.Parallel()
	c := load(t)
	var root map[string]any
	if err := json.Unmarshal(c.Schema, &root); err != nil {
		t.Fatal(err)
	}
	definitions, _ := root["definitions"].(map[string]any)
	var compare func(path string, schema, values map[string]any)
	compare = func(path string, schema, values map[string]any) {
		if ref, ok := schema["$ref"].(string); ok {
			schema, _ = definitions[filepath.Base(ref)].(map[string]any)
		}
		properties, ok := schema["properties"].(map[string]any)
		if !ok {
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("%s: what is misspelled is taken", path)
		}
		for key, of := range properties {
			value, there := values[key]
			if free := path == "" && key == "global" || len(values) == 0 || path == ".resources" || path == ".updateStrategy.rollingUpdate"; !there && !free {
				t.Errorf("%s.%s is not in values.yaml", path, key)
			}
			if below, ok := value.(map[string]any); ok {
				compare(path+"."+key, of.(map[string]any), below)
			}
		}
	}
	compare("", root, c.Values)
}

// TestHardened: what no values take away.
func TestHardened(t *testing.T) {
	t.Parallel()
	for name, c := range chosen(t) {
		set := object[apps.DaemonSet](t, c.values)
		pod := set.Spec.Template.Spec
		if pod.HostPID || pod.HostNetwork || pod.HostIPC || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s: %+v", name, pod)
		}
		if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
			t.Fatalf("%s: containers %v, %v", name, pod.Containers, pod.InitContainers)
		}
		security := pod.Containers[0].SecurityContext
		want := []core.Capability{"BPF", "PERFMON", "SETUID", "SETGID"}
		user := int64(0)
		if name == "everything" { // user.fileCapabilities
			want, user = want[:2], 1000
		}
		if !slices.Equal(security.Capabilities.Drop, []core.Capability{"ALL"}) || !slices.Equal(security.Capabilities.Add, want) || *security.RunAsUser != user {
			t.Errorf("%s: user %d has %v", name, *security.RunAsUser, security.Capabilities)
		}
		if *security.Privileged || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem || security.SeccompProfile == nil {
			t.Errorf("%s: %+v", name, security)
		}
	}
}

// TestChosen: what is chosen stands where it must.
func TestChosen(t *testing.T) {
	t.Parallel()
	values := read(t, "testdata/everything.yaml")
	set := object[apps.DaemonSet](t, values)
	pod := set.Spec.Template.Spec
	exporter := pod.Containers[0]
	if want := []string{
		"--web.listen-address=:10042", "--privileges.user=1000:0", "--web.config.file=/etc/capability_exporter/config.yml", "--series.limit=8192", "--log.format=json",
	}; !slices.Equal(exporter.Args, want) {
		t.Errorf("arguments %q, want %q", exporter.Args, want)
	}
	if want := "registry.example/security/capability_exporter@sha256:" + strings.Repeat("0123456789abcdef", 4); exporter.Image != want {
		t.Errorf("image %s, want %s", exporter.Image, want)
	}
	if profile := exporter.SecurityContext.SeccompProfile; profile.Type != "Localhost" || profile.LocalhostProfile == nil || *profile.LocalhostProfile != "profiles/capability_exporter.json" {
		t.Errorf("the seccomp profile is %+v", profile)
	}
	if selinux := exporter.SecurityContext.SELinuxOptions; selinux == nil || selinux.Type != "spc_t" {
		t.Errorf("the SELinux options are %v", selinux)
	}
	if set.Name != "caps" || pod.ServiceAccountName != "caps-of-the-node" || set.Labels["team"] != "platform" || set.Spec.Template.Labels["scraped"] != "true" ||
		set.Spec.Template.Annotations["example.com/reviewed"] != "2026" || pod.ImagePullSecrets[0].Name != "registry" || exporter.Env[0].Name != "GOMEMLIMIT" ||
		pod.Affinity == nil || exporter.Resources.Limits.Memory().String() != "512Mi" || set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() != 3 {
		t.Errorf("%+v", set)
	}
	for _, probe := range []*core.Probe{exporter.ReadinessProbe, exporter.LivenessProbe} {
		if probe.HTTPGet.Scheme != "HTTPS" || probe.HTTPGet.HTTPHeaders[0].Name != "Authorization" {
			t.Errorf("probe %+v", probe.HTTPGet)
		}
	}
	if pod.Volumes[0].HostPath.Path != "/data/kubelet/logs" || pod.Volumes[1].Secret.SecretName != "caps-web" || *pod.SecurityContext.FSGroup != 0 {
		t.Errorf("volumes %+v", pod.Volumes)
	}

	without := object[apps.DaemonSet](t, read(t, "testdata/nothing.yaml")).Spec.Template.Spec
	if len(without.Volumes) != 0 || !slices.Contains(without.Containers[0].Args, "--kubernetes.pods-dir=") || without.ServiceAccountName != "default" {
		t.Errorf("%+v", without)
	}
	network := object[networking.NetworkPolicy](t, values).Spec
	if len(network.Egress) != 0 || len(network.PolicyTypes) != 2 || len(network.Ingress) != 1 || len(network.Ingress[0].From) != 1 ||
		network.Ingress[0].Ports[0].Port.String() != "metrics" || !maps.Equal(network.PodSelector.MatchLabels, set.Spec.Selector.MatchLabels) {
		t.Errorf("the network policy is %+v", network)
	}
}

// TestPodSecurity: the level that the pods meet is `privileged`. The two
// capabilities keep them from any other, and the folder of the pods' logs; with
// neither, and with file capabilities, the pods are as `restricted` wants them.
func TestPodSecurity(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(values string, level api.Level, change func(*core.PodSpec)) []string {
		pod := object[apps.DaemonSet](t, values).Spec.Template
		if change != nil {
			change(&pod.Spec)
		}
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec))
		return slices.Sorted(slices.Values(result.ForbiddenReasons))
	}
	const least = "podNames: {enabled: false}\nuser: {fileCapabilities: true}"
	for _, test := range []struct {
		values string
		level  api.Level
		change func(*core.PodSpec)
		want   []string
	}{
		{"", api.LevelPrivileged, nil, nil},
		{"", api.LevelBaseline, nil, []string{"hostPath volumes", "non-default capabilities"}},
		{"", api.LevelRestricted, nil, []string{
			"restricted volume types", "runAsNonRoot != true", "runAsUser=0", "unrestricted capabilities",
		}},
		{least, api.LevelBaseline, nil, []string{"non-default capabilities"}},
		{least, api.LevelRestricted, nil, []string{"unrestricted capabilities"}},
		{least + "\nseccompProfile: {type: Localhost}", api.LevelRestricted, nil, []string{"unrestricted capabilities"}},
		{least, api.LevelRestricted, func(pod *core.PodSpec) { pod.Containers[0].SecurityContext.Capabilities.Add = nil }, nil},
		{"seLinuxOptions: {type: spc_t}", api.LevelBaseline, nil, []string{"hostPath volumes", "non-default capabilities", "seLinuxOptions"}},
	} {
		if got := refused(test.values, test.level, test.change); !slices.Equal(got, test.want) {
			t.Errorf("%q: at the level %s it is refused for %q, want %q", test.values, test.level, got, test.want)
		}
	}
	namespace := object[core.Namespace](t, "namespace: {create: true}")
	if level := namespace.Labels[api.EnforceLevelLabel]; level != string(api.LevelPrivileged) {
		t.Errorf("the namespace enforces %q", level)
	}
}

// TestRuntimeDefault: what the exporter calls, and what it takes to leave root
// and to start a container, is allowed by Docker's default profile, of which
// containerd's and CRI-O's are made, to a container that has its capabilities;
// and bpf(2) to no other.
func TestRuntimeDefault(t *testing.T) {
	t.Parallel()
	var profile struct{ Syscalls []struct{ Names []string } }
	if err := json.Unmarshal([]byte(read(t, folder+"/seccomp.json")), &profile); err != nil {
		t.Fatal(err)
	}
	allowed := func(capabilities ...string) map[string]bool {
		given := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}}
		byDefault, err := seccomp.GetDefaultProfile(given)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, call := range byDefault.Syscalls {
			for _, name := range call.Names {
				names[name] = names[name] || call.Action == specs.ActAllow
			}
		}
		return names
	}
	with, without := allowed("CAP_BPF", "CAP_PERFMON", "CAP_SETUID", "CAP_SETGID"), allowed("CAP_PERFMON", "CAP_SETUID", "CAP_SETGID")
	for _, group := range profile.Syscalls {
		for _, name := range group.Names {
			if !with[name] {
				t.Errorf("%s is refused", name)
			}
		}
	}
	if without["bpf"] || !with["perf_event_open"] || allowed("CAP_BPF")["perf_event_open"] {
		t.Error("the profile does not go by the two capabilities")
	}
}

// TestMixin: rules and dashboards are those of deploy/kubernetes, but that links lead to where somebody's wiki and Grafana are.
func TestMixin(t *testing.T) {
	t.Parallel()
	values := read(t, "testdata/everything.yaml")
	var want monitoring.PrometheusRule
	if err := yaml.UnmarshalStrict([]byte(read(t, repository+"/"+kubernetes+"/prometheusrule.yaml")), &want); err != nil {
		t.Fatal(err)
	}
	if got := object[monitoring.PrometheusRule](t, "prometheusRule: {enabled: true}"); !reflect.DeepEqual(got.Spec, want.Spec) || len(want.Spec.Groups) < 2 {
		t.Error("the chart's PrometheusRule has other rules")
	}
	links := 0
	for _, group := range want.Spec.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			links++
			rule.Annotations["runbook_url"] = "https://wiki.example/capabilities#" + strings.ToLower(rule.Alert)
			rule.Annotations["dashboard_url"] = "https://grafana.example" + rule.Annotations["dashboard_url"]
		}
	}
	got := object[monitoring.PrometheusRule](t, values)
	if !reflect.DeepEqual(got.Spec, want.Spec) || links == 0 {
		t.Errorf("of %d alerts not all lead to the wiki and to Grafana, or more is changed than that", links)
	}
	if got.Labels["release"] != "prometheus" {
		t.Errorf("Prometheus does not find it by %v", got.Labels)
	}
	dashboards := 0
	texts := objects(t, values)
	for document := range strings.SplitSeq(read(t, repository+"/"+kubernetes+"/dashboards.yaml"), "\n---\n") {
		var want core.ConfigMap
		if err := yaml.Unmarshal([]byte(document), &want); err != nil {
			t.Fatal(err)
		}
		if want.Name == "" {
			continue // what stands above the first
		}
		dashboards++
		i := slices.IndexFunc(texts, func(text string) bool {
			return strings.Contains(text, "\n  name: "+strings.Replace(want.Name, name, "caps", 1)+"\n")
		})
		if i < 0 {
			t.Errorf("no %s", want.Name)
			continue
		}
		var got core.ConfigMap
		if err := yaml.Unmarshal([]byte(texts[i]), &got); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got.Data, want.Data) || got.Labels["grafana_dashboard"] != "1" || got.Annotations["grafana_folder"] != "Security" {
			t.Errorf("%s is another dashboard", want.Name)
		}
	}
	if dashboards != 4 {
		t.Errorf("%d dashboards", dashboards)
	}
}

// TestMonitors has Prometheus itself say what becomes of a target by a
// monitor's rules, after those that the Prometheus Operator puts before them.
func TestMonitors(t *testing.T) {
	t.Parallel()
	pods := object[monitoring.PodMonitor](t, "podMonitor: {enabled: true}").Spec.PodMetricsEndpoints
	services := object[monitoring.ServiceMonitor](t, "serviceMonitor: {enabled: true}").Spec.Endpoints
	if len(pods) != 1 || len(services) != 1 || pods[0].Port == nil || *pods[0].Port != "metrics" || services[0].Port != "metrics" ||
		!pods[0].HonorLabels || !services[0].HonorLabels || pods[0].Path != "/metrics" || services[0].Path != "/metrics" {
		t.Fatalf("%+v, %+v", pods, services)
	}
	for name, ours := range map[string][]monitoring.RelabelConfig{"PodMonitor": pods[0].RelabelConfigs, "ServiceMonitor": services[0].RelabelConfigs} {
		phases := []string{"Running", "Pending", "Succeeded", "Failed"}
		watched := map[string]string{"instance": "node-7", "job": "capability_exporter"}
		want := []map[string]string{watched, watched, {}, {}}
		for i, got := range relabelled(t, ours, phases) {
			if !maps.Equal(got, want[i]) {
				t.Errorf("%s: a target of a pod that is %s becomes %v, want %v", name, phases[i], got, want[i])
			}
		}
	}
	// What it goes by selects pods and Service.
	set := object[apps.DaemonSet](t, "")
	service := object[core.Service](t, "serviceMonitor: {enabled: true}")
	selector := object[monitoring.ServiceMonitor](t, "serviceMonitor: {enabled: true}").Spec.Selector.MatchLabels
	for label, value := range selector {
		if service.Labels[label] != value {
			t.Errorf("%s=%s selects no Service of %v", label, value, service.Labels)
		}
	}
	if !maps.Equal(service.Spec.Selector, set.Spec.Selector.MatchLabels) || service.Spec.Ports[0].Name != "metrics" ||
		!maps.Equal(object[monitoring.PodMonitor](t, "podMonitor: {enabled: true}").Spec.Selector.MatchLabels, set.Spec.Selector.MatchLabels) {
		t.Errorf("%+v selects no pods of %v", service.Spec, set.Spec.Selector)
	}
}

// relabelled returns the labels of a target in each phase, none where it is dropped.
func relabelled(t *testing.T, ours []monitoring.RelabelConfig, phases []string) []map[string]string {
	t.Helper()
	type relabel map[string]any
	rules := []relabel{{"source_labels": []string{"job"}, "target_label": "__tmp_prometheus_job_name"}}
	for label, source := range map[string]string{"namespace": "namespace", "pod": "pod_name", "container": "pod_container_name", "service": "service_name"} {
		rules = append(rules, relabel{"source_labels": []string{"__meta_kubernetes_" + source}, "target_label": label})
	}
	rules = append(rules, relabel{"target_label": "job", "replacement": "monitoring/caps"}, relabel{"target_label": "endpoint", "replacement": "metrics"})
	for _, r := range ours {
		rule := relabel{}
		if len(r.SourceLabels) > 0 {
			rule["source_labels"] = r.SourceLabels
		}
		for field, value := range map[string]string{"target_label": r.TargetLabel, "regex": r.Regex, "action": r.Action} {
			if value != "" {
				rule[field] = value
			}
		}
		if r.Replacement != nil {
			rule["replacement"] = *r.Replacement
		}
		rules = append(rules, rule)
	}
	var targets []any
	for i, phase := range phases {
		targets = append(targets, map[string]any{"targets": []string{fmt.Sprintf("10.0.0.%d:10041", i)}, "labels": map[string]string{
			"__meta_kubernetes_namespace": name, "__meta_kubernetes_pod_name": name + "-x7k2p", "__meta_kubernetes_pod_container_name": name,
			"__meta_kubernetes_service_name": name, "__meta_kubernetes_pod_node_name": "node-7", "__meta_kubernetes_pod_phase": phase,
		}})
	}
	config, err := json.Marshal(map[string]any{"scrape_configs": []any{map[string]any{ // JSON is YAML
		"job_name": "podMonitor/caps", "static_configs": targets, "relabel_configs": rules,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), promtool(t), "check", "service-discovery", "--timeout=2s", path, "podMonitor/caps").Output()
	if err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	var told []struct {
		DiscoveredLabels, Labels map[string]string
	}
	if err := json.Unmarshal(out, &told); err != nil || len(told) != len(phases) {
		t.Fatalf("promtool says %v\n%s", err, out)
	}
	labels := make([]map[string]string, len(phases))
	for _, target := range told {
		maps.DeleteFunc(target.Labels, func(label, _ string) bool { return strings.HasPrefix(label, "__") })
		labels[slices.Index(phases, target.DiscoveredLabels["__meta_kubernetes_pod_phase"])] = target.Labels
	}
	return labels
}

func promtool(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../build/bin/promtool")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no promtool: `make tools` unpacks it")
	}
	t.Skip("no promtool: run `make tools`")
	return ""
}

// TestVersions: the chart is the program's, and by default it is that image.
func TestVersions(t *testing.T) {
	t.Parallel()
	c := load(t)
	if c.Metadata.Version != c.Metadata.AppVersion {
		t.Errorf("the chart is of version %s, for version %s of the program", c.Metadata.Version, c.Metadata.AppVersion)
	}
	if want := "capability_exporter:" + c.Metadata.AppVersion; object[apps.DaemonSet](t, "").Spec.Template.Spec.Containers[0].Image != want {
		t.Errorf("the image is not %s", want)
	}
}

// TestCommitted: what is committed is what the chart makes, and the command in
// the values' comment makes it so.
func TestCommitted(t *testing.T) {
	t.Parallel()
	made, err := files(repository)
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 2 {
		t.Errorf("%d files are made", len(made))
	}
	for path, text := range made {
		if read(t, filepath.Join(repository, path)) != text {
			t.Errorf("%s is not what the chart makes: run `make chart`", path)
		}
	}
	if command := fmt.Sprintf("helm template %[1]s %[2]s/chart --namespace %[1]s --values %[2]s/daemonset.values.yaml\n", name, kubernetes); !strings.Contains(read(t, repository+"/"+kubernetes+"/daemonset.values.yaml"), command) {
		t.Errorf("the comment does not say %s", command)
	}
}

// TestTable: each value has its row, and one without a comment is an error.
func TestTable(t *testing.T) {
	t.Parallel()
	table, err := tableOf([]byte("# All of it.\n\na:\n  # How\n  # many.\n  b: 1\n# A map | as one.\nc:\n  d: x\n"))
	if want := "| value | default | |\n|---|---|---|\n| `a.b` | `1` | How many. |\n| `c` | `{\"d\":\"x\"}` | A map \\| as one. |\n"; err != nil || table != want {
		t.Errorf("%v\n%s", err, table)
	}
	for _, wrong := range []string{"", "[]", "a: 1", "a:\n  b: 1"} {
		if table, err := tableOf([]byte(wrong)); err == nil {
			t.Errorf("%q has the table\n%s", wrong, table)
		}
	}
	if _, err := between("no place", table); err == nil {
		t.Error("there is no place for the table, and no error")
	}
	// Each key of values.yaml is in the README's.
	readme := read(t, folder+"/README.md")
	for _, match := range regexp.MustCompile(`(?m)^([a-zA-Z]+):`).FindAllStringSubmatch(read(t, folder+"/values.yaml"), -1) {
		if !strings.Contains(readme, "| `"+match[1]+"`") && !strings.Contains(readme, "| `"+match[1]+".") {
			t.Errorf("README does not tell of %s", match[1])
		}
	}
}

// TestNotes: what must be known once it is installed is told.
func TestNotes(t *testing.T) {
	t.Parallel()
	const passedOver = "Nothing is chosen as "
	for values, test := range map[string]struct{ want, not []string }{
		"": {
			[]string{"pod-security.kubernetes.io/enforce=privileged", "kubectl --namespace capability-exporter", "containerd 1.6.9", "nobody scrapes it"},
			[]string{passedOver},
		},
		"port: 10042": {[]string{"10042:10042"}, nil},
		"podMonitor: {enabled: true}": {
			[]string{"job=\"capability_exporter\"", passedOver + "monitor.labels. ", "MONITORS:.spec.podMonitorSelector,"}, []string{"nobody scrapes it"},
		},
		"{serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}}": {
			[]string{passedOver + "monitor.labels and prometheusRule.labels. ", "MONITORS:.spec.serviceMonitorSelector,"}, nil,
		},
		"{podMonitor: {enabled: true}, commonLabels: {release: prometheus}}": {nil, []string{passedOver}},
		quickStart(t):                       {[]string{"job=\"capability_exporter\""}, []string{passedOver}},
		"seccompProfile: {type: Localhost}": {[]string{"/var/lib/kubelet/seccomp/capability_exporter.json"}, nil},
	} {
		r, err := render(load(t), values)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range test.want {
			if !strings.Contains(r.notes, text) {
				t.Errorf("%q: the notes do not say %s:\n%s", values, text, r.notes)
			}
		}
		for _, text := range test.not {
			if strings.Contains(r.notes, text) {
				t.Errorf("%q: the notes say %s:\n%s", values, text, r.notes)
			}
		}
	}
}

// TestRun writes what is committed into another folder, and refuses what it does not know.
func TestRun(t *testing.T) {
	t.Parallel()
	if err := run([]string{"more"}, io.Discard); err == nil || !strings.Contains(err.Error(), "more") {
		t.Errorf("an argument is taken: %v", err)
	}
}
