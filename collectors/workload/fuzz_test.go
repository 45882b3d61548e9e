package workload

import (
	"strings"
	"testing"
)

// FuzzParse: whatever a path is, its name is no longer than it and a few words, and stays what it is for all that lies within what it
// names.
func FuzzParse(f *testing.F) {
	for _, r := range documented() {
		f.Add(r.path, "x")
		f.Add(r.path, "nginx.service")
	}
	f.Add("", "")
	f.Add("/a\x00b/\xff", "..")
	f.Fuzz(func(t *testing.T, path, inside string) {
		w := Parse(path)
		const words = len("user-.slice/session-*.scope")
		if len(w.Name) > len(path)+words || w.Name == "" && path != "" || w.Kind == "" {
			t.Errorf("%q is %+v", path, w)
		}
		// Each kind has names that no other has.
		name := strings.TrimPrefix(w.Name, userOfName(w.Name))
		for prefix, kind := range map[string]Kind{"pod/": KindPod, "container/": KindContainer, "machine/": KindMachine} {
			if strings.HasPrefix(path, "/") && strings.HasPrefix(name, prefix) != (w.Kind == kind) {
				t.Errorf("%q is a %s: %q", path, w.Kind, w.Name)
			}
		}
		if (w.PodUID != "") != (w.Kind == KindPod) || w.PodUID != podUID(w.PodUID) {
			t.Errorf("%q: pod %q, %s", path, w.PodUID, w.Kind)
		}
		if id := w.ContainerID; id != "" && (len(id) != containerID || !isHex(id)) {
			t.Errorf("%q: container %q", path, id)
		}
		if w.Unit != "" {
			if unit, ok := unitOf(w.Unit); (!ok || unit != strings.TrimPrefix(w.Unit, "_")) && !strings.HasSuffix(w.Unit, ".slice") {
				t.Errorf("%q: unit %q", path, w.Unit)
			}
		}
		if w.settled {
			if below := Parse(path + "/" + inside); below.Name != w.Name || below.Kind != w.Kind || !below.settled {
				t.Errorf("%q is %+v, and with %q inside it %+v", path, w, inside, below)
			}
		}
		// A star for what was made up stands only where there is something else than a star.
		if again := withoutMadeUp(w.Name); w.Kind == KindPath && again != w.Name {
			t.Errorf("%q is %q, and that is %q", path, w.Name, again)
		}
	})
}

// userOfName is the user's part of a name, with its slash.
func userOfName(name string) string {
	if manager, _, ok := strings.Cut(name, "/"); ok && isUserManager(manager) {
		return manager + "/"
	}
	return ""
}
