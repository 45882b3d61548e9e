package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
		fire(t, address, append(test.told, test.silent, test.source)...)
		for until := time.Now().Add(10 * time.Second); !inhibited(t, address, test.silent); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%s does not silence %s", test.source, test.silent)
			}
		}
		for _, told := range test.told {
			if inhibited(t, address, told) {
				t.Errorf("%s silences %s", test.source, told)
			}
		}
	}
}

// fire has Alertmanager know of alerts, which are given by their labels.
func fire(t *testing.T, address string, alerts ...string) {
	t.Helper()
	for _, alert := range alerts {
		amtool(t, address, append([]string{"alert", "add"}, strings.Fields(alert)...)...)
	}
}

// inhibited tells whether another alert silences this one.
func inhibited(t *testing.T, address, alert string) bool {
	t.Helper()
	var alerts []struct {
		Labels map[string]string `json:"labels"`
		Status struct {
			InhibitedBy []string `json:"inhibitedBy"`
		} `json:"status"`
	}
	args := []string{"alert", "query", "--output=json", "--active", "--inhibited"}
	if err := json.Unmarshal([]byte(amtool(t, address, append(args, strings.Fields(alert)...)...)), &alerts); err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		if len(a.Labels) == len(strings.Fields(alert)) {
			return len(a.Status.InhibitedBy) > 0
		}
	}
	t.Fatalf("Alertmanager does not know %s: %+v", alert, alerts)
	return false
}

func amtool(t *testing.T, address string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program(t, "amtool"), append(args, "--alertmanager.url=http://"+address)...).Output()
	if err != nil {
		t.Fatalf("amtool %q: %v\n%s", args, err, out)
	}
	return string(out)
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
	address = freeAddress(t)
	p := start(t, exec.CommandContext(t.Context(), program(t, "alertmanager"), "--config.file="+filepath.Join(dir, "alertmanager.yml"),
		"--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--cluster.listen-address=", "--log.level=warn"))
	p.scrape(t, address)
	return address, notifications
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
