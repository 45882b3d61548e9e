package collectors

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"capability_exporter/bpf"
	"capability_exporter/collectors/workload"
)

// unescapeBytes is the inverse of escapeBytes: where it exists for all that
// escapeBytes can return, no two names are written alike.
func unescapeBytes(escaped string) (string, error) {
	var name strings.Builder
	for escaped != "" {
		before, after, found := strings.Cut(escaped, `\`)
		name.WriteString(before)
		escaped = after
		switch {
		case !found:
		case strings.HasPrefix(escaped, `\`):
			name.WriteByte('\\')
			escaped = escaped[1:]
		case strings.HasPrefix(escaped, "x") && len(escaped) >= 3:
			b, err := strconv.ParseUint(escaped[1:3], 16, 8)
			if err != nil {
				return "", err
			}
			name.WriteByte(byte(b))
			escaped = escaped[3:]
		default:
			return "", fmt.Errorf("a backslash before %q", escaped)
		}
	}
	return name.String(), nil
}

// unescapeName is the inverse of escapeName.
func unescapeName(escaped string) (string, error) {
	switch {
	case strings.HasPrefix(escaped, "[") || strings.HasPrefix(escaped, "_"):
		return "", errors.New("one of the exporter's own names")
	case strings.HasPrefix(escaped, `\[`) || strings.HasPrefix(escaped, `\_`):
		escaped = escaped[1:]
	}
	return unescapeBytes(escaped)
}

// seeds are names that try to be written as something else.
var seeds = []string{
	"", "nginx", "_other", "_unknown", "[kernel]", "[exiting]", "[cgroup:1]", "[cgroup:1]/a",
	`\`, `\\`, `\_other`, `\[kernel]`, `\xff`, `\\xff`, "\xff", "\\\xff", "\xff\\", `\x`, "x\\",
	"\uFFFD", "\uFFFD\xff", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "\xe2\x82", "\u202e", "\n\r\x00\x1b", "/", "/a/b", "]", "1]/a",
}

// checkValid fails where a label value cannot be told from none or is refused by Prometheus.
func checkValid(t *testing.T, value string) {
	t.Helper()
	if value == "" {
		t.Error("the label value is empty")
	}
	if !utf8.ValidString(value) {
		t.Errorf("the label value %q is not valid UTF-8", value)
	}
}

func FuzzProcess(f *testing.F) {
	for _, name := range seeds {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		label := Process(bpf.Process{Name: name})
		checkValid(t, label)
		if name == "" {
			return // has no file name to get back
		}
		if back, err := unescapeName(label); err != nil || back != name {
			t.Errorf("%q is written %q, which reads %q, %v", name, label, back, err)
		}
	})
}

// decodeWorkload is the inverse of Workload: the name, or the cgroup where the
// path was not known.
func decodeWorkload(label string) (name string, unknown bpf.Cgroup, err error) {
	ours, found := strings.CutPrefix(label, "[cgroup:")
	if !found {
		// A slash at the beginning or a machine, or else a unit, a pod or a
		// container, in which nothing is escaped that systemd has not.
		if strings.HasPrefix(label, "/") || strings.HasPrefix(label, `\`) || strings.Contains(label, "machine/") {
			name, err = unescapeName(label)
			return name, unknown, err
		}
		return label, unknown, nil
	}
	number, path, _ := strings.Cut(ours, "]")
	id, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return "", unknown, err
	}
	path, err = unescapeBytes(path)
	return "", bpf.Cgroup{ID: id, Path: path, Truncated: path != ""}, err
}

func FuzzWorkload(f *testing.F) {
	for i, path := range append(seeds, `/system.slice/a\x2db.service`, inPod("1"), "/docker/"+digits("1"), "/lxc.payload.x", `/lxc.payload.\xff`) {
		f.Add(uint64(i), path, i%2 == 0)
		f.Add(uint64(i), path, i%2 == 1)
	}
	f.Fuzz(func(t *testing.T, id uint64, path string, truncated bool) {
		label := Workload(bpf.Cgroup{ID: id, Path: path, Truncated: truncated})
		checkValid(t, label)
		if path != "" && !strings.HasPrefix(path, "/") && !truncated {
			return // the kernel gives none such
		}
		want, wantUnknown := "", bpf.Cgroup{}
		switch {
		case path == "": // nothing is known but the number, truncated or not
			wantUnknown.ID = id
		case truncated:
			wantUnknown = bpf.Cgroup{ID: id, Path: path, Truncated: true}
		default:
			want = workload.Parse(path).Name
		}
		if name, unknown, err := decodeWorkload(label); err != nil || name != want || unknown != wantUnknown {
			t.Errorf("%q is written %q, which reads %q, %#v, %v", path, label, name, unknown, err)
		}
	})
}

func FuzzCallSite(f *testing.F) {
	for _, symbol := range seeds {
		f.Add(symbol)
	}
	for _, symbol := range []string{"path_mount", "__x64_sys_mount.isra.0 [m]", "__do_compat_sys_x", "f.cold", ".f", "0x1", "__se_", "__do_sys_"} {
		f.Add(symbol)
	}
	f.Fuzz(func(t *testing.T, symbol string) {
		site := CallSite(symbol, false)
		checkValid(t, site)
		if site == Other {
			t.Errorf("%q passes for a full table", symbol)
		}
		if CallSite(symbol, true) != Other {
			t.Errorf("a full table is not %s for %q", Other, symbol)
		}
		function, _, _ := strings.Cut(symbol, " [")
		if site == Unknown && function != "" && !strings.HasPrefix(function, "0x") {
			t.Errorf("%q has a name, but is %s", symbol, site)
		}
		// The same function of another build is the same site. Not so for what
		// is no identifier: a prefix or suffix would give it another meaning.
		if function != symbol || function == "" || strings.HasPrefix(function, "0x") {
			return
		}
		for _, built := range []string{function + " [mod]", function + ".isra.0", function + ".part.1.cold", function + ".llvm.42 [mod]"} {
			if got := CallSite(built, false); got != site {
				t.Errorf("%q is %q, but %q is %q", symbol, site, built, got)
			}
		}
		want := CallSite("sys_"+function, false)
		for _, wrapper := range []string{"__x64_", "__ia32_", "__arm64_", "__do_", "__se_"} {
			if got := CallSite(wrapper+"sys_"+function, false); got != want {
				t.Errorf("%q is %q, but with %s it is %q", "sys_"+function, want, wrapper, got)
			}
		}
	})
}
