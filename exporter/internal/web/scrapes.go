package web

import (
	"bytes"
	"compress/gzip"
	"container/list"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// maxScrapes are taken on at one time, those that wait for their turn
	// included.
	maxScrapes = 8
	// maxRunning of them read the counters and encode them, which takes the
	// memory of a whole page's metrics; more would not be done sooner.
	maxRunning = 2
	// maxUnread is how many bytes of answers may wait for those who asked.
	maxUnread = 32 << 20
)

// scrapes answers scrapes by way of a buffer. An answer is made at the speed of
// this machine and keeps others waiting that long; it is sent at the speed of
// whoever asked for it, and then keeps waiting nobody.
type scrapes struct {
	metrics http.Handler
	limits  *limits
	taken   chan struct{}
	running chan struct{}
	packers chan *gzip.Writer // those that are of use again: each is most of a MiB
	unread  unread
}

func newScrapes(metrics http.Handler, l *limits) *scrapes {
	return &scrapes{
		metrics: metrics,
		limits:  l,
		taken:   make(chan struct{}, maxScrapes),
		running: make(chan struct{}, maxRunning),
		packers: make(chan *gzip.Writer, maxRunning),
		unread:  unread{limits: l, most: maxUnread},
	}
}

func (s *scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.taken <- struct{}{}:
	default:
		s.limits.scrapes.Add(1)
		http.Error(w, fmt.Sprintf("%d scrapes run already, try again later.", maxScrapes), http.StatusServiceUnavailable)
		return
	}
	a := s.answer(r)
	if a == nil {
		return // and so has the client
	}
	sent := s.unread.add(a.body.Len(), func() {
		// The connection is of no use then, and closed by its server.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now())
	})
	defer sent()
	a.send(w)
}

// answer makes an answer when it is its turn.
func (s *scrapes) answer(r *http.Request) *answer {
	defer func() { <-s.taken }()
	select {
	case s.running <- struct{}{}:
	case <-r.Context().Done():
		return nil
	}
	defer func() { <-s.running }()

	a := &answer{header: make(http.Header), packers: s.packers}
	s.metrics.ServeHTTP(a, r)
	a.finish()
	return a
}

// answer is an http.ResponseWriter that keeps what is written. A page of
// metrics is kept compressed, also for those who want it plain: it takes a
// tenth, and it may take them a minute to read it.
type answer struct {
	header  http.Header
	status  int
	body    bytes.Buffer
	packers chan *gzip.Writer
	packer  *gzip.Writer // nil where the body is kept as it is
	packed  bool
	plain   int // bytes before that
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status != 0 {
		return
	}
	a.status = status
	if status == http.StatusOK && a.header.Get("Content-Encoding") == "" {
		select {
		case a.packer = <-a.packers:
			a.packer.Reset(&a.body)
		default:
			// The error is of another level than there are.
			a.packer, _ = gzip.NewWriterLevel(&a.body, gzip.BestSpeed)
		}
		a.packed = true
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.plain += len(p)
	if a.packer != nil {
		return a.packer.Write(p)
	}
	return a.body.Write(p)
}

// finish is called when all is written.
func (a *answer) finish() {
	a.WriteHeader(http.StatusOK)
	if a.packer == nil {
		return
	}
	_ = a.packer.Close()  // into a buffer, which takes all
	a.packer.Reset(nil)   // the answer is not kept for it
	a.packers <- a.packer // there are no more than scrapes that run
	a.packer = nil
}

func (a *answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.Header().Set("Content-Length", strconv.Itoa(a.plain))
	w.WriteHeader(a.status)
	var body io.Reader = &a.body
	if a.packed {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return // what finish has closed is whole
		}
		body = unpacked
	}
	_, _ = io.Copy(w, body) // the reader has gone
}

// unread bounds what is kept of answers for those who take their time to read
// them. Who has been at it for longest is hung up on when there is no room for
// another answer: a scraper reads in a fraction of the time in which so many
// can be made.
type unread struct {
	limits *limits
	most   int // bytes

	mu      sync.Mutex
	bytes   int
	answers list.List // of *pending, the oldest first
}

type pending struct {
	bytes  int
	hangUp func()
}

// add makes room for an answer. The function that it returns is called once it
// is sent.
func (u *unread) add(size int, hangUp func()) (sent func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.bytes+size > u.most && u.answers.Len() > 0 {
		u.remove(u.answers.Front()).hangUp()
		u.limits.unread.Add(1)
	}
	element := u.answers.PushBack(&pending{size, hangUp})
	u.bytes += size
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.remove(element)
	}
}

// remove does nothing the second time.
func (u *unread) remove(element *list.Element) *pending {
	p, _ := element.Value.(*pending)
	element.Value = &pending{hangUp: func() {}}
	u.answers.Remove(element)
	u.bytes -= p.bytes
	return p
}
