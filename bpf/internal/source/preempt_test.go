package source

import "testing"

func TestPreemptionModel(t *testing.T) {
	for _, test := range []struct {
		version, cmdline string
		full             bool
	}{
		{"Linux version 6.12.48 (gcc) #1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1 (2025-09-20)", "console=ttyS0", false},
		{"Linux version 6.12.48 (gcc) #1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1 (2025-09-20)", "preempt=none quiet preempt=full", true},
		{"Linux version 6.12.48 (gcc) #1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1 (2025-09-20)", "preempt=full preempt=voluntary", false},
		{"Linux version 6.18.5 (gcc) #1 SMP PREEMPT_DYNAMIC Debian 6.18.5-1", "preempt=lazy", true},
		{"Linux version 6.1.0 (gcc) #1 SMP PREEMPT_RT Debian 6.1.1", "", true},
		{"Linux version 6.1.0 (gcc) #1 SMP PREEMPT Thu Nov 1", "preempt=none", true}, // not to be chosen
		{"Linux version 5.10.0 (gcc) #1 SMP Debian 5.10.1", "preempt=full", false},
	} {
		if got := preemptionModel(test.version, test.cmdline); got != test.full {
			t.Errorf("%q, %q: %t, want %t", test.version, test.cmdline, got, test.full)
		}
	}
}
