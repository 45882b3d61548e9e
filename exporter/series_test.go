package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/exportertest"
)

// What a node may cost those who run a thousand of them, in series.
const (
	mostIdle     = 90 - ofTarget
	mostWithPods = 600 - ofTarget
	// ofTarget are those that Prometheus itself adds for each target: up, scrape_duration_seconds, scrape_samples_scraped,
	// scrape_samples_post_metric_relabeling and scrape_series_added.
	ofTarget = 5
)

// seriesOf counts those of a page: each line but comments is a sample of one. No metric of the exporter's is a histogram, of which
// a line is a bucket.
func seriesOf(page string) int {
	return len(regexp.MustCompile(`(?m)^[^#\n]`).FindAllString(page, -1))
}

// TestSeriesOfANode has the page of a Debian that does nothing, and that of the same with a kubelet, containerd and 30 pods. What
// systemd, its services and runc ask for is what they were seen to (in TestRuntimes' guest); the pods, the kubelet and containerd
// itself are made up. The latter page is what deploy's TestFleetCost serves.
func TestSeriesOfANode(t *testing.T) {
	pods := t.TempDir()
	idle, busy := idleNode(), idleNode()
	busy.kubernetes(t, pods)
	for _, test := range []struct {
		golden string
		node   *node
		most   int
	}{
		{"idle.txt", idle, mostIdle},
		{"node.txt", busy, mostWithPods},
	} {
		t.Run(test.golden, func(t *testing.T) {
			fake := exportertest.NewTracer(bpf.Info{Source: bpf.SourceTracepoint, Audit: "callsite", Cgroups: "v2", LSM: "apparmor"}, test.node.snapshot())
			fake.SetHeld(test.node.held())
			i := start(t, opens(fake), "--kubernetes.pods-dir="+pods)
			i.waitReady(t)
			page := i.get(t, "/metrics").body
			n := seriesOf(page)
			t.Logf("%d series, and %d of Prometheus' own", n, ofTarget)
			if n > test.most {
				t.Errorf("%d series, want %d at most:\n%s", n, test.most, page)
			}
			got := regexp.MustCompile(`(?m)^((go|process)_\S+) .*$`).ReplaceAllString(page, "$1 1")
			got = regexp.MustCompile(`(?m)^(capability_exporter_build_info|go_info)\{.*\}`).ReplaceAllString(got, `$1{version="unknown"}`)
			golden(t, test.golden, got)
		})
	}
}

// node is what the kernel side has counted on a machine.
type node struct {
	sites     map[bpf.SiteCount]uint64
	workloads []bpf.WorkloadCount
	holds     []bpf.HeldCount
	cgroups   uint64
}

var bootTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// asks has a program ask for what is in a list, of "CAPABILITY call_site" and what else there is to say of it.
func (n *node) asks(cgroup bpf.Cgroup, process string, list ...string) {
	for _, ask := range list {
		words := strings.Fields(ask)
		value, err := cap.FromName("cap_" + strings.ToLower(words[0]))
		if err != nil {
			panic(err)
		}
		w := bpf.WorkloadCount{Cgroup: cgroup, Process: bpf.Process{Name: process}, Count: 3, Created: bootTime, Grown: bootTime.Add(time.Minute)}
		w.Capability = uint8(value)
		audited := bpf.AuditedYes
		for _, word := range words[2:] {
			switch word {
			case "denied":
				w.Denied = true
			case "probe":
				w.Denied, w.Probe = true, true
			case "userns":
				w.UserNS = true
			case "unaudited":
				audited = bpf.AuditedNo
			default:
				panic(word)
			}
		}
		n.sites[bpf.SiteCount{Check: w.Check, Audited: audited, Symbol: words[1]}] += w.Count
		if audited == bpf.AuditedYes {
			n.workloads = append(n.workloads, w)
		}
	}
}

// has processes hold capabilities: all, or those that it names.
func (n *node) has(cgroup bpf.Cgroup, names string) {
	h := bpf.HeldCount{Cgroup: cgroup}
	switch {
	case names == "all":
		h.All = 1
	case strings.HasPrefix(names, "all but "):
		for value := range cap.NamedCount {
			h.Each[value] = 1
		}
		fallthrough
	default:
		for name := range strings.FieldsSeq(strings.TrimPrefix(names, "all but ")) {
			value, err := cap.FromName("cap_" + strings.ToLower(name))
			if err != nil {
				panic(err)
			}
			h.Each[value] ^= 1
		}
	}
	n.holds = append(n.holds, h)
}

func (n *node) cgroup(path string) bpf.Cgroup {
	n.cgroups++
	return bpf.Cgroup{ID: n.cgroups, Path: path}
}

func (n *node) snapshot() bpf.Snapshot {
	s := bpf.Snapshot{Time: bootTime.Add(time.Hour), Attached: bootTime, Workloads: n.workloads, Series: len(n.workloads), SeriesLimit: 4096, RingRecords: 20, Unwinds: 30}
	for site, count := range n.sites {
		site.Count, site.Created = count, bootTime
		s.Sites = append(s.Sites, site)
	}
	return s
}

func (n *node) held() bpf.Held {
	return bpf.Held{Time: bootTime.Add(time.Hour), Took: time.Millisecond, Counts: n.holds}
}

// idleNode is a Debian 13 on which nobody has asked for anything since the exporter was started but the kernel itself. What its
// services hold is what their units say.
func idleNode() *node {
	n := &node{sites: map[bpf.SiteCount]uint64{}}
	unit := func(name string) bpf.Cgroup { return n.cgroup("/system.slice/" + name) }
	n.has(n.cgroup("/init.scope"), "all")
	for _, name := range []string{"cron.service", "ssh.service", "unattended-upgrades.service", "system-getty.slice/getty@tty1.service", "system-serial\\x2dgetty.slice/serial-getty@ttyS0.service"} {
		n.has(unit(name), "all")
	}
	n.has(unit("systemd-udevd.service"), "all but sys_time wake_alarm")
	n.has(unit("systemd-journald.service"), "sys_admin dac_override sys_ptrace syslog audit_control audit_read chown dac_read_search fowner setuid setgid mac_override")
	n.has(unit("systemd-logind.service"), "sys_admin mac_admin audit_control chown dac_read_search dac_override fowner sys_tty_config linux_immutable")
	n.has(unit("systemd-networkd.service"), "net_admin net_bind_service net_broadcast net_raw bpf sys_admin")
	n.has(unit("systemd-resolved.service"), "setpcap net_raw net_bind_service")
	n.has(unit("systemd-timesyncd.service"), "sys_time")
	n.has(unit("dbus.service"), "audit_write")
	n.has(unit("capability_exporter.service"), "bpf perfmon")
	n.asks(bpf.Cgroup{}, "", // the kernel looks: at memory overcommit nearly always
		"SYS_ADMIN __mmap_region unaudited", "SYS_ADMIN __mmap_region unaudited denied", "SYS_ADMIN do_brk_flags unaudited", "SYS_ADMIN do_brk_flags unaudited denied",
		"SYS_ADMIN expand_downwards unaudited", "SYS_ADMIN expand_downwards unaudited denied", "SYS_ADMIN insert_vm_struct unaudited",
		"SYS_ADMIN shmem_inode_acct_blocks unaudited", "SYS_ADMIN do_jit unaudited denied")
	return n
}

// kubernetes adds a kubelet, containerd and 30 pods, and makes the folders that tell the pods' names.
func (n *node) kubernetes(t *testing.T, folders string) {
	t.Helper()
	const usual = "chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap net_bind_service sys_chroot kill audit_write" // containerd's
	// A container, as runc sets it up below containerd (TestRuntimes).
	setsUp := []string{
		"SYS_ADMIN path_mount", "SYS_ADMIN __do_sys_pivot_root", "SYS_ADMIN sys_sethostname", "SETPCAP cap_prctl_drop", "SETGID sys_setgroups",
		"SETGID __sys_setresgid", "SETUID __sys_setresuid", "MKNOD vfs_mknod", "NET_ADMIN rtnetlink_rcv_msg",
	}
	pods := 0
	for _, kind := range []struct {
		copies          int
		namespace, name string
		holds           string
		process         string
		asks            []string
	}{
		{1, "kube-system", "kube-proxy", "all", "xtables-nft-multi", []string{"NET_ADMIN nfnetlink_rcv", "NET_RAW raw_create", "SYS_MODULE __request_module"}},
		{1, "kube-system", "calico-node", "all", "calico-node", []string{"NET_ADMIN rtnetlink_rcv_msg", "NET_ADMIN nfnetlink_rcv", "NET_RAW packet_create", "SYS_ADMIN bpf_token_capable", "BPF bpf_token_capable", "SYS_RESOURCE do_prlimit"}},
		{2, "kube-system", "coredns-6d4cf56db6", "net_bind_service", "coredns", []string{"NET_BIND_SERVICE inet_bind"}},
		{1, "kube-system", "csi-node", "all", "csi-driver", []string{"SYS_ADMIN path_mount", "SYS_ADMIN sys_umount", "DAC_READ_SEARCH generic_permission", "DAC_OVERRIDE generic_permission"}},
		{1, "kube-system", "node-local-dns", "net_admin net_raw net_bind_service", "node-cache", []string{"NET_BIND_SERVICE inet_bind", "NET_ADMIN rtnetlink_rcv_msg", "NET_RAW raw_create"}},
		{1, "kube-system", "metrics-server-7f6d4cf56d", "", "metrics-server", nil},
		{1, "monitoring", "node-exporter", "", "node_exporter", []string{"SYS_PTRACE __ptrace_may_access denied"}},
		{1, "monitoring", "capability-exporter", "bpf perfmon", "capability_exporter", nil},
		{1, "monitoring", "fluent-bit", usual, "fluent-bit", []string{"DAC_OVERRIDE generic_permission", "DAC_READ_SEARCH generic_permission denied"}},
		{3, "shop", "web-6d4cf56db6", usual, "nginx", []string{"CHOWN setattr_prepare", "SETGID __sys_setgid", "SETUID __sys_setuid", "NET_BIND_SERVICE inet_bind"}},
		{1, "shop", "db-0", usual, "postgres", []string{"CHOWN setattr_prepare", "FOWNER setattr_prepare", "SETGID sys_setgroups", "SETUID __sys_setuid", "DAC_READ_SEARCH generic_permission denied", "DAC_OVERRIDE generic_permission"}},
		{1, "shop", "cache-0", usual, "redis-server", []string{"SETGID sys_setgroups", "SETUID __sys_setuid", "SYS_RESOURCE do_prlimit denied"}},
		{2, "shop", "mail-5b9d4cf56d", usual, "master", []string{"DAC_OVERRIDE generic_permission", "SETGID __sys_setresgid", "SETUID __sys_setresuid", "KILL kill_pid_info", "NET_BIND_SERVICE inet_bind"}},
		{10, "shop", "api-7c9d4cf56d", "", "java", nil},
		{1, "shop", "profiled-7c9d4cf56d", "", "java", []string{"SYS_PTRACE __ptrace_may_access denied", "SYS_ADMIN perf_event_open denied"}},
		{2, "batch", "report-28999", "", "python3.13", []string{"SYS_NICE set_one_prio denied"}},
	} {
		for range kind.copies {
			pods++
			uid := fmt.Sprintf("%08x-0000-4000-8000-%012x", pods, pods)
			container := n.cgroup(fmt.Sprintf("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%s.slice/cri-containerd-c0de0000%056x.scope", strings.ReplaceAll(uid, "-", "_"), pods))
			n.has(container, kind.holds)
			n.asks(container, "memfd:runc_cloned:/proc/self/exe", setsUp...)
			n.asks(container, kind.process, kind.asks...)
			name := fmt.Sprintf("%s_%s_%s", kind.namespace, kind.name, uid)
			if !strings.HasSuffix(kind.name, "-0") {
				name = fmt.Sprintf("%s_%s-bcdf%c_%s", kind.namespace, kind.name, "ghjklmnpqr"[pods%10], uid)
			}
			if err := os.Mkdir(filepath.Join(folders, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pods != 30 {
		t.Fatalf("%d pods", pods)
	}
	for _, service := range []struct {
		unit, process string
		asks          []string
	}{
		{"kubelet.service", "kubelet", []string{
			"SYS_ADMIN path_mount", "SYS_ADMIN sys_umount", "SYS_PTRACE __ptrace_may_access", "SYS_RESOURCE do_prlimit", "CHOWN setattr_prepare", "DAC_OVERRIDE generic_permission",
			"DAC_READ_SEARCH generic_permission", "NET_ADMIN __sock_cmsg_send", "SYSLOG do_syslog", "KILL kill_pid_info",
		}},
		{"containerd.service", "containerd", []string{
			"SYS_ADMIN path_mount", "SYS_ADMIN sys_umount", "SYS_ADMIN ksys_unshare", "SYS_RESOURCE do_prlimit", "CHOWN setattr_prepare", "FOWNER setattr_prepare", "MKNOD vfs_mknod",
			"DAC_OVERRIDE generic_permission", "NET_ADMIN rtnetlink_rcv_msg",
		}},
		{"containerd.service", "runc", []string{
			"SYS_ADMIN setns", "SYS_RESOURCE do_prlimit", "BPF bpf_token_capable", "PERFMON bpf_token_capable", "NET_ADMIN bpf_token_capable", "DAC_OVERRIDE generic_permission",
			"DAC_READ_SEARCH generic_permission",
		}},
		{"containerd.service", "calico", []string{"NET_ADMIN rtnetlink_rcv_msg", "SYS_ADMIN ksys_unshare", "SYS_ADMIN setns"}},
		{"cron.service", "cron", []string{"SETGID sys_setgroups", "SETUID __sys_setuid", "AUDIT_WRITE audit_netlink_ok"}},
		{"ssh.service", "sshd-session", []string{"SETGID sys_setgroups", "SETUID __sys_setresuid", "AUDIT_WRITE audit_netlink_ok", "SYS_CHROOT __do_sys_chroot"}},
		{"systemd-udevd.service", "systemd-udevd", []string{"CHOWN setattr_prepare", "NET_ADMIN dev_ioctl", "DAC_OVERRIDE generic_permission"}},
		{"systemd-journald.service", "systemd-journald", []string{"SYS_ADMIN scm_check_creds", "SETGID scm_check_creds", "SETUID scm_check_creds", "SYS_PTRACE __ptrace_may_access"}},
		{"systemd-logind.service", "systemd-logind", []string{"NET_ADMIN sock_setsockopt denied"}},
	} {
		n.asks(n.cgroup("/system.slice/"+service.unit), service.process, service.asks...)
	}
	n.has(n.cgroup("/system.slice/kubelet.service"), "all")
	n.has(n.cgroup("/system.slice/containerd.service"), "all")
	n.asks(n.cgroup("/init.scope"), "systemd", "SYS_ADMIN path_mount", "BPF bpf_token_capable", "PERFMON bpf_token_capable", "NET_ADMIN sock_setsockopt", "DAC_OVERRIDE generic_permission", "AUDIT_WRITE audit_netlink_ok")
}
