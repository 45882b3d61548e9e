package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
	"golang.org/x/sys/unix"

	"capability_exporter/exporter/internal/privilege"
)

const (
	defaultListenAddress = ":10041"
	defaultTelemetryPath = "/metrics"
	defaultPodsDir       = "/var/log/pods"

	// Below the least limit an ordinary node's own services do not fit, above
	// the greatest one scrape would cost more than it tells.
	defaultSeriesLimit = 4096
	minSeriesLimit     = 64
	maxSeriesLimit     = 65536

	// A look takes milliseconds where there are tens of thousands of threads.
	defaultHeldInterval = 30 * time.Second
	minHeldInterval     = time.Second

	// The values of --privileges.keep.
	keepAttach = "attach"
	keepNone   = "none"
)

// errAnswered is returned by parseFlags where --help or --version has already
// answered and there is nothing left to do.
var errAnswered = errors.New("answered on standard output")

// config is the checked command line of serve.
type config struct {
	web            *web.FlagConfig
	telemetryPath  string // absolute, clean, none of the exporter's other paths
	createdSamples bool
	seriesLimit    int           // minSeriesLimit to maxSeriesLimit
	heldInterval   time.Duration // minHeldInterval or more, or 0
	podsDir        string        // absolute and clean, or empty
	user           privilege.User
	keep           string // keepAttach or keepNone
	log            *promslog.Config
}

// parseFlags reads the arguments and checks them. Help and version go to
// stdout; an error is one line that names the flag.
func parseFlags(args []string, stdout io.Writer) (*config, error) {
	cfg := &config{user: privilege.Nobody(), log: &promslog.Config{}}
	answered := false

	app := kingpin.New("capability_exporter",
		"Prometheus exporter for the Linux kernel's capability checks. It needs CAP_BPF and CAP_PERFMON, and gives up all else at start.")
	app.UsageWriter(stdout)
	app.UsageTemplate(kingpin.LongHelpTemplate) // shows the default command's flags without its name
	app.ErrorWriter(io.Discard)                 // errors are returned, and printed once
	app.Terminate(func(int) { answered = true })
	app.Version(version.Print("capability_exporter"))
	app.HelpFlag.Short('h')
	promslogflag.AddFlags(app, cfg.log)
	app.Flag(privilege.UserFlag,
		"Whom to become, at once, where it was started as root: UID or UID:GID, by number. 0 stays root. Must stand on the command line itself.").
		PlaceHolder(cfg.user.String()).SetValue(&cfg.user)

	serve := app.Command("serve", "Count capability checks and serve them as metrics (the default).").Default()
	cfg.web = kingpinflag.AddFlags(serve, defaultListenAddress)
	serve.Flag("web.telemetry-path", "Path under which to expose metrics.").
		Default(defaultTelemetryPath).StringVar(&cfg.telemetryPath)
	serve.Flag("web.created-samples",
		"Add _created samples to OpenMetrics. A Prometheus that does not use them as zero samples stores each as a series of its own.").
		BoolVar(&cfg.createdSamples)
	serve.Flag("series.limit",
		fmt.Sprintf("How many series of workloads to count, %d to %d. What comes after that is counted under workload=\"_other\".", minSeriesLimit, maxSeriesLimit)).
		Default(fmt.Sprint(defaultSeriesLimit)).IntVar(&cfg.seriesLimit)

	serve.Flag("held.interval",
		fmt.Sprintf("How often to look which capabilities processes hold, %s or more. 0: never.", minHeldInterval)).
		Default(defaultHeldInterval.String()).DurationVar(&cfg.heldInterval)

	serve.Flag("kubernetes.pods-dir",
		"Folder of the pods' logs, by whose folders' names alone namespaces and pods are told. Empty: by none. What is there only later is not seen: start the exporter again.").
		Default(defaultPodsDir).StringVar(&cfg.podsDir)

	serve.Flag("privileges.keep",
		`What to keep once attached: "attach", CAP_BPF and CAP_PERFMON, or "none", neither, which takes a kernel that lets BPF maps be read without (Linux 5.19, or kernel.unprivileged_bpf_disabled=0).`).
		Default(keepAttach).StringVar(&cfg.keep)

	_, err := app.Parse(args)
	if answered {
		return nil, errAnswered
	}
	if err != nil {
		return nil, fmt.Errorf("%w, try --help", err)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// check refuses what the types of the flags alone let through.
func (c *config) check() error {
	if c.seriesLimit < minSeriesLimit || c.seriesLimit > maxSeriesLimit {
		return fmt.Errorf("--series.limit=%d: must be %d to %d", c.seriesLimit, minSeriesLimit, maxSeriesLimit)
	}
	if c.heldInterval != 0 && c.heldInterval < minHeldInterval {
		return fmt.Errorf("--held.interval=%s: must be %s or more, or 0 for never", c.heldInterval, minHeldInterval)
	}
	if c.keep != keepAttach && c.keep != keepNone {
		return fmt.Errorf("--privileges.keep=%q: must be %s or %s", c.keep, keepAttach, keepNone)
	}
	if c.podsDir != "" && (!path.IsAbs(c.podsDir) || c.podsDir != path.Clean(c.podsDir) || c.podsDir == "/") {
		return fmt.Errorf("--kubernetes.pods-dir=%q: must be a plain absolute path, such as %s, or empty", c.podsDir, defaultPodsDir)
	}
	if err := checkTelemetryPath(c.telemetryPath); err != nil {
		return fmt.Errorf("--web.telemetry-path=%q: %w", c.telemetryPath, err)
	}
	if err := web.Validate(*c.web.WebConfigFile); err != nil {
		return fmt.Errorf("--web.config.file=%q: %w%s", *c.web.WebConfigFile, oneLineError{err}, hintOf(err))
	}
	return nil
}

// hintOf says who may not read a file of the web configuration. It is read as
// whom root became, and again at each handshake.
func hintOf(err error) string {
	// The toolkit does not wrap all of its errors.
	if !errors.Is(err, fs.ErrPermission) && !strings.Contains(err.Error(), unix.EACCES.Error()) {
		return ""
	}
	uid, gid := os.Geteuid(), os.Getegid()
	return fmt.Sprintf("; it is read as uid %d, gid %d: let them read it (chgrp %d FILE && chmod g+r FILE), or start with --%s=UID:GID of who may (systemd: LoadCredential=)",
		uid, gid, gid, privilege.UserFlag)
}

// checkTelemetryPath says why a path cannot be served as one fixed page. The
// characters it allows mean nothing to http.ServeMux's patterns, nor to a
// URL.
func checkTelemetryPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return errors.New("must begin with /")
	case p == "/":
		return errors.New("is the landing page's path, choose another")
	case p != path.Clean(p):
		return fmt.Errorf("must be a plain path, such as %q", path.Clean(p))
	case p == "/-" || strings.HasPrefix(p, "/-/"):
		return errors.New("/-/ is kept for health and readiness, choose another")
	}
	for _, r := range p {
		if !strings.ContainsRune("/-._~", r) && !isAlphanumeric(r) {
			return fmt.Errorf("has %q, only letters, digits and /-._~ are allowed", r)
		}
	}
	return nil
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// oneLineError is an error without line breaks: what the YAML parser says of a
// wrong file is several lines long.
type oneLineError struct{ error }

func (e oneLineError) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e oneLineError) Unwrap() error { return e.error }
