package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/limits"
)

var memory = flag.Bool("memory", false, "measure the memory of many scrapers and viewers")

// busy is a tracer with a full table in which every series counts all the time.
type busy struct {
	mu    sync.Mutex
	count uint64
	slots int
	paths []string
}

func (b *busy) Info() bpf.Info { return bpf.Info{Source: bpf.SourceTracepoint} }
func (*busy) Recheck() error   { return nil }
func (*busy) Held() bpf.Held   { return bpf.Held{} }

func (b *busy) Close() error { return nil }

func (b *busy) Snapshot() (*bpf.Snapshot, error) {
	b.mu.Lock()
	b.count++
	count := b.count
	b.mu.Unlock()
	s := &bpf.Snapshot{Series: b.slots, SeriesLimit: b.slots, Workloads: make([]bpf.WorkloadCount, b.slots)}
	for i := range s.Workloads {
		s.Workloads[i] = bpf.WorkloadCount{
			Check:   bpf.Check{Capability: uint8(i % 41), Denied: i%3 == 0},
			Cgroup:  bpf.Cgroup{ID: uint64(i), Path: b.paths[i]},
			Process: bpf.Process{Name: "daemon"},
			Count:   count,
		}
	}
	return s, nil
}

// deny announces one denial after the other, each with a long path, of all the
// series that are denials.
func (b *busy) deny(say func(bpf.Announcement), end time.Time) {
	for i := 0; time.Now().Before(end); i = (i + 3) % b.slots {
		if i < 3 {
			i = 0 // every third
		}
		say(bpf.Announcement{
			Check: bpf.Check{Capability: uint8(i % 41), Denied: true}, Cgroup: bpf.Cgroup{ID: uint64(i), Path: b.paths[i]},
			Process: bpf.Process{Name: "daemon"}, Comm: "daemon", SyscallName: "openat", Path: strings.Repeat("/long", 50), Symbol: "generic_permission",
		})
		if i%300 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestMemory prints the most memory that this process takes, the test's own
// included, with eight scrapers and twenty viewers at one time, half of whom look
// for something, and denials all the time.
func TestMemory(t *testing.T) {
	if !*memory {
		t.Skip("takes a minute: -memory")
	}
	for _, test := range []struct{ slots, most int }{{4096, 64}, {65536, 400}} {
		t.Run(fmt.Sprint(test.slots), func(t *testing.T) {
			full := &busy{slots: test.slots, paths: make([]string, test.slots)}
			for i := range full.paths {
				full.paths[i] = fmt.Sprintf("/system.slice/unit-%d.service", i)
			}
			say := make(chan func(bpf.Announcement), 1)
			i := start(t, func(o bpf.Options) (tracer, error) {
				say <- o.Announce
				return full, nil
			}, fmt.Sprint("--series.limit=", test.slots))
			i.waitReady(t)
			debug.FreeOSMemory()
			// The highest so far is forgotten, see proc_pid_clear_refs(5).
			if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
				t.Fatal(err)
			}
			var clients sync.WaitGroup
			end := time.Now().Add(25 * time.Second)
			var scrapes, pages, refused int
			var mu sync.Mutex
			look := func(path, accept string, count *int) {
				for time.Now().Before(end) {
					request, err := http.NewRequest(http.MethodGet, "http://"+i.address+path, http.NoBody)
					if err != nil {
						t.Error(err)
						return
					}
					request.Header.Set("Accept-Encoding", accept)
					response, err := i.client.Do(request)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					response.Body.Close()
					mu.Lock()
					if response.StatusCode == http.StatusOK {
						*count++
					} else {
						refused++
					}
					mu.Unlock()
					time.Sleep(100 * time.Millisecond)
				}
			}
			for n := range 8 {
				clients.Go(func() { look("/metrics", []string{"gzip", "identity"}[n%2], &scrapes) })
			}
			for n := range 20 {
				path := "/"
				if n%2 == 0 {
					path = fmt.Sprint("/?q=unit-", n)
				}
				clients.Go(func() { look(path, "identity", &pages) })
			}
			clients.Go(func() { full.deny(<-say, end) })
			clients.Wait()
			got := peak(t)
			t.Logf("%5d series: %d MiB at most, %d scrapes and %d pages, %d refused", test.slots, got>>10, scrapes, pages, refused)
			if got>>10 > test.most {
				t.Errorf("want %d", test.most)
			}
			if said := int(limits.Serving(test.slots) >> 10); got > said || got < said*8/10 {
				t.Errorf("about %d MiB at most are said to be needed (internal/limits)", said>>10)
			}
		})
	}
}

// peak is the most memory since it was forgotten, in KiB.
func peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(string(status))
	if match == nil {
		t.Fatalf("no VmHWM in\n%s", strings.TrimSpace(string(status)))
	}
	kib, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
