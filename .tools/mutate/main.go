// Command mutate puts small faults into a copy of the repository, one after the
// other, and runs for each the quickest test that should see it. A fault that
// no test sees is a hole in the tests.
//
//	go -C .tools run ./mutate -run daemonset   # the lines with "daemonset" in them
//
// The faults stand in faults.txt, which says how a line is written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) { // the help has been printed
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// run does what the arguments ask for. It returns an error if a fault survived
// without a reason or a line is wrong.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	pattern := flags.String("run", "", "only the lines of the list that match this regular `expression`")
	file := flags.String("file", "", "the list of faults (default .tools/mutate/faults.txt)")
	check := flags.Bool("check", false, "only see whether each line still fits its file; run no test")
	timeout := flags.Duration("timeout", 15*time.Minute, "how long one command may take")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("arguments %q are not understood; the flags are told by -help", flags.Args())
	}
	selected, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}

	root, err := repository(ctx)
	if err != nil {
		return err
	}
	if *file == "" {
		*file = filepath.Join(root, ".tools", "mutate", "faults.txt")
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("reading the list of faults (-file names another): %w", err)
	}
	faults, problems := parse(string(text))
	// A line that cannot be read fails also where others were asked for: it
	// would be a fault that nobody ever plants.
	if len(problems) > 0 {
		return fmt.Errorf("%s: %w", *file, errors.Join(problems...))
	}
	faults = slices.DeleteFunc(faults, func(f fault) bool { return !selected.MatchString(f.text) })
	if len(faults) == 0 {
		return fmt.Errorf("%s: no line matches -run %q", *file, *pattern)
	}

	tree, err := readTree(ctx, root)
	if err != nil {
		return err
	}
	if *check {
		return checkAll(tree, faults, out)
	}
	return mutate(ctx, tree, faults, *timeout, out)
}

// repository returns the root of the work tree that this runs in.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("git rev-parse --show-toplevel (run this in a checkout): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// checkAll sees whether each fault can be planted.
func checkAll(tree *tree, faults []fault, out io.Writer) error {
	var problems []error
	for _, f := range faults {
		if _, err := tree.plant(f); err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", f.line, err))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d of %d faults do not fit the tree; bring their lines up to date:\n%w", len(problems), len(faults), errors.Join(problems...))
	}
	fmt.Fprintf(out, "mutate: %d faults fit the tree\n", len(faults))
	return nil
}

// mutate plants each fault in a copy of the tree and runs its command.
func mutate(ctx context.Context, tree *tree, faults []fault, timeout time.Duration, out io.Writer) error {
	started := time.Now()
	temporary, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return fmt.Errorf("a folder for the copy: %w", err)
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil { //nolint:gosec // other users, which tests become, must be able to enter it
		return fmt.Errorf("a folder for the copy: %w", err)
	}
	copied := filepath.Join(temporary, "copy")
	if err := tree.write(copied); err != nil {
		return err
	}
	shell := runner{dir: copied, timeout: timeout}
	if err := greenBefore(ctx, shell, faults, out); err != nil {
		return err
	}

	counts := map[verdict]int{}
	var open []string
	for _, f := range faults {
		begun := time.Now()
		result, detail := tree.try(ctx, shell, f)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted at line %d of the list", f.line)
		}
		counts[result]++
		line := fmt.Sprintf("%-11s line %-4d %6.1fs  %s: %s", result, f.line, time.Since(begun).Seconds(), f.path, f.breaks)
		fmt.Fprintln(out, line)
		if detail != "" {
			fmt.Fprintln(out, indent(detail))
		}
		if result == survived || result == wrong {
			open = append(open, line)
		}
	}

	for _, line := range open {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintf(out, "mutate: %d faults: %d caught, %d survived, %d cannot matter, %d wrong lines, in %s\n",
		len(faults), counts[caught], counts[survived], counts[excused], counts[wrong], time.Since(started).Round(time.Second))
	if len(open) > 0 {
		return fmt.Errorf("%d of %d faults survived or have a wrong line: write the test that sees them, or, where nothing can, the reason", len(open), len(faults))
	}
	return nil
}

// greenBefore runs the commands once on the tree as it is. One that fails there
// would catch whatever was planted.
func greenBefore(ctx context.Context, shell runner, faults []fault, out io.Writer) error {
	for _, command := range together(faults) {
		begun := time.Now()
		result := shell.run(ctx, command)
		if ctx.Err() != nil {
			return errors.New("interrupted before the first fault")
		}
		if err := result.green(); err != nil {
			return fmt.Errorf("nothing is planted yet, and %q is not green: %w\n%s", command, err, indent(tail(result.output)))
		}
		fmt.Fprintf(out, "%-11s           %6.1fs  %s\n", "green", time.Since(begun).Seconds(), command)
	}
	return nil
}

var testsOfPackage = regexp.MustCompile(`^go test (\./\S+) -run '([^']+)'$`)

// together returns the commands of faults, once each, and the tests of one
// package as one command.
func together(faults []fault) (commands []string) {
	tests := map[string][]string{}
	for _, f := range faults {
		if f.inBPF() && !slices.Contains(commands, generate) {
			commands = append(commands, generate)
		}
		m := testsOfPackage.FindStringSubmatch(f.command)
		switch {
		case m == nil && !slices.Contains(commands, f.command):
			commands = append(commands, f.command)
		case m != nil && !slices.Contains(tests[m[1]], m[2]):
			tests[m[1]] = append(tests[m[1]], m[2])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if whole := "go test " + name; !slices.Contains(commands, whole) {
			commands = append(commands, whole+" -run '"+strings.Join(tests[name], "|")+"'")
		}
	}
	return commands
}

// try plants one fault, runs its command and takes the fault out again.
func (t *tree) try(ctx context.Context, shell runner, f fault) (result verdict, detail string) {
	changed, err := t.plant(f)
	if err != nil {
		return wrong, err.Error()
	}
	restore := []string{f.path}
	if f.inBPF() {
		restore = append(restore, t.generated()...)
	}
	defer func() {
		if err := t.write(shell.dir, restore...); err != nil {
			result, detail = wrong, err.Error()
		}
	}()
	if err := t.files[f.path].with(changed).write(shell.dir, f.path); err != nil {
		return wrong, err.Error()
	}
	if f.inBPF() {
		if generated := shell.run(ctx, generate); generated.green() != nil {
			generated.buildFailed = true
			return judge(f, generated)
		}
	}
	return judge(f, shell.run(ctx, f.command))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
