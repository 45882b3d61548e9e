package confine

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if folder := os.Getenv(role); folder != "" {
		for _, line := range tryAll(folder) {
			fmt.Println(line)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
