package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write what is told to testdata")

// TestEndToEnd follows a program that is new from the kernel to whoever is on
// call: the real exporter, a real Prometheus and a real Alertmanager, with the
// configuration, rules and routes that are shipped, and between all of them TLS
// and passwords. Of three nodes two, which are made up, are another cluster's. The
// program is new on all three at one time: each cluster is told once, who, where
// and what for.
func TestEndToEnd(t *testing.T) {
	needsRoot(t)
	exporter := buildExporter(t)
	eachPrometheus(t, func(t *testing.T, path func(name string) string) { endToEnd(t, exporter, path) })
}

// endToEnd uses this exporter, and the Prometheus and the Alertmanager that are at these paths.
func endToEnd(t *testing.T, program string, path func(name string) string) {
	t.Helper()
	s := newSecrets(t)
	told := make(chan notification, 1000)
	// First, for what it takes to start it here is a use of CAP_SYS_ADMIN, too.
	manager := s.startAlertmanager(t, path("alertmanager"), s.serve(t, "pager", receiver(t, told)))
	exporter := s.startExporter(t, program)
	fleet, appear := s.serveFleet(t)
	prometheus := s.startPrometheus(t, path("prometheus"), manager, exporter, fleet)
	_, ownAddress, _ := strings.Cut(strings.TrimSuffix(prometheus.api, "/api/v1/"), "@")
	for _, address := range []string{manager, exporter, ownAddress} {
		if _, err := requestBy(t.Context(), s.client, http.MethodGet, "https://"+address+"/metrics"); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("asked without a password %s answers: %v", address, err)
		}
	}

	appear()
	runIn(t, "backup-test.service", "newcomer")
	pages := map[string]string{} // what each cluster is told
	prometheus.process.eventually(t, func(context.Context) error {
		for {
			select {
			case n := <-told:
				note(t, pages, n)
			default:
				if len(pages) == 2 {
					return nil
				}
				return fmt.Errorf("told so far: %q", pages)
			}
		}
	})
	for over := time.After(4 * time.Second); over != nil; { // longer than Alertmanager waits before it tells more of one group
		select {
		case n := <-told:
			note(t, pages, n)
		case <-over:
			over = nil
		}
	}
	if alerts := prometheus.number(t, `count(ALERTS{alertstate="firing", process="newcomer"})`); alerts != 2 {
		t.Errorf("%v alerts of a program that is new in two clusters", alerts)
	}
	var text strings.Builder
	for _, cluster := range slices.Sorted(maps.Keys(pages)) {
		text.WriteString(pages[cluster])
	}
	golden(t, "notifications.txt", sitesHere.ReplaceAllString(text.String(), "(asked for on that machine by unshare_nsproxy_namespaces)"))
}

// sitesHere are the program's call site, which the compiler may have taken into its caller, and those of whoever else is busy on
// this machine.
var sitesHere = regexp.MustCompile(`\(asked for on that machine by( \w+)* (unshare_nsproxy_namespaces|ksys_unshare)( \w+)*\)`)

// note keeps what a cluster is told of the new program. It is told of others that are new on this machine, too, which may be
// anybody's, and then of all once more.
func note(t *testing.T, pages map[string]string, n notification) {
	t.Helper()
	ours := slices.DeleteFunc(slices.Clone(n.Alerts), func(alert notifiedAlert) bool { return alert.Labels["process"] != "newcomer" })
	if len(ours) == 0 {
		return
	}
	cluster, others := ours[0].Labels["cluster"], len(n.Alerts) > len(ours)
	if len(ours) > 1 || pages[cluster] != "" && !others {
		t.Errorf("cluster %s is told more than once: %+v", cluster, n)
	}
	pages[cluster] = n.text(ours[0])
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, path); got != want {
		t.Errorf("it differs from %s (go test -update rewrites that); it is\n%s", path, got)
	}
}

// text is what a notification says of an alert.
func (n notification) text(alert notifiedAlert) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s\n", n.receiver, n.Status)
	for _, about := range []map[string]string{alert.Labels, alert.Annotations} {
		for _, key := range slices.Sorted(maps.Keys(about)) {
			fmt.Fprintf(&text, "  %s: %s\n", key, about[key])
		}
	}
	return text.String()
}

// secrets are a certificate that all servers have, and the name and password
// that each of them asks for.
type secrets struct {
	dir    string       // cert.pem, key.pem and configurations
	client *http.Client // trusts the certificate
}

func newSecrets(t *testing.T) *secrets {
	t.Helper()
	s := &secrets{dir: worldReadableDir(t)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, s.path("cert.pem"), string(certificate))
	write(t, s.path("key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

func (s *secrets) path(name string) string { return filepath.Join(s.dir, name) }

// of is the user and the password that a server asks for.
func (*secrets) of(server string) (user, password string) {
	return "of-" + server, "secret of " + server
}

// webConfig is the file for --web.config.file, which exporter-toolkit gives all of them.
func (s *secrets) webConfig(t *testing.T, server string) string {
	t.Helper()
	user, password := s.of(server)
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := s.path(server + ".web.yml")
	write(t, path, fmt.Sprintf("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\nbasic_auth_users: {%s: '%s'}\n", user, hash))
	return path
}

// clientConfig is what Prometheus and Alertmanager need to know to ask a server.
func (s *secrets) clientConfig(server, indent string) string {
	user, password := s.of(server)
	return fmt.Sprintf("tls_config: {ca_file: %s}\n%sbasic_auth: {username: %s, password: %s}\n", s.path("cert.pem"), indent, user, password)
}

// url has the user and password that a server asks for in it.
func (s *secrets) url(server, address string) string {
	user, password := s.of(server)
	return (&url.URL{Scheme: "https", User: url.UserPassword(user, password), Host: address}).String()
}

// ready waits until a server that was started is ready.
func (s *secrets) ready(t *testing.T, p *process, server, address string) {
	t.Helper()
	p.eventually(t, func(ctx context.Context) error {
		_, err := requestBy(ctx, s.client, http.MethodGet, s.url(server, address)+"/-/ready")
		return err
	})
}

// serve serves to whoever knows the password, and returns the address.
func (s *secrets) serve(t *testing.T, server string, handler http.Handler) string {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(s.path("cert.pem"), s.path("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	want, wanted := s.of(server)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != want || password != wanted {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	web.StartTLS()
	t.Cleanup(web.Close)
	return web.Listener.Addr().String()
}

func (s *secrets) startAlertmanager(t *testing.T, binary, pager string) string {
	t.Helper()
	config := replace(t, read(t, "prometheus/alertmanager.yml"), map[string]string{
		"http://localhost:9095": "https://" + pager,
		// Six seconds: longer than it takes until both nodes of the one cluster have been scraped.
		"group_wait: 30s": fmt.Sprintf("group_wait: %ds", 6*speedup),
	})
	write(t, s.path("alertmanager.yml"), shorten(config)+"global:\n  http_config:\n    "+s.clientConfig("pager", "    "))
	address := freeAddress(t)
	p := start(t, exec.CommandContext(t.Context(), binary, "--config.file="+s.path("alertmanager.yml"),
		"--storage.path="+t.TempDir(), "--web.listen-address="+address, "--web.config.file="+s.webConfig(t, "alertmanager"),
		"--cluster.listen-address=", "--log.level=warn"))
	s.ready(t, p, "alertmanager", address)
	return address
}

func (s *secrets) startExporter(t *testing.T, binary string) string {
	t.Helper()
	address, config := freeAddress(t), s.webConfig(t, "exporter")
	for _, path := range []string{s.path("cert.pem"), s.path("key.pem"), config} {
		if err := os.Chown(path, 65534, 65534); err != nil { // whom the exporter becomes
			t.Fatal(err)
		}
	}
	p := start(t, exec.CommandContext(t.Context(), binary, "--web.listen-address="+address, "--web.config.file="+config))
	s.ready(t, p, "exporter", address)
	return address
}

// theFive are uses of what the rules remember.
var theFive = regexp.MustCompile(`(?m)^capability_(workload|call_site)_checks_total\{.*capability="CAP_SYS_(ADMIN|MODULE|RAWIO|BOOT|PTRACE)",.*result="granted".*\n`)

// serveFleet serves the pages of nodes that Prometheus is to think of as of
// exporters, and returns their address. Once appear is called a program is there, in a
// pod of each.
func (s *secrets) serveFleet(t *testing.T) (address string, appear func()) {
	t.Helper()
	page := theFive.ReplaceAllString(read(t, "../exporter/testdata/node.txt"), "") // whoever was there before is known
	pod := regexp.MustCompile(`capability_workload_info\{.*pod="web-.*workload="(pod/[^"]+)"`).FindStringSubmatch(page)
	if pod == nil {
		t.Fatal("the node's page has no pod web")
	}
	before := newServedNodes(page)
	after := newServedNodes(page + fmt.Sprintf(`capability_workload_checks_total{capability="CAP_SYS_ADMIN",process="newcomer",result="granted",scope="host",workload=%q} 1
capability_call_site_checks_total{audited="yes",call_site="path_mount",capability="CAP_SYS_ADMIN",result="granted"} 1
`, pod[1]))
	var appeared atomic.Bool
	address = s.serve(t, "exporter", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if appeared.Load() {
			after.ServeHTTP(w, r)
		} else {
			before.ServeHTTP(w, r)
		}
	}))
	return address, func() { appeared.Store(true) }
}

func (s *secrets) startPrometheus(t *testing.T, binary, manager, exporter, fleet string) *prometheusServer {
	t.Helper()
	data, address := t.TempDir(), freeAddress(t)
	config := replace(t, read(t, "prometheus/prometheus.yml"), map[string]string{
		"15s": "1s",
		"    - static_configs:\n        - targets: [\"localhost:9093\"]\n": "    - scheme: https\n      " + s.clientConfig("alertmanager", "      ") +
			"      static_configs: [{targets: [\"" + manager + "\"]}]\n",
		"    static_configs:\n      - targets: [\"localhost:10041\"]\n": "    scheme: https\n    " + s.clientConfig("exporter", "    ") +
			"    static_configs:\n" +
			"      - {targets: [\"" + exporter + "\"], labels: {cluster: east, instance: node-1}}\n" +
			"      - {targets: [\"" + fleet + "\"], labels: {cluster: west, instance: node-2, __metrics_path__: /2}}\n" +
			"      - {targets: [\"" + fleet + "\"], labels: {cluster: west, instance: node-3, __metrics_path__: /3}}\n",
		"    static_configs:\n      - targets: [\"localhost:9090\"]\n": "    scheme: https\n    " + s.clientConfig("prometheus", "    ") +
			"    static_configs: [{targets: [\"" + address + "\"]}]\n",
	})
	write(t, s.path("prometheus.yml"), config)
	rules := read(t, "prometheus/rules.yml")
	rules = replace(t, rules, map[string]string{
		"'RUNBOOK.md#": "'https://wiki.example/capabilities#", "'/d/": "'https://grafana.example/d/", // as by the mixin's flags
		"20m": fmt.Sprintf("%dm", 20*speedup), // what was done of late is told, however long it takes here
	})
	write(t, s.path("rules.yml"), shorten(rules))
	write(t, s.path("owners.yml"), shorten(read(t, "prometheus/owners.yml")))
	remember(t, data, `{cluster="east"}`, `{cluster="west"}`)
	p := &prometheusServer{api: s.url("prometheus", address) + "/api/v1/", client: s.client}
	// After four of these delays without a word Alertmanager takes an alert for one that is over: this machine may be busy for some time.
	p.process = start(t, exec.CommandContext(t.Context(), binary,
		"--config.file="+s.path("prometheus.yml"), "--storage.tsdb.path="+data,
		"--web.listen-address="+address, "--web.config.file="+s.webConfig(t, "prometheus"),
		"--rules.alert.resend-delay=2s", "--log.level=warn"))
	p.process.eventually(t, func(ctx context.Context) error {
		return p.hasData(ctx, `count(up{job="capability_exporter"} == 1) == 3 and on () count(cluster:capability_granted:since_seconds) == 2`, true)
	})
	return p
}

// runIn has a program of a name that nobody has had use CAP_SYS_ADMIN in a unit's cgroup.
func runIn(t *testing.T, unit, name string) {
	t.Helper()
	cgroup := ""
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.subtree_control")); err == nil {
			cgroup = filepath.Join(root, unit)
		}
	}
	if cgroup == "" {
		skip(t, "no cgroup v2 is mounted where this test looks for it")
	}
	if err := os.Mkdir(cgroup, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Rmdir(cgroup); err != nil {
			t.Error(err)
		}
	})
	into, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer into.Close()
	path := filepath.Join(worldReadableDir(t), name)
	if err := os.WriteFile(path, []byte(read(t, program(t, "unshare"))), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, newMounts...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(into.Fd())}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
