package bpf

import (
	"testing"

	"capability_exporter/bpf/internal/source"
)

// TestVerified: the verifier gives up on a program after it has looked at a million instructions, counting each way that leads to
// one (BPF_COMPLEXITY_LIMIT_INSNS). Another kernel's may take more ways than this one's, and each takes time at the start.
func TestVerified(t *testing.T) {
	const most = 150_000
	one, two, probe := false, true, source.PeekProbe
	for _, opts := range []Options{{pair: &one}, {pair: &two}, {}, {peek: &probe}} {
		tr := openLive(t, opts)
		for name, p := range tr.objects.Collection.Programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, known := info.VerifiedInstructions()
			if !known {
				t.Skip("the kernel does not say how many instructions it looked at (Linux 5.16)")
			}
			t.Logf("%s: %d instructions", name, n)
			if n > most {
				t.Errorf("%s: the verifier looked at %d instructions, want %d at most", name, n, most)
			}
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
}
