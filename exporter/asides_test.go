package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestBinaryTellsWhatHarmedNobody: a denial in whose place the kernel grants another capability is told at debug, and others as denials.
// Those of which that is not known yet are told at the end.
func TestBinaryTellsWhatHarmedNobody(t *testing.T) {
	program, cat := copyOf(t, exporter(t)), copyOf(t, "/bin/cat")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0", "--log.level=debug")
	read := func(keep string) error {
		return command("setpriv", "--bounding-set", keep, "--inh-caps", "-all", cat, file).Run()
	}
	what := ` capability=CAP_DAC_READ_SEARCH result=denied .* process=(` + filepath.Base(cat) + `) `
	if err := read("-all,+dac_override"); err != nil {
		t.Fatal(err)
	}
	p.log.waitFor(t, `level=DEBUG .*msg="Capability denied, and another granted in its place"`+what+`.* fallback=CAP_DAC_OVERRIDE$`)
	if err := read("-all"); err == nil {
		t.Fatal("cat reads what it may not")
	}
	p.log.waitFor(t, `level=INFO .*msg="Capability denied"`+what)

	// What nothing follows is kept back for a moment, and so may be at the end.
	unshare := copyOf(t, "/usr/bin/unshare")
	const records = "capability_exporter_ring_records_total"
	before := p.metric(t, records)
	if err := command("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", unshare, "--uts", "true").Run(); err == nil {
		t.Fatal("unshare has what it may not")
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		was := p.metric(t, records)
		time.Sleep(200 * time.Millisecond)
		if was > before && p.metric(t, records) == was { // all that was made has been read
			break
		}
	}
	p.checkStop(t)
	if line := ` capability=CAP_SYS_ADMIN result=denied .* process=` + filepath.Base(unshare) + ` `; !regexp.MustCompile(line).MatchString(p.log.whole()) {
		t.Errorf("no%s:\n%s", line, p.log.whole())
	}
}
