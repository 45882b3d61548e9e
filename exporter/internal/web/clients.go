package web

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many warnings and errors clients may make the log say at once, and from
// then on.
const (
	clientBurst    = 10
	clientInterval = 10 * time.Second
)

// limited returns a logger for what is said because of a client: who sends
// rubbish to the port a thousand times must not fill the log with a thousand
// lines. The next line that is written says how many were not. Lines below
// warn are not counted, nobody can bring them about from outside.
func limited(logger *slog.Logger) *slog.Logger { return limitedTo(logger, clientInterval) }

// limitedTo is limited, to another interval and by a budget of its own.
func limitedTo(logger *slog.Logger, interval time.Duration) *slog.Logger {
	return slog.New(clientHandler{logger.Handler(), &clientBudget{
		limiter: rate.NewLimiter(rate.Every(interval), clientBurst),
	}})
}

// clientBudget is what the lines of all clients are taken from.
type clientBudget struct {
	limiter *rate.Limiter

	mu         sync.Mutex
	suppressed uint64
}

// take returns how many lines were suppressed before this one, or that this
// one is, too.
func (b *clientBudget) take() (suppressed uint64, allowed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.limiter.Allow() {
		b.suppressed++
		return 0, false
	}
	suppressed, b.suppressed = b.suppressed, 0
	return suppressed, true
}

type clientHandler struct {
	slog.Handler
	budget *clientBudget
}

func (h clientHandler) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelWarn {
		suppressed, allowed := h.budget.take()
		if !allowed {
			return nil
		}
		if suppressed > 0 {
			record = record.Clone()
			record.AddAttrs(slog.Uint64("suppressed", suppressed))
		}
	}
	return h.Handler.Handle(ctx, record)
}

func (h clientHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return clientHandler{h.Handler.WithAttrs(attrs), h.budget}
}

func (h clientHandler) WithGroup(name string) slog.Handler {
	return clientHandler{h.Handler.WithGroup(name), h.budget}
}
