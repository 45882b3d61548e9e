package bpf

import (
	"fmt"
	"os"
	"testing"
)

// helperVariable makes this test binary do one thing and exit, in place of the tests.
const helperVariable = "CAPABILITY_EXPORTER_TEST_HELPER"

func TestMain(m *testing.M) {
	name := os.Getenv(helperVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	f := helpers()[name]
	if f == nil {
		fmt.Fprintln(os.Stderr, "no such helper:", name)
		os.Exit(2)
	}
	if err := f(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
