package announce

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// How many lines of one kind a workload may have at once and from then on, and
// all of them together.
const (
	workloadBurst    = 20
	workloadInterval = 6 * time.Second
	totalBurst       = 200
	totalInterval    = time.Second

	// maxWorkloads is how many are told apart. Who makes more of them than that
	// gets the first lines of each again, as far as the total allows.
	maxWorkloads = 1024
)

// budget is what may be written of one kind of line: so much by each workload,
// so that one of them can't take the others' lines, and so much by all.
type budget struct {
	seed maphash.Seed

	mu        sync.Mutex
	total     *rate.Limiter
	workloads *simplelru.LRU[uint64, *rate.Limiter] // by the hash of a name, which may be long
}

func newBudget() *budget {
	workloads, err := simplelru.NewLRU[uint64, *rate.Limiter](maxWorkloads, nil)
	if err != nil {
		panic(err) // for a size that is not positive
	}
	return &budget{
		seed:      maphash.MakeSeed(),
		total:     rate.NewLimiter(rate.Every(totalInterval), totalBurst),
		workloads: workloads,
	}
}

// allows takes one line out of the budget, if there is one.
func (b *budget) allows(now time.Time, workload string) bool {
	key := maphash.String(b.seed, workload)
	b.mu.Lock()
	defer b.mu.Unlock()
	own, known := b.workloads.Get(key)
	if !known {
		own = rate.NewLimiter(rate.Every(workloadInterval), workloadBurst)
		b.workloads.Add(key, own)
	}
	return own.AllowN(now, 1) && b.total.AllowN(now, 1)
}
