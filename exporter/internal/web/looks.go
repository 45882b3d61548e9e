package web

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// How often the page may be looked at through a filter, by one client and by
// all: at once, and from then on. A page that reloads is looked at once in ten
// seconds.
const (
	clientLooks    = 20
	clientLookEach = time.Second / 2
	totalLooks     = 60
	totalLookEach  = time.Second / 8

	// maxLookers is how many clients are told apart; there are no more at one time.
	maxLookers = MaxConnections
)

// looks is a budget of pages that are made for one client alone. Without a
// filter the page is made once for all, and is always to be had.
type looks struct {
	mu      sync.Mutex
	total   *rate.Limiter
	clients *simplelru.LRU[string, *rate.Limiter]
}

func newLooks() *looks {
	clients, err := simplelru.NewLRU[string, *rate.Limiter](maxLookers, nil)
	if err != nil {
		panic(err) // for a size that is not positive
	}
	return &looks{total: rate.NewLimiter(rate.Every(totalLookEach), totalLooks), clients: clients}
}

// allows takes one look out of the budget, if there is one.
func (l *looks) allows(now time.Time, client string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, known := l.clients.Get(client)
	if !known {
		own = rate.NewLimiter(rate.Every(clientLookEach), clientLooks)
		l.clients.Add(client, own)
	}
	return own.AllowN(now, 1) && l.total.AllowN(now, 1)
}
