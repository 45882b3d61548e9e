package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRoutes: only what is critical reaches a pager, and what is for the
// dashboard nobody.
func TestRoutes(t *testing.T) {
	t.Parallel()
	for labels, want := range map[string]string{
		"alertname=CapabilitySysAdminFirstUse severity=critical": "page",
		"alertname=CapabilityExporterDown severity=warning":      "ticket",
		"alertname=CapabilityDenied severity=info":               "nobody",
		"alertname=DiskFull severity=critical":                   "nobody", // others have routes of their own
	} {
		args := append([]string{"config", "routes", "test", "--config.file=prometheus/alertmanager.yml"}, strings.Fields(labels)...)
		out, err := exec.CommandContext(t.Context(), program(t, "amtool"), args...).Output()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s go to %q, %v; want %q", labels, out, err, want)
		}
	}
}

// TestInhibited: what goes without saying is silent in its own place, and nowhere else. amtool does not try inhibition.
func TestInhibited(t *testing.T) {
	t.Parallel()
	address, _ := startAlertmanager(t)
	for _, test := range []struct {
		source, silent string
		told           []string // each differs from what is silent in one thing
	}{
		{
			"alertname=CapabilityExporterAbsent cluster=east", "alertname=CapabilityExporterDown cluster=east instance=a",
			[]string{"alertname=CapabilityExporterDown cluster=west instance=a", "alertname=CapabilityExporterOverflow cluster=east instance=a"},
		},
		{
			"alertname=CapabilityExporterAbsent cluster=east", "alertname=CapabilityExporterMissing cluster=east node=a",
			[]string{"alertname=CapabilityExporterMissing cluster=west node=a", "alertname=CapabilityExporterMissing node=a"},
		},
		{
			"alertname=CapabilityExporterAbsent cluster=east", "alertname=CapabilityMemoryMissing cluster=east",
			[]string{"alertname=CapabilityMemoryMissing cluster=west"},
		},
		{
			"alertname=CapabilityExporterDown cluster=south job=j instance=a", "alertname=CapabilityExporterMissing cluster=south node=a instance=a",
			[]string{
				"alertname=CapabilityExporterMissing cluster=south node=b instance=b", "alertname=CapabilityExporterMissing cluster=southwest node=a instance=a",
				"alertname=CapabilityExporterOverflow cluster=south job=j instance=a",
			},
		},
		// Where there is one cluster, which has no name.
		{
			"alertname=CapabilityExporterAbsent job=capability_exporter", "alertname=CapabilityExporterDown job=capability_exporter instance=a",
			[]string{"alertname=CapabilityExporterDown cluster=north job=capability_exporter instance=a"},
		},
		{
			"alertname=CapabilityExporterOverflow cluster=east job=j instance=a", "alertname=CapabilityExporterEviction cluster=east job=j instance=a",
			[]string{"alertname=CapabilityExporterEviction cluster=east job=j instance=b", "alertname=CapabilityExporterEviction cluster=west job=j instance=a"},
		},
		{
			"alertname=CapabilityExporterOverflow cluster=east job=j instance=a", "alertname=CapabilityExporterSeriesNearLimit cluster=east job=j instance=a",
			[]string{"alertname=CapabilityExporterSeriesNearLimit cluster=east job=j instance=b", "alertname=CapabilityExporterRingLoss cluster=east job=j instance=a"},
		},
	} {
		for _, alert := range append(test.told, test.silent, test.source) {
			fire(t, address, labelsIn(alert))
		}
		inhibited := func(alert string) bool { return len(statusOf(t, address, labelsIn(alert)).InhibitedBy) > 0 }
		for until := time.Now().Add(10 * time.Second); !inhibited(test.silent); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%s does not silence %s", test.source, test.silent)
			}
		}
		for _, told := range test.told {
			if inhibited(told) {
				t.Errorf("%s silences %s", test.source, told)
			}
		}
	}
}

// labelsIn are labels as amtool takes them: NAME=VALUE, none with a space in it.
func labelsIn(text string) map[string]string {
	all := map[string]string{}
	for field := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(field, "=")
		all[name] = value
	}
	return all
}

// fire has Alertmanager know of an alert, which is given by its labels.
func fire(t *testing.T, address string, alert map[string]string) {
	t.Helper()
	body, err := json.Marshal([]any{map[string]any{"labels": alert}})
	if err != nil {
		t.Fatal(err)
	}
	request(t, http.MethodPost, "http://"+address+"/api/v2/alerts", bytes.NewReader(body), nil)
}

// alertStatus says why Alertmanager does not tell of an alert.
type alertStatus struct {
	InhibitedBy []string `json:"inhibitedBy"` // other alerts
	SilencedBy  []string `json:"silencedBy"`
}

func statusOf(t *testing.T, address string, alert map[string]string) alertStatus {
	t.Helper()
	var all []struct {
		Labels map[string]string `json:"labels"`
		Status alertStatus       `json:"status"`
	}
	request(t, http.MethodGet, "http://"+address+"/api/v2/alerts", nil, &all)
	for _, a := range all {
		if maps.Equal(a.Labels, alert) {
			return a.Status
		}
	}
	t.Fatalf("Alertmanager does not know %v", alert)
	return alertStatus{}
}

func request(t *testing.T, method, url string, body io.Reader, into any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v\n%s", method, url, answer.Status, err, text)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
}

// A notification is what Alertmanager sends to a webhook.
type notification struct {
	receiver string          // the end of the URL
	Status   string          `json:"status"`
	Alerts   []notifiedAlert `json:"alerts"`
}

type notifiedAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// receiver takes what Alertmanager tells.
func receiver(t *testing.T, told chan<- notification) http.Handler {
	t.Helper()
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n := notification{receiver: strings.TrimPrefix(r.URL.Path, "/")}
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Errorf("a notification: %v", err)
		}
		told <- n
	})
}

// startAlertmanager runs a real one with the example configuration, which waits
// as much less as the rules do. It returns its address, and what it tells.
func startAlertmanager(t *testing.T) (address string, told <-chan notification) {
	t.Helper()
	notifications := make(chan notification, 1000)
	webhook := httptest.NewServer(receiver(t, notifications))
	t.Cleanup(webhook.Close)
	config := shorten(strings.ReplaceAll(read(t, "prometheus/alertmanager.yml"), "http://localhost:9095", webhook.URL))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "alertmanager.yml"), config)
	return runAlertmanager(t, program(t, "alertmanager"), filepath.Join(dir, "alertmanager.yml")), notifications
}

// runAlertmanager runs that one, and returns its address once it is ready.
func runAlertmanager(t *testing.T, binary, config string) (address string) {
	t.Helper()
	address = freeAddress(t)
	p := start(t, exec.CommandContext(t.Context(), binary, "--config.file="+config,
		"--storage.path="+t.TempDir(), "--web.listen-address="+address, "--cluster.listen-address=", "--log.level=warn"))
	p.scrape(t, address)
	return address
}

// checkPage waits until a page tells of a program, and sees that it says what
// somebody who is woken up by it needs: who, where, and what for.
func checkPage(t *testing.T, prometheus *prometheusServer, told <-chan notification, process, instance string) {
	t.Helper()
	prometheus.process.eventually(t, func(context.Context) error {
		select {
		case n := <-told:
			for _, alert := range n.Alerts {
				if alert.Labels["alertname"] != "CapabilitySysAdminFirstUse" || alert.Labels["process"] != process {
					continue
				}
				if n.receiver != "page" || n.Status != "firing" {
					t.Errorf("%s to %s", n.Status, n.receiver)
				}
				if want := fmt.Sprintf("%q of ", process); !strings.HasPrefix(alert.Annotations["summary"], want) ||
					!strings.HasSuffix(alert.Annotations["summary"], " used CAP_SYS_ADMIN for the first time") {
					t.Errorf("the summary is %q", alert.Annotations["summary"])
				}
				if text := alert.Annotations["description"]; !strings.Contains(text, " on "+instance+" (asked for on that machine by ") {
					t.Errorf("the description does not say where, or not what for: %q", text)
				}
				if alert.Annotations["runbook"] == "" {
					t.Error("nothing says what to do")
				}
				return nil
			}
			return fmt.Errorf("not told yet: %+v", n)
		default:
			return errors.New("nothing is told")
		}
	})
}
