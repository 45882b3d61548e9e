package bpf

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"capability_exporter/bpf/internal/testprog"

	"github.com/cilium/ebpf/ringbuf"
)

// A witness sees every check with its whole stack, by a program and by rules of its own. It shares nothing with the product.
type witness struct {
	loaded  *testprog.Loaded
	symbols []kernelSymbol

	mu   sync.Mutex
	seen []testprog.Sighting
}

type kernelSymbol struct {
	address uint64
	name    string
}

// A testimony is what the witness can say about a check, and so can the product.
type testimony struct {
	check   Check
	audited Audited
	asker   string
}

func newWitness(t *testing.T) *witness {
	loaded, err := testprog.Load(testprog.Witness)
	if err != nil {
		t.Skip("the tracepoint cap_capable cannot be had: ", err)
	}
	t.Cleanup(loaded.Close)
	w := &witness{loaded: loaded, symbols: readSymbols(t)}
	reader, err := ringbuf.NewReader(loaded.Collection.Maps["sightings"])
	if err != nil {
		t.Fatal(err)
	}
	l, err := loaded.Attach()
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			rec, err := reader.Read()
			if err != nil {
				return
			}
			s, err := decode[testprog.Sighting](rec.RawSample)
			if err != nil {
				t.Error(err)
				return
			}
			w.mu.Lock()
			w.seen = append(w.seen, *s)
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		l.Close()
		reader.Close()
		reading.Wait()
	})
	return w
}

func readSymbols(t *testing.T) (symbols []kernelSymbol) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		address, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if kind := strings.ToLower(fields[1]); kind == "t" || kind == "w" {
			symbols = append(symbols, kernelSymbol{address, fields[2]})
		}
	}
	slices.SortFunc(symbols, func(a, b kernelSymbol) int { return cmp.Compare(a.address, b.address) })
	if len(symbols) == 0 || symbols[len(symbols)-1].address == 0 {
		lacks(t, "/proc/kallsyms shows no addresses: kernel.kptr_restrict is 2, or this is not root")
	}
	return symbols
}

func (w *witness) name(ret uint64) string {
	i, _ := slices.BinarySearchFunc(w.symbols, ret, func(s kernelSymbol, to uint64) int { return cmp.Compare(s.address, to) })
	if i == 0 {
		return ""
	}
	return symbolName(w.symbols[i-1].name) // the last one below the return address
}

// sightings returns how many checks have been seen, once all that were made are in.
func (w *witness) sightings(t *testing.T) int {
	t.Helper()
	var made, lost uint64
	if err := w.loaded.Collection.Variables["sightings_made"].Get(&made); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		w.mu.Lock()
		n := len(w.seen)
		w.mu.Unlock()
		if err := w.loaded.Collection.Variables["sightings_lost"].Get(&lost); err != nil {
			t.Fatal(err)
		}
		if lost != 0 {
			t.Fatalf("the witness lost %d checks", lost)
		}
		if uint64(n) >= made {
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the witness does not come to an end")
	return 0
}

// tell sums up the sightings from one to another.
func (w *witness) tell(t *testing.T, from, to int) map[testimony]uint64 {
	sums := map[testimony]uint64{}
	w.mu.Lock()
	seen := slices.Clone(w.seen[from:to])
	w.mu.Unlock()
	for _, s := range seen {
		stack := s.Stack[:s.Depth]
		at := slices.IndexFunc(stack, func(ip uint64) bool { return w.name(ip) == "cap_capable" })
		if at < 0 || at+3 >= len(stack) {
			t.Fatalf("a stack without cap_capable: %x", stack)
		}
		wrapper, asker := w.name(stack[at+1]), w.name(stack[at+2])
		if wrapper == "security_capable" {
			wrapper, asker = asker, w.name(stack[at+3])
		}
		c := testimony{check: Check{Capability: uint8(s.Cap), Denied: s.Ret != 0, UserNS: s.Level != 0}, asker: asker}
		switch {
		case strings.HasSuffix(wrapper, "_noaudit"), strings.HasSuffix(wrapper, "vm_enough_memory_mm"),
			wrapper == "ptracer_capable", wrapper == "kallsyms_show_value":
			c.audited = AuditedNo
		case strings.HasSuffix(wrapper, "capable"), strings.HasSuffix(wrapper, "capable_setid"),
			wrapper == "capable_wrt_inode_uidgid", strings.HasSuffix(wrapper, "has_capability"),
			wrapper == "cap_capset", wrapper == "cap_task_prctl", wrapper == "cap_mmap_addr":
			c.audited = AuditedYes
		default:
			t.Errorf("the witness does not know the wrapper %s, called by %s", wrapper, asker)
		}
		sums[c]++
	}
	return sums
}

func tellSites(s *Snapshot) map[testimony]uint64 {
	sums := map[testimony]uint64{}
	for _, c := range s.Sites {
		sums[testimony{c.Check, c.Audited, symbolName(c.Symbol)}] += c.Count
	}
	return sums
}

// broadWorkload is what machines do all day, and some of what they do seldom. Whether each command succeeds does not matter.
const broadWorkload = `
ps auxww; ss -tanup; ls -lR /proc/self /sys/kernel; cat /proc/[0-9]*/stat /proc/[0-9]*/status /proc/[0-9]*/maps /proc/[0-9]*/io
setpriv --reuid 65534 --clear-groups sh -c 'ps auxww; sysctl -a; cat /proc/[0-9]*/stat /proc/[0-9]*/maps /proc/[0-9]*/environ /proc/kallsyms /etc/shadow; dmesg; ping -c1 127.0.0.1; mount -t tmpfs none /mnt; date -s now; ls -lR /etc /root /var/lib; nice -n -5 true; chown 0 /tmp; kill -0 1'
dmesg; sysctl -a; ping -c1 -w1 127.0.0.1
unshare -m sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && mknod /mnt/null c 1 3 && setfattr -n trusted.x -v 1 /mnt/x; getfattr -d -m - /mnt/x; umount /mnt'
unshare -Ur sh -c 'id; mount -t tmpfs none /mnt; hostname x; chown 1 /tmp'
unshare -Urn sh -c 'ip link set lo up; ip addr; ss -tan; sysctl -a'
nice -n -5 true; renice -n -1 $$; chroot / true; hostname; date
echo 0 >/proc/self/oom_score_adj; echo -17 >/proc/self/oom_score_adj
for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; sh -c 'x=$(seq 1 2000)'; done
find /proc/[0-9]*/task /proc/[0-9]*/ns /proc/[0-9]*/fd; strace -f -o /dev/null true
tar cf /dev/null /etc; su -s /bin/sh nobody -c 'id'; bpftool prog; bpftool map
`

// TestWitness holds every call site's counts against the witness, over a broad workload.
func TestWitness(t *testing.T) {
	w := newWitness(t)
	tr := openLive(t, Options{sources: []Source{SourceTracepoint}})
	a := w.sightings(t)
	first := snapshot(t, tr)
	b := w.sightings(t)
	cmd := exec.Command("/bin/sh", "-c", broadWorkload)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	_ = cmd.Run()
	c := w.sightings(t)
	last := snapshot(t, tr)
	d := w.sightings(t)
	notMissed(t, last)

	// Checks made while a snapshot is being read may stand on either side of it.
	atLeast, atMost := w.tell(t, b, c), w.tell(t, a, d)
	before, after := tellSites(first), tellSites(last)
	keys := map[testimony]bool{}
	for k := range atMost {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	var checks uint64
	askers := map[string]bool{}
	for k := range keys {
		n := after[k] - before[k]
		if n < atLeast[k] || n > atMost[k] {
			t.Errorf("%s, audited %d, by %s: the product counts %d, the witness %s", k.check, k.audited, k.asker, n, fmt.Sprintf("%d to %d", atLeast[k], atMost[k]))
		}
		checks += n
		askers[k.asker] = true
	}
	if checks < 10_000 || len(askers) < 25 {
		t.Errorf("the workload made only %d checks from %d kernel functions", checks, len(askers))
	}
	t.Logf("%d checks of %d kinds from %d kernel functions, %d unwound", checks, len(keys), len(askers), last.Unwinds-first.Unwinds)
}
