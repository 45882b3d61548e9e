// Package logging takes the program's log from those who write it, so that none
// of them ever waits for those who read it. It knows levels, lines and one
// place where they go; it does not know what a line says, nor what else the
// program does.
package logging

import (
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// maxLines and maxBytes are what may wait for a place that is not read.
	maxLines = 1024
	maxBytes = 1 << 20
	// A quarter of both is for lines that people must see: a storm of others
	// never takes it.
	maxOrdinaryLines = maxLines * 3 / 4
	maxOrdinaryBytes = maxBytes * 3 / 4
)

// ErrFull is returned for a line that found no place in the queue.
var ErrFull = errors.New("the log is not read fast enough, a line was dropped")

// Queue is what lies between the log and a file, a pipe or a socket that may
// block for ever. Its goroutine alone touches that; Write never waits for it.
type Queue struct {
	out   io.Writer
	idle  func() // called by the goroutine when all is written
	wake  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	lines   [][]byte
	bytes   int
	full    uint64 // lines that found no place
	failed  uint64 // lines that could not be written
	stopped bool   // nobody waits for more than what is in the queue
	over    bool   // the goroutine writes no more
}

// NewQueue starts the goroutine; Stop ends it.
func NewQueue(out io.Writer) *Queue { return newQueue(out, func() {}) }

func newQueue(out io.Writer, idle func()) *Queue {
	q := &Queue{out: out, idle: idle, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run()
	return q
}

// Write takes one line. It never blocks: what does not fit is dropped, counted,
// and answered with ErrFull.
func (q *Queue) Write(line []byte) (int, error) { return q.add(line, maxLines, maxBytes) }

// ordinary is the part of the queue that any line may use.
type ordinary struct{ *Queue }

func (o ordinary) Write(line []byte) (int, error) {
	return o.add(line, maxOrdinaryLines, maxOrdinaryBytes)
}

func (q *Queue) add(line []byte, lines, bytes int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over || len(q.lines) >= lines || q.bytes+len(line) > bytes {
		q.full++
		return 0, ErrFull
	}
	q.lines = append(q.lines, append([]byte(nil), line...)) // the caller writes its next one into the same place
	q.bytes += len(line)
	q.signal()
	return len(line), nil
}

// signal wakes the goroutine; one that is awake looks once more.
func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Dropped is how many lines never got to where they should.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.full + q.failed
}

// foundNoPlace is how many of them were dropped because others waited.
func (q *Queue) foundNoPlace() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.full
}

// Stop writes what still waits, but not longer than the grace period: a write
// that blocks then goes on blocking its goroutine, and nobody else.
func (q *Queue) Stop(grace time.Duration) {
	q.mu.Lock()
	q.stopped = true
	q.signal()
	q.mu.Unlock()

	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-q.ended:
	case <-timer.C:
	}
}

func (q *Queue) run() {
	defer close(q.ended)
	for range q.wake {
		for {
			line, more := q.next()
			if !more {
				break
			}
			if _, err := q.out.Write(line); err != nil {
				q.lose()
			}
		}
		q.idle()
		if q.done() {
			return
		}
	}
}

// next takes the oldest line out of the queue.
func (q *Queue) next() (line []byte, found bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) == 0 {
		q.lines = nil // and with it the room that was used once
		return nil, false
	}
	line = q.lines[0]
	q.lines[0] = nil
	q.lines = q.lines[1:]
	q.bytes -= len(line)
	return line, true
}

// lose counts a line that could not be written: its pipe has no reader any
// more, or its disk is full.
func (q *Queue) lose() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed++
}

func (q *Queue) done() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = q.stopped && len(q.lines) == 0
	return q.over
}
