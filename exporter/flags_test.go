package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFlagDefaults(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}} {
		cfg, err := parseFlags(args, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		if got := *cfg.web.WebListenAddresses; !slices.Equal(got, []string{":10041"}) {
			t.Errorf("listen addresses %q", got)
		}
		if cfg.telemetryPath != "/metrics" || cfg.seriesLimit != 4096 || cfg.createdSamples || cfg.podsDir != "/var/log/pods" {
			t.Errorf("defaults are %+v", cfg)
		}
		if cfg.log.Level.String() != "info" || cfg.log.Format.String() != "logfmt" {
			t.Errorf("logs %v as %v", cfg.log.Level, cfg.log.Format)
		}
	}
}

func TestFlags(t *testing.T) {
	flags := []string{"--web.listen-address=:1", "--web.listen-address=[::1]:2", "--web.telemetry-path=/a/b", "--web.created-samples",
		"--series.limit=64", "--held.interval=5m", "--kubernetes.pods-dir=", "--log.level=debug", "--log.format=json"}
	for _, args := range [][]string{flags, append([]string{"serve"}, flags...)} {
		cfg, err := parseFlags(args, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		if got := *cfg.web.WebListenAddresses; !slices.Equal(got, []string{":1", "[::1]:2"}) {
			t.Errorf("listen addresses %q", got)
		}
		if cfg.telemetryPath != "/a/b" || cfg.seriesLimit != 64 || !cfg.createdSamples || cfg.podsDir != "" || cfg.heldInterval != 5*time.Minute {
			t.Errorf("read as %+v", cfg)
		}
		if cfg.log.Level.String() != "debug" || cfg.log.Format.String() != "json" {
			t.Errorf("logs %v as %v", cfg.log.Level, cfg.log.Format)
		}
	}
}

func TestFlagsAtTheirLimits(t *testing.T) {
	for _, arg := range []string{"--series.limit=64", "--series.limit=65536", "--held.interval=1s", "--held.interval=0", "--web.telemetry-path=/azAZ09-._~/x", "--web.telemetry-path=/-x"} {
		if _, err := parseFlags([]string{arg}, t.Output()); err != nil {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestAFileThatIsMissingIsTold(t *testing.T) {
	if _, err := parseFlags([]string{"--web.config.file=/does/not/exist"}, t.Output()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v is not os.ErrNotExist", err)
	}
}

func TestWrongFlags(t *testing.T) {
	wrongConfig := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(wrongConfig, []byte("tls_sever_config: {}\nbasic_auth_users: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ arg, want string }{
		{"--series.limit=63", "--series.limit=63: must be 64 to 65536"},
		{"--series.limit=0", "--series.limit=0: must be 64 to 65536"},
		{"--series.limit=-1", "--series.limit=-1: must be 64 to 65536"},
		{"--series.limit=65537", "must be 64 to 65536"},
		{"--series.limit=many", "invalid syntax"},
		{"--kubernetes.pods-dir=pods", `--kubernetes.pods-dir="pods": must be a plain absolute path, such as /var/log/pods, or empty`},
		{"--kubernetes.pods-dir=/var/log/../pods", "must be a plain absolute path"},
		{"--kubernetes.pods-dir=/var/log/pods/", "must be a plain absolute path"},
		{"--kubernetes.pods-dir=/", "must be a plain absolute path"},
		{"--held.interval=999ms", "--held.interval=999ms: must be 1s or more, or 0 for never"},
		{"--held.interval=-1s", "--held.interval=-1s: must be 1s or more, or 0 for never"},
		{"--held.interval=often", "invalid duration"},
		{"--series.limits=64", "unknown long flag '--series.limits', try --help"},
		{"--log.level=loud", "unrecognized log level loud"},
		{"--log.format=xml", "unrecognized log format xml"},
		{"--web.telemetry-path=", "must begin with /"},
		{"--web.telemetry-path=metrics", "must begin with /"},
		{"--web.telemetry-path=/", "landing page"},
		{"--web.telemetry-path=/metrics/", `must be a plain path, such as "/metrics"`},
		{"--web.telemetry-path=/a/../-/ready", "must be a plain path"},
		{"--web.telemetry-path=/-/ready", "/-/ is kept"},
		{"--web.telemetry-path=/-/", "must be a plain path"},
		{"--web.telemetry-path=/-", "/-/ is kept"},
		{"--web.telemetry-path=/{x}", "only letters"},
		{"--web.telemetry-path=/[", "only letters"},
		{"--web.telemetry-path=/`", "only letters"},
		{"--web.telemetry-path=/@", "only letters"},
		{"--web.telemetry-path=/:", "only letters"},
		{"--web.telemetry-path=/a b", "only letters"},
		{"--web.telemetry-path=/a?b", "only letters"},
		{"--web.config.file=/does/not/exist", "no such file or directory"},
		{"--web.config.file=" + wrongConfig, "tls_sever_config"},
		{"collect", "collect"},
	} {
		t.Run(test.arg, func(t *testing.T) {
			var stdout bytes.Buffer
			_, err := parseFlags([]string{test.arg}, &stdout)
			if err == nil || errors.Is(err, errAnswered) {
				t.Fatalf("error %v, want one", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want it to say %q", err, test.want)
			}
			if strings.Contains(err.Error(), "\n") || stdout.Len() != 0 {
				t.Errorf("error %q, standard output %q: want one line and nothing", err, &stdout)
			}
		})
	}
}

func TestAnsweredFlags(t *testing.T) {
	for arg, want := range map[string]string{"--help": "--series.limit=4096", "-h": "web.systemd-socket", "--version": "capability_exporter, version"} {
		var stdout bytes.Buffer
		if _, err := parseFlags([]string{arg}, &stdout); !errors.Is(err, errAnswered) {
			t.Errorf("%s: %v", arg, err)
		}
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("%s answered %q, want it to say %q", arg, &stdout, want)
		}
	}
}
