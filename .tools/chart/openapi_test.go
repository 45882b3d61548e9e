package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// openAPI is what is said in OpenAPI of the types that objects are read into, by their names in Go: which fields there are, which
// there must be, and what may stand in them.
type openAPI struct{ *jsonschema.Compiler }

// ofClusters are those of the versions of Kubernetes, each with the Prometheus Operator's.
func ofClusters(t *testing.T) map[string]openAPI {
	t.Helper()
	operator, said := ofOperator(t), map[string]openAPI{}
	for version, c := range clusters {
		all := ofKubernetes(t, c.kubernetes)
		maps.Copy(all, operator)
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource("all.json", map[string]any{"$defs": all}); err != nil {
			t.Fatal(err)
		}
		said[version] = openAPI{compiler}
	}
	return said
}

func at(model string) string { return "#/$defs/" + strings.ReplaceAll(model, "/", "~1") }

func modelOf(object reflect.Type) string { return object.PkgPath() + "." + object.Name() }

// refuses is what of an object is not as it is said of its type.
func (o openAPI) refuses(t *testing.T, into any, text string) error {
	t.Helper()
	schema, err := o.Compile("all.json" + at(modelOf(reflect.TypeOf(into).Elem())))
	if err != nil {
		t.Fatal(err)
	}
	inJSON, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	object, err := jsonschema.UnmarshalJSON(strings.NewReader(string(inJSON)))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(object)
}

// ofKubernetes returns what an API server of a version says of all its types. The JSON beside it in the repository is for those who
// generate clients: it does not say what may stand in a field. So it is read where the server has it from, a file that openapi-gen
// has written in Go.
func ofKubernetes(t *testing.T, kubernetes module) map[string]any {
	t.Helper()
	path := filepath.Join(download(t, "k8s.io/kubernetes", kubernetes), "pkg/generated/openapi/zz_generated.openapi.go")
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	g := generated{T: t, packages: map[string]string{}}
	for _, imported := range file.Imports {
		if imported.Name != nil {
			g.packages[imported.Name.Name] = g.text(imported.Path)
		}
	}
	returned := map[string]ast.Expr{}
	for _, declaration := range file.Decls {
		if f, is := declaration.(*ast.FuncDecl); is {
			if body, is := f.Body.List[0].(*ast.ReturnStmt); is {
				returned[f.Name.Name] = body.Results[0]
			}
		}
	}
	list, is := returned["GetOpenAPIDefinitions"].(*ast.CompositeLit)
	if !is {
		t.Fatalf("Kubernetes %s does not list its types where it did", kubernetes.version)
	}
	all := map[string]any{}
	for _, element := range list.Elts {
		pair := element.(*ast.KeyValueExpr)
		all[g.model(pair.Key)] = g.definition(returned[pair.Value.(*ast.CallExpr).Fun.(*ast.Ident).Name])
	}
	return all
}

// generated is what openapi-gen has written: of each type a function, which returns a literal.
type generated struct {
	*testing.T

	packages map[string]string // their paths, by what they are called in it
}

// definition is a type's schema as JSON has it. For the few that say themselves what they are, as a time or an amount, there is no
// literal: what they are read into knows them.
func (g generated) definition(returned ast.Expr) any {
	if literal, is := returned.(*ast.CompositeLit); is {
		return g.schema(fields(literal)["Schema"])
	}
	return true
}

func (g generated) schema(literal ast.Expr) map[string]any {
	schema := map[string]any{}
	g.add(schema, literal)
	strict(schema)
	return schema
}

// add adds what a literal says. What is not known here might be what refuses something.
func (g generated) add(schema map[string]any, literal ast.Expr) {
	for name, value := range fields(literal) {
		switch name {
		case "SchemaProps":
			g.add(schema, value)
		case "Type", "Required", "Enum":
			if list, is := value.(*ast.CompositeLit); is { // else the type says it itself
				texts := make([]any, len(list.Elts))
				for i, text := range list.Elts {
					texts[i] = g.text(text)
				}
				schema[strings.ToLower(name)] = texts
			}
		case "Properties":
			properties := map[string]any{}
			for _, element := range value.(*ast.CompositeLit).Elts {
				pair := element.(*ast.KeyValueExpr)
				properties[g.text(pair.Key)] = g.schema(pair.Value)
			}
			schema["properties"] = properties
		case "Items":
			schema["items"] = g.schema(fields(value)["Schema"])
		case "AdditionalProperties":
			schema["additionalProperties"] = g.schema(fields(value)["Schema"])
		case "Ref":
			schema["$ref"] = at(g.model(value.(*ast.CallExpr).Args[0]))
		case "Description", "Format", "Default", "VendorExtensible":
		default:
			g.Fatalf("openapi-gen writes %s, and what that refuses is not known here", name)
		}
	}
}

// model is a type's name: a text, or what Type{}.OpenAPIModelName() stands for.
func (g generated) model(expr ast.Expr) string {
	call, is := expr.(*ast.CallExpr)
	if !is {
		return g.text(expr)
	}
	named := call.Fun.(*ast.SelectorExpr).X.(*ast.CompositeLit).Type.(*ast.SelectorExpr)
	return g.packages[named.X.(*ast.Ident).Name] + "." + named.Sel.Name
}

func (g generated) text(expr ast.Expr) string {
	text, err := strconv.Unquote(expr.(*ast.BasicLit).Value)
	if err != nil {
		g.Fatal(err)
	}
	return text
}

// fields are those of a literal, or of the one that is pointed to.
func fields(expr ast.Expr) map[string]ast.Expr {
	if pointer, is := expr.(*ast.UnaryExpr); is {
		expr = pointer.X
	}
	all := map[string]ast.Expr{}
	for _, element := range expr.(*ast.CompositeLit).Elts {
		pair := element.(*ast.KeyValueExpr)
		all[pair.Key.(*ast.Ident).Name] = pair.Value
	}
	return all
}

// strict has an object refuse what is none of its fields.
func strict(schema map[string]any) {
	if _, open := schema["additionalProperties"]; schema["properties"] != nil && !open && schema["x-kubernetes-preserve-unknown-fields"] != true {
		schema["additionalProperties"] = false
	}
}

// ofOperator returns what the Prometheus Operator's CustomResourceDefinitions say of its types, but for their rules in CEL. They are
// made of the types as the Operator makes them, by controller-gen.
func ofOperator(t *testing.T) map[string]any {
	t.Helper()
	all := map[string]any{}
	folder := t.TempDir()
	types := reflect.TypeFor[monitoring.PodMonitor]().PkgPath()
	if out, err := exec.CommandContext(t.Context(), "go", "tool", "controller-gen", "crd", "paths="+types, "output:crd:dir="+folder).CombinedOutput(); err != nil {
		t.Fatalf("controller-gen: %v\n%s", err, out)
	}
	for _, object := range []any{monitoring.PodMonitor{}, monitoring.ServiceMonitor{}, monitoring.PrometheusRule{}} {
		model := reflect.TypeOf(object)
		var definition struct {
			Spec struct {
				Versions []struct {
					Schema struct{ OpenAPIV3Schema map[string]any }
				}
			}
		}
		path := filepath.Join(folder, "monitoring.coreos.com_"+strings.ToLower(model.Name())+"s.yaml")
		if err := yaml.Unmarshal([]byte(read(t, path)), &definition); err != nil {
			t.Fatal(err)
		}
		if len(definition.Spec.Versions) != 1 {
			t.Fatalf("%s has %d versions", path, len(definition.Spec.Versions))
		}
		schema := definition.Spec.Versions[0].Schema.OpenAPIV3Schema
		strictBelow(schema)
		all[modelOf(model)] = schema
	}
	return all
}

// strictBelow has all objects of a schema refuse what is none of their fields.
func strictBelow(schema map[string]any) {
	strict(schema)
	below := []any{schema["items"], schema["additionalProperties"]}
	properties, _ := schema["properties"].(map[string]any)
	for _, property := range properties {
		below = append(below, property)
	}
	for _, one := range below {
		if one, is := one.(map[string]any); is {
			strictBelow(one)
		}
	}
}

// TestOpenAPI: an object is refused in each version once something is missing that there must be, or stands there that must not.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	type fault struct{ old, new, want string }
	table := map[string][]fault{
		`{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {a: b}}}`: {
			{"labels: {a: b}", "labels: {a: 1}", "at '/metadata/labels/a': got number, want string"},
			{"labels:", "label:", "additional properties 'label' not allowed"},
		},
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, automountServiceAccountToken: false}`: {
			{"automountServiceAccountToken: false", "automountServiceAccountToken: No way", "got string, want boolean"},
		},
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b}}`: {
			{"data: {a: b}", "data: {a: {b: c}}", "at '/data/a': got object, want string"},
		},
		`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ClusterIP, ports: [{port: 1, protocol: TCP}]}}`: {
			{"port: 1, ", "", "missing property 'port'"},
			{"type: ClusterIP", "type: Headless", "at '/spec/type': value must be one of"},
			{"protocol: TCP", "protocol: HTTP", "at '/spec/ports/0/protocol': value must be one of"},
		},
		`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {matchExpressions: [{key: a, operator: Exists}]}, policyTypes: [Ingress]}}`: {
			{"key: a, ", "", "missing property 'key'"},
			{"[Ingress]", "[Inwards]", "at '/spec/policyTypes/0': value must be one of"},
		},
		`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, updateStrategy: {type: RollingUpdate},
  template: {metadata: {labels: {a: b}}, spec: {dnsPolicy: ClusterFirst, tolerations: [{operator: Exists, effect: NoSchedule}], volumes: [{name: v, hostPath: {path: /v, type: Directory}}],
    containers: [{name: c, image: i, imagePullPolicy: Always, terminationMessagePolicy: File, env: [{name: E, value: e}], ports: [{containerPort: 1}], volumeMounts: [{name: v, mountPath: /v}],
      readinessProbe: {httpGet: {path: /, port: 1, scheme: HTTP}}, securityContext: {seccompProfile: {type: RuntimeDefault}}}]}}}}`: {
			{"selector: {matchLabels: {a: b}}, ", "", "missing property 'selector'"},
			{"template: {metadata: {labels: {a: b}}, spec:", "templates: {metadata: {labels: {a: b}}, spec:", "missing property 'template'"},
			{"type: RollingUpdate", "type: Foo", "at '/spec/updateStrategy/type': value must be one of"},
			{"containers: ", "initContainers: ", "missing property 'containers'"},
			{"name: c, ", "", "missing property 'name'"},
			{"imagePullPolicy: Always", "imagePullPolicy: Sometimes", "at '/spec/template/spec/containers/0/imagePullPolicy': value must be one of"},
			{"image: i,", "images: i,", "additional properties 'images' not allowed"},
			{"terminationMessagePolicy: File", "terminationMessagePolicy: Log", "/terminationMessagePolicy': value must be one of"},
			{"name: E, ", "", "missing property 'name'"},
			{"containerPort: 1", "hostPort: 1", "missing property 'containerPort'"},
			{", mountPath: /v", "", "missing property 'mountPath'"},
			{"{path: /v, type", "{type", "missing property 'path'"},
			{"type: Directory", "type: Folder", "/hostPath/type': value must be one of"},
			{"path: /, port: 1, ", "path: /, ", "missing property 'port'"},
			{"scheme: HTTP", "scheme: http", "/httpGet/scheme': value must be one of"},
			{"type: RuntimeDefault", "type: Default", "/seccompProfile/type': value must be one of"},
			{"{type: RuntimeDefault}", "{localhostProfile: p}", "missing property 'type'"},
			{"dnsPolicy: ClusterFirst", "dnsPolicy: Cluster", "/dnsPolicy': value must be one of"},
			{"operator: Exists", "operator: Is", "/operator': value must be one of"},
			{"effect: NoSchedule", "effect: Never", "/effect': value must be one of"},
		},
		`{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, podMetricsEndpoints: [{port: p, scheme: http, interval: 30s, relabelings: [{action: drop}]}]}}`: {
			{"selector: {matchLabels: {a: b}}, ", "", "missing property 'selector'"},
			{"action: drop", "action: discard", "/action': value must be one of"},
			{"scheme: http", "scheme: ftp", "/scheme': value must be one of"},
			{"interval: 30s", "interval: 30", "/interval': got number, want string"},
			{"interval: 30s", "interval: half a minute", "/interval': 'half a minute' does not match pattern"},
			{"port: p", "ports: p", "additional properties 'ports' not allowed"},
		},
		`{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, endpoints: [{port: p, scheme: http, metricRelabelings: [{action: keep}]}]}}`: {
			{"endpoints: ", "endpoint: ", "missing property 'endpoints'"},
			{"selector: {matchLabels: {a: b}}, ", "", "missing property 'selector'"},
			{"action: keep", "action: stay", "/action': value must be one of"},
			{"scheme: http", "scheme: ftp", "/scheme': value must be one of"},
		},
		`{apiVersion: monitoring.coreos.com/v1, kind: PrometheusRule, metadata: {name: a}, spec: {groups: [{name: g, rules: [{alert: A, expr: up, for: 5m}]}]}}`: {
			{"name: g, ", "", "missing property 'name'"},
			{"expr: up, ", "", "missing property 'expr'"},
			{"for: 5m", "for: five minutes", "/for': 'five minutes' does not match pattern"},
			{"expr: up", "exprs: up", "additional properties 'exprs' not allowed"},
		},
	}
	for version, said := range ofClusters(t) {
		for sound, faults := range table {
			into, _ := knownAs(kindOf(t, sound))
			if err := said.refuses(t, into, sound); err != nil {
				t.Errorf("Kubernetes 1.%s does not take what has no fault: %v\n%s", version, err, sound)
			}
			for _, f := range faults {
				if strings.Count(sound, f.old) != 1 {
					t.Fatalf("%q is not there once in\n%s", f.old, sound)
				}
				if err := said.refuses(t, into, strings.Replace(sound, f.old, f.new, 1)); err == nil || !strings.Contains(err.Error(), f.want) {
					t.Errorf("Kubernetes 1.%s: with %q in place of %q: %v\nwant %s", version, f.new, f.old, err, f.want)
				}
			}
		}
	}
}
