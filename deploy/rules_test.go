package deploy

import (
	"maps"
	"slices"
	"testing"

	"go.yaml.in/yaml/v2"
)

// TestAlerts: promtool's tests (`make check-rules`) can only fail for alerts
// that they name. Each alert must be seen to fire and not to fire, must say how
// bad it is and what to do, and only one may page for what workloads do.
func TestAlerts(t *testing.T) {
	t.Parallel()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert       string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	parse(t, "prometheus/rules.yml", &rules)
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	parse(t, "prometheus/rules_test.yml", &tests)

	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, alert := range test.AlertRuleTest {
			if len(alert.ExpAlerts) > 0 {
				fires[alert.Alertname] = true
			} else {
				silent[alert.Alertname] = true
			}
		}
	}
	pages := map[string]bool{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if !fires[rule.Alert] || !silent[rule.Alert] {
				t.Errorf("%s is tested to fire: %t, not to fire: %t", rule.Alert, fires[rule.Alert], silent[rule.Alert])
			}
			for _, key := range []string{"summary", "description", "runbook"} {
				if rule.Annotations[key] == "" {
					t.Errorf("%s has no %s", rule.Alert, key)
				}
			}
			switch rule.Labels["severity"] {
			case "critical":
				pages[rule.Alert] = true
			case "warning", "info":
			default:
				t.Errorf("%s: severity %q", rule.Alert, rule.Labels["severity"])
			}
		}
	}
	want := []string{"CapabilityExporterAbsent", "CapabilitySysAdminFirstUse"}
	if got := slices.Sorted(maps.Keys(pages)); !slices.Equal(got, want) {
		t.Errorf("paging: %q, want %q", got, want)
	}
}

func parse(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
