package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBinaryTellsRefusals: what SELinux or AppArmor refuses is among the metrics and in the log, also of an exporter that has given up
// all that it does not need.
func TestBinaryTellsRefusals(t *testing.T) {
	if os.Getenv(prebuilt) == "" {
		t.Skip("needs a policy that refuses somebody a capability, so it runs in a guest alone (make test-vm)")
	}
	module := "apparmor"
	if enforce := "/sys/fs/selinux/enforce"; exists(enforce) {
		module = "selinux"
		if err := os.WriteFile(enforce, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.WriteFile(enforce, []byte("0"), 0) }()
	}
	program, ask := copyOf(t, exporter(t)), copyOf(t, "/proc/self/exe")
	start := []string{program, "--web.listen-address=127.0.0.1:0"}
	if readsMapsWithout(t) {
		start = append(start, "--privileges.keep=none")
	}
	p := startProcess(t, program, start...)
	if metrics := p.get(t, "/metrics").body; !strings.Contains(metrics, `,lsm="`+module+`",source="`) {
		t.Errorf("it does not say that it sees %s:\n%s", module, metrics)
	}
	cgroup := newCgroup(t)
	defer func() { _ = unix.Rmdir(cgroup) }()
	series := fmt.Sprintf(`capability_lsm_denials_total{capability="CAP_SYS_ADMIN",lsm=%q,process=%q,workload="/%s"}`,
		module, filepath.Base(ask), filepath.Base(cgroup))
	for n, domain := range []string{"limited", "limited", "tolerated"} {
		cmd := command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, cgroup, ask, module, domain)
		cmd.Env = append(cmd.Env, helperRole+"="+helperConfined)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got, want := p.metric(t, series), min(float64(n+1), 2); got != want {
			t.Errorf("%v refused after one as %s, want %v", got, domain, want)
		}
	}
	p.log.waitFor(t, `msg="Capability granted, and refused by another security module" capability=CAP_SYS_ADMIN result=denied scope=host workload=/`+
		filepath.Base(cgroup)+` process=`+filepath.Base(ask)+` .* syscall=\S+ .* lsm=(`+module+`)`)
	p.checkStop(t)
}
