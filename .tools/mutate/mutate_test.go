package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sum is a package whose one test sees that the sum is right, and not in which
// order it is formed.
var sum = map[string]string{
	"go.mod":      "module capability_exporter\n\ngo 1.24\n",
	"sum.go":      "package sum\n\n// Sum adds.\nfunc Sum(a, b int) int {\n\tx := a\n\treturn x + b\n}\n",
	"sum_test.go": "package sum\n\nimport \"testing\"\n\nfunc TestSum(t *testing.T) {\n\tif Sum(1, 2) != 3 {\n\t\tt.Error(\"wrong\")\n\t}\n}\n",
}

// checkout makes a repository of the files and goes there.
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}} {
		git := exec.CommandContext(t.Context(), "git", args...)
		git.Dir = dir
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	t.Chdir(dir)
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// mutateWith runs the whole program on a list, and returns what it prints.
func mutateWith(t *testing.T, list string, args ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "faults.txt")
	write(t, file, list)
	var out strings.Builder
	err := run(t.Context(), append([]string{"-file", file}, args...), &out)
	return out.String(), err
}

func TestVerdicts(t *testing.T) {
	const command = "go test -run '^TestSum$' ."
	tests := map[string]struct {
		line string
		want string // in what is printed or in the error
		ok   bool
	}{
		"seen by the test":            {"sum.go | x + b | x - b | " + command + " | sums", "caught ", true},
		"seen by no test":             {"sum.go | x + b | b + x | " + command + " | the order", "SURVIVED ", false},
		"seen by no test, and why":    {"sum.go | x + b | b + x | " + command + " | the order | addition commutes", "addition commutes", true},
		"seen in spite of the reason": {"sum.go | x + b | x - b | " + command + " | sums | nobody adds", "though the line says that no test can see it: nobody adds", true},
		"over two lines":              {"sum.go | a⏎\treturn x + b | b⏎\treturn x + b | " + command + " | sums", "caught ", true},
		"does not compile":            {"sum.go | x + b | x + c | " + command + " | sums", "does not compile", false},
		"must not compile":            {"sum.go | x + b | x + c | " + command + " | sums | build", "caught ", true},
		"vet refuses it":              {"sum_test.go | t.Error(\"wrong\") | t.Errorf(\"%d\", \"wrong\") | " + command + " | the test", "does not compile", false},
		"must not compile, but does":  {"sum.go | x + b | x - b | " + command + " | sums | build", "it compiles", false},
		"gone":                        {"sum.go | x * b | x - b | " + command + " | sums", `holds "x * b" 0 times`, false},
		"ambiguous":                   {"sum.go | x | y | " + command + " | sums", `holds "x" 2 times`, false},
		"no such file":                {"product.go | x | y | " + command + " | sums", "there is no product.go", false},
		"no such test":                {"sum.go | x + b | x - b | go test -run '^TestSums$' . | sums", "it ran no test", false},
		"no test in the package":      {"sum.go | x + b | x - b | rm sum_test.go && go test . | sums", "it ran no test", false},
		"red before":                  {"sum.go | x + b | x - b | echo looked; false | sums", "is not green: it failed\n    looked", false},
		"hangs":                       {"sum.go | x + b | x - b | if grep -q 'x - b' sum.go; then sleep 60; fi | sums", "did not end in time", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			checkout(t, sum)
			timeout := "-timeout=2m"
			if name == "hangs" {
				timeout = "-timeout=2s"
			}
			out, err := mutateWith(t, test.line+"\n", timeout)
			said := out
			if err != nil {
				said += err.Error()
			}
			if (err == nil) != test.ok || !strings.Contains(said, test.want) {
				t.Errorf("returns %v, and not %q in:\n%s", err, test.want, said)
			}
		})
	}
}

// The tests of a package are green or not all at once.
func TestTogether(t *testing.T) {
	list := "a.go | 1 | 2 | go test ./a -run '^TestOne$' | x\n" +
		"a.go | 2 | 3 | go test ./a -run '^TestTwo$' | x\n" +
		"a.go | 3 | 4 | go test ./a -run '^TestOne$' | x\n" +
		"b.go | 1 | 2 | go test ./b -run '^TestOne$' | x\n" +
		"b.go | 2 | 3 | go test ./b | x\n" +
		"c.h | 1 | 2 | cd c && go test ./c -run '^TestOne$' | x\n"
	faults, problems := parse(list)
	if problems != nil {
		t.Fatal(problems)
	}
	want := []string{"go test ./b", generate, "cd c && go test ./c -run '^TestOne$'", "go test ./a -run '^TestOne$|^TestTwo$'"}
	if got := together(faults); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Each fault is alone: the one before is taken out, and the checkout itself is
// never touched. What is edited or new, and not committed, is what is tested.
func TestOneAtATime(t *testing.T) {
	dir := checkout(t, sum)
	edited := strings.Replace(sum["sum.go"], "x + b", "x + b + 0", 1)
	write(t, filepath.Join(dir, "sum.go"), edited)
	write(t, filepath.Join(dir, ".gitignore"), "notes\n")
	write(t, filepath.Join(dir, "notes"), "ignored")
	write(t, filepath.Join(dir, "new_test.go"), "package sum\n\nimport \"testing\"\n\nfunc TestNew(*testing.T) {}\n")
	list := "sum.go | + b | - b | go test . | sums\n" +
		"sum.go | + 0 | - 0 | go test . | zero\n" +
		"sum.go | x := a | x := b | test ! -e notes; go test -run '^TestNew$' . | sums\n"
	out, err := mutateWith(t, list)
	if err == nil || !strings.Contains(out, "mutate: 3 faults: 1 caught, 2 survived, 0 cannot matter, 0 wrong lines") {
		t.Errorf("%v\n%s", err, out)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "sum.go")); err != nil || string(content) != edited {
		t.Errorf("the checkout holds %q, %v", content, err)
	}
	if out, err := mutateWith(t, list, "-run", "zero|sums$", "-check"); err != nil || out != "mutate: 3 faults fit the tree\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := mutateWith(t, list, "-run", "x := a"); err == nil || !strings.Contains(out, "mutate: 1 faults: 0 caught, 1 survived") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := mutateWith(t, list, "-run", "nothing like it"); err == nil {
		t.Error("nothing was run, and that passes")
	}
}

// For a fault in C the objects are compiled again, and put back afterwards: the
// last line would otherwise see what the first has left.
func TestBPF(t *testing.T) {
	files := map[string]string{
		"Makefile":           "generate:\n\tgrep -v syntax bpf/x.h > bpf/x_bpfel.o\n",
		"bpf/x.h":            "one\n",
		"bpf/x_bpfel.o":      "one\n",
		"bpf/other.txt":      "two\n",
		"bpf/internal/y.txt": "three\n",
	}
	checkout(t, files)
	out, err := mutateWith(t, "bpf/x.h | one | four | grep -qx one bpf/x_bpfel.o | an object\n"+
		"bpf/other.txt | two | five | grep -qx one bpf/x_bpfel.o | nothing\n")
	if err == nil || !strings.Contains(out, "1 caught, 1 survived") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = mutateWith(t, "bpf/x.h | one | syntax | grep -qx one bpf/x_bpfel.o | an object\n")
	if err == nil || !strings.Contains(out, "does not compile") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCheck(t *testing.T) {
	checkout(t, sum)
	list := "# a comment\n\nsum.go | x + b | x - b | false | sums\n"
	if out, err := mutateWith(t, list, "-check"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	list += "sum.go | x + c | x - c | false | sums\nsum.go | x * c | x - c | false | sums\n"
	_, err := mutateWith(t, list, "-check")
	if err == nil {
		t.Fatal("stale lines fit")
	}
	for _, want := range []string{"2 of 3", "line 4: ", "line 5: ", `"x + c" 0 times`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestParse(t *testing.T) {
	faults, problems := parse("a.go | x \\| y | ⏎\tz | run it | all | \n" + "b.go | x |  | run it | all | why not\n" + "c.go | x | y | run it | all | build\n")
	if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), "line 1: the reason is empty") {
		t.Errorf("%v", problems)
	}
	if len(faults) != 2 || faults[0].new != "" || faults[0].reason != "why not" || faults[0].build || faults[0].line != 2 ||
		faults[1].reason != "" || !faults[1].build {
		t.Errorf("%+v", faults)
	}
	faults, problems = parse("a.go | x \\| y | ⏎\tz \\| | run it \\| less | all\n")
	if len(problems) > 0 || len(faults) != 1 || faults[0].old != "x | y" || faults[0].new != "\n\tz \\|" || faults[0].command != "run it | less" {
		t.Errorf("%+v, %v", faults, problems)
	}
	for line, want := range map[string]string{
		"a.go | x | y | run it":                                         "4 fields",
		"a.go | x | y | run it | all | why | more":                      "7 fields",
		"a.go |  | y | run it | all":                                    "is empty",
		" | x | y | run it | all":                                       "is empty",
		"a.go | x | y |  | all":                                         "is empty",
		"a.go | x | y | run it | ":                                      "is empty",
		"a.go | x | x | run it | all":                                   "the new text is the old one",
		"a.go | x | y | run it | all\na.go | x | y | run others | none": "line 2: the same fault stands in line 1",
	} {
		if _, problems := parse(line); len(problems) != 1 || !strings.Contains(problems[0].Error(), want) {
			t.Errorf("%q: %v, want %q", line, problems, want)
		}
	}
	checkout(t, sum)
	if _, err := mutateWith(t, "sum.go | x + b | x - b | true\n", "-check"); err == nil {
		t.Error("a line that cannot be read passes")
	}
}

// The programs that a command has started end with it.
func TestTimeoutEndsAll(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	begun := time.Now()
	o := runner{dir: t.TempDir(), timeout: time.Second}.run(t.Context(), "(sleep 3; touch "+left+") & wait")
	if !o.timedOut || !o.failed || o.green() == nil || time.Since(begun) > 30*time.Second {
		t.Errorf("%+v after %v", o, time.Since(begun))
	}
	time.Sleep(3 * time.Second)
	if _, err := os.Stat(left); err == nil {
		t.Error("it went on")
	}
}

// Skipped tests see nothing, so the tests are told to fail instead; and Go's
// cache does not know what the programs read that a test starts.
func TestEnvironment(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("CI", "")
	o := runner{dir: t.TempDir(), timeout: time.Minute}.run(t.Context(), `echo "$CI,$GOFLAGS"; false | true`)
	if o.output != "true,-mod=mod -count=1\n" || !o.failed {
		t.Errorf("%+v", o)
	}
}
