package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
	"capability_exporter/collectors/workload"
)

// What stands in the series of the join tests.
const (
	webUID    = "12fdc709-933e-41d0-917f-cd84de9afa94"
	dbUID     = "2c4b2241-5c01-41e9-8e4e-42010a800002"
	staticUID = "712b37831be464ccc2fb1553ef89aa91" // which the API server does not know
	joinSpan  = time.Hour
)

var (
	oldContainer, webContainer = strings.Repeat("1", 64), strings.Repeat("2", 64)
	dbContainer, etcdContainer = strings.Repeat("3", 64), strings.Repeat("4", 64)
	dockerContainer            = strings.Repeat("5", 64)
)

// containerOf is a container's cgroup in its pod's.
func containerOf(uid, id string) string {
	return "/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/cri-containerd-" + id + ".scope"
}

// TestJoins runs the queries of README's joins, all of them, on what the
// exporter exposes of a made-up node and on series of other exporters, in the
// shape that those have.
func TestJoins(t *testing.T) {
	t.Parallel()
	type sample struct {
		Labels string  `json:"labels"`
		Value  float64 `json:"value"`
	}
	// In the order of README.
	web := func(more string) string { return `{namespace="default", pod="web-0", process="mount"` + more + `}` }
	wants := [][]sample{
		{{web(""), 3}, {`{namespace="default", pod="db-0", process="mount"}`, 4}, {`{namespace="kube-system", pod="etcd-a", process="mount"}`, 5}},
		{{web(""), 3}, {`{namespace="default", pod="db-0", process="mount"}`, 4}}, // and not the static one
		{
			{`{namespace="default", owner="web", owner_type="statefulset", process="mount"}`, 3},
			{`{namespace="default", owner="db", owner_type="statefulset", process="mount"}`, 4},
			{`{namespace="kube-system", owner="etcd-a", owner_type="staticpod", process="mount"}`, 5},
		},
		{ // of the web pod the container that it has now
			{fmt.Sprintf(`{cgroup=%q, container="web", container_id=%q, image="web:2", instance="a", job="capability_exporter", kind="pod", namespace="default", pod="web-0", pod_uid=%q, unit=%q, workload="pod/%s"}`,
				containerOf(webUID, webContainer), webContainer, webUID, "cri-containerd-"+webContainer+".scope", webUID), 1},
			{fmt.Sprintf(`{cgroup=%q, container="db", container_id=%q, image="db:1", instance="a", job="capability_exporter", kind="pod", namespace="default", pod="db-0", pod_uid=%q, unit=%q, workload="pod/%s"}`,
				containerOf(dbUID, dbContainer), dbContainer, dbUID, "cri-containerd-"+dbContainer+".scope", dbUID), 1},
		},
		{{`{workload="pod/` + dbUID + `"}`, 300}, {`{workload="container/555555555555"}`, 500}}, // and not the web pod, which was denied nothing
		{{`{capability="CAP_NET_ADMIN", instance="a", unit="openvpn@to\\x2doffice.service"}`, 8}},
		{{`{capability="CAP_NET_ADMIN", instance="a", unit="openvpn@to\\x2doffice.service"}`, 8}},
	}
	queries := regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllStringSubmatch(read(t, "../README.md"), -1)
	if len(queries) != len(wants) {
		t.Fatalf("README has %d queries, want %d", len(queries), len(wants))
	}
	type question struct {
		Expr    string   `json:"expr"`
		Time    string   `json:"eval_time"`
		Samples []sample `json:"exp_samples"`
	}
	var questions []question
	for i, query := range queries {
		questions = append(questions, question{Expr: query[1], Time: joinSpan.String(), Samples: wants[i]})
	}
	file, err := json.Marshal(map[string]any{"tests": []any{map[string]any{
		"interval": "1m", "input_series": append(ownSeries(t), othersSeries()...), "promql_expr_test": questions,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "joins.json")
	write(t, path, string(file))
	if out, err := exec.CommandContext(t.Context(), program(t, "promtool"), "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// joinInput is one of promtool's.
type joinInput struct {
	Series string `json:"series"`
	Values string `json:"values"`
}

// constant has one value all the time.
func constant(series string, value float64) joinInput {
	return joinInput{series, fmt.Sprintf("%vx%d", value, int(joinSpan/time.Minute))}
}

// madeUpPods know pods by their uid.
type madeUpPods map[string]workload.PodName

func (p madeUpPods) Names(uids map[string]bool) map[string]workload.PodName {
	found := maps.Clone(p)
	maps.DeleteFunc(found, func(uid string, _ workload.PodName) bool { return !uids[uid] })
	return found
}

// madeUpNode is a tracer of what has been counted on a node.
type madeUpNode struct{}

func (madeUpNode) Info() bpf.Info { return bpf.Info{Source: bpf.SourceFexit} }

func (madeUpNode) Held() bpf.Held { return bpf.Held{} }

func (madeUpNode) Snapshot() (*bpf.Snapshot, error) {
	admin, raw := bpf.Check{Capability: uint8(cap.SYS_ADMIN)}, bpf.Check{Capability: uint8(cap.NET_RAW), Denied: true}
	net := bpf.Check{Capability: uint8(cap.NET_ADMIN), Denied: true}
	slot := func(id uint64, path string, check bpf.Check, count uint64) bpf.WorkloadCount {
		return bpf.WorkloadCount{Check: check, Cgroup: bpf.Cgroup{ID: id, Path: path}, Process: bpf.Process{Name: "mount"}, Count: count}
	}
	return &bpf.Snapshot{Time: time.Now(), Workloads: []bpf.WorkloadCount{
		slot(1, containerOf(webUID, oldContainer), admin, 1), // before it was started again
		slot(2, containerOf(webUID, webContainer), admin, 2),
		slot(3, containerOf(dbUID, dbContainer), admin, 4),
		slot(3, containerOf(dbUID, dbContainer), raw, 1),
		slot(4, containerOf(staticUID, etcdContainer), admin, 5),
		slot(5, "/system.slice/docker-"+dockerContainer+".scope", raw, 6),
		slot(6, `/system.slice/system-openvpn.slice/openvpn@to\x2doffice.service`, net, 8),
		slot(7, "/system.slice/fine.service", net, 7),
		slot(8, "/user.slice/user-1000.slice/user@1000.service/app.slice/fine.service", net, 9),
	}}, nil
}

// ownSeries are the exporter's, as Prometheus has them. Counters have counted
// as many times 60 each minute as stand in the snapshot.
func ownSeries(t *testing.T) []joinInput {
	t.Helper()
	pods := madeUpPods{webUID: {Namespace: "default", Pod: "web-0"}, dbUID: {Namespace: "default", Pod: "db-0"}, staticUID: {Namespace: "kube-system", Pod: "etcd-a"}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.New(madeUpNode{}, madeUpNode{}, pods))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var inputs []joinInput
	for _, family := range families {
		if name := family.GetName(); name != "capability_workload_checks_total" && name != "capability_workload_info" {
			continue
		}
		for _, metric := range family.GetMetric() {
			pairs := []string{`job="capability_exporter"`, `instance="a"`}
			for _, pair := range metric.GetLabel() {
				pairs = append(pairs, fmt.Sprintf("%s=%q", pair.GetName(), pair.GetValue()))
			}
			series := family.GetName() + "{" + strings.Join(pairs, ", ") + "}"
			if metric.GetGauge() != nil {
				inputs = append(inputs, constant(series, metric.GetGauge().GetValue()))
			} else {
				inputs = append(inputs, joinInput{series, fmt.Sprintf("0+%vx%d", 60*metric.GetCounter().GetValue(), int(joinSpan/time.Minute))})
			}
		}
	}
	return inputs
}

// othersSeries are of other exporters, with all of their labels.
func othersSeries() []joinInput {
	ksm := `job="kube-state-metrics", instance="10.0.0.9:8080", `
	info := func(namespace, pod, uid, kind, owner string) string {
		return fmt.Sprintf(`kube_pod_info{%snamespace=%q, pod=%q, uid=%q, host_ip="192.0.2.1", pod_ip="10.0.0.2", node="a", created_by_kind=%q, created_by_name=%q, priority_class="", host_network="false"}`,
			ksm, namespace, pod, uid, kind, owner)
	}
	container := func(pod, uid, name, image, id string) string {
		return fmt.Sprintf(`kube_pod_container_info{%snamespace="default", pod=%q, uid=%q, container=%q, image=%q, image_spec=%q, image_id="sha256:abc", container_id=%q}`,
			ksm, pod, uid, name, image, image, id)
	}
	owner := func(namespace, pod, name, kind string) string {
		return fmt.Sprintf(`namespace_workload_pod:kube_pod_owner:relabel{cluster="", namespace=%q, pod=%q, workload=%q, workload_type=%q}`, namespace, pod, name, kind)
	}
	memory := func(id, more string) string {
		return fmt.Sprintf(`container_memory_working_set_bytes{job="kubelet", instance="192.0.2.1:10250", metrics_path="/metrics/cadvisor", id=%q%s}`, id, more)
	}
	inputs := []joinInput{
		constant(info("default", "web-0", webUID, "StatefulSet", "web"), 1),
		constant(info("default", "db-0", dbUID, "StatefulSet", "db"), 1),
		constant(info("kube-system", "etcd-a", "00000000-0000-0000-0000-00000000000e", "Node", "a"), 1),
		constant(container("web-0", webUID, "web", "web:2", "containerd://"+webContainer), 1),
		constant(container("db-0", dbUID, "db", "db:1", "containerd://"+dbContainer), 1),
		constant(container("late-0", "00000000-0000-0000-0000-00000000000f", "late", "late:1", ""), 1),
		constant(owner("default", "web-0", "web", "statefulset"), 1),
		constant(owner("default", "db-0", "db", "statefulset"), 1),
		constant(owner("kube-system", "etcd-a", "etcd-a", "staticpod"), 1),
		constant(memory("/", ""), 9000),
		constant(memory("/kubepods.slice", ""), 8000),
		constant(memory(containerOf(webUID, webContainer), `, container="web", image="web:2", name="`+webContainer+`", namespace="default", pod="web-0"`), 200),
		constant(memory(containerOf(dbUID, dbContainer), `, container="db", image="db:1", name="`+dbContainer+`", namespace="default", pod="db-0"`), 300),
		constant(memory("/system.slice/docker-"+dockerContainer+".scope", `, image="tool:1", name="tool"`), 500),
	}
	for _, unit := range []string{`openvpn@to\x2doffice.service`, "fine.service", "quiet.service"} {
		for _, state := range []string{"activating", "active", "deactivating", "failed", "inactive"} {
			is := slices.Contains([]string{`openvpn@to\x2doffice.service failed`, "fine.service active", "quiet.service failed"}, unit+" "+state)
			value := map[bool]float64{true: 1}[is]
			inputs = append(inputs,
				constant(fmt.Sprintf(`node_systemd_unit_state{job="node", instance="a", name=%q, state=%q, type="simple"}`, unit, state), value),
				constant(fmt.Sprintf(`systemd_unit_state{job="systemd", instance="a", name=%q, state=%q, type="service"}`, unit, state), value))
		}
	}
	return inputs
}
