package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestCheckpointRestore has criu(8) dump and restore a process as an ordinary
// user, with CAP_CHECKPOINT_RESTORE in place of root: the exporter shows what
// it asked for on the way, that it was denied more than that, and that it did
// without CAP_SYS_ADMIN.
func TestCheckpointRestore(t *testing.T) {
	const criuFile = "/usr/sbin/criu"
	if os.Getenv(prebuilt) == "" || !exists(criuFile) {
		t.Skip("runs in a guest that has criu (make test-vm)")
	}
	if out, err := command("setcap", "cap_checkpoint_restore=ep", criuFile).CombinedOutput(); err != nil {
		t.Fatalf("setcap: %v\n%s", err, out)
	}
	images, err := os.MkdirTemp("", "images")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(images) })
	if err := os.Chown(images, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0")...)
	criu := func(action string, args ...string) {
		t.Helper()
		cmd := command(asNobody(append([]string{"criu", action, "--unprivileged", "--images-dir", images, "--log-file", action + ".log", "-v4"}, args...)...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			log, _ := os.ReadFile(images + "/" + action + ".log")
			t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, log)
		}
	}

	const name = "busybox"
	victim := command(asNobody(name, "sleep", "1000")...)
	victim.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // else it would be a part of this session, which is not dumped
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	pid := victim.Process.Pid
	criu("dump", "--tree", strconv.Itoa(pid))
	if err := victim.Wait(); err == nil {
		t.Error("the process came to its end, in place of being dumped and killed")
	}
	criu("restore", "--restore-detached")
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatalf("the process has not been restored: %v", err)
	}
	if got := strings.ReplaceAll(string(cmdline), "\x00", " "); !strings.HasSuffix(got, "sleep 1000 ") {
		t.Errorf("process %d is %q", pid, got)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}

	asked, restored := p.asks(t, "criu"), p.asks(t, name)
	t.Log("criu asked for", asked)
	t.Log("the restored process asked for", restored)
	if asked["CAP_CHECKPOINT_RESTORE granted"] == 0 || asked["CAP_CHECKPOINT_RESTORE denied"] != 0 {
		t.Error("it was not granted CAP_CHECKPOINT_RESTORE")
	}
	denied := 0
	for _, asked := range []map[string]float64{asked, restored} {
		for key := range asked {
			if strings.HasSuffix(key, " denied") {
				denied++
			} else if key != "CAP_CHECKPOINT_RESTORE granted" {
				t.Errorf("it was given %s", key)
			}
		}
	}
	if denied == 0 {
		t.Error("it was denied nothing")
	}
	p.checkStop(t)
}
