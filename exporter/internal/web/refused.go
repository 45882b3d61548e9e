package web

import (
	"log/slog"
	"net/http"
	"time"

	"capability_exporter/collectors"
)

// refusedInterval is how often it is told, after the first few times, that
// somebody has no password or a wrong one: a scraper that is configured wrong
// goes on asking for weeks.
const refusedInterval = 10 * time.Minute

// maxUser is how many characters of a user's name are told, whom whoever asks
// chooses.
const maxUser = 64

// tellRefused puts a log around the toolkit's handler, which refuses who has not
// the right password and tells nobody. Else all that an operator sees of it is
// that Prometheus says the target is down. The program's own questions need no
// password (see Answers): that they are refused is an answer.
func tellRefused(handler http.Handler, logger *slog.Logger) http.Handler {
	logger = limitedTo(logger, refusedInterval)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RemoteAddr != pipe {
			w = refusal{w, r, logger}
		}
		handler.ServeHTTP(w, r)
	})
}

// refusal looks at the status of an answer.
type refusal struct {
	http.ResponseWriter
	request *http.Request
	logger  *slog.Logger
}

func (f refusal) WriteHeader(status int) {
	if status == http.StatusUnauthorized {
		why, args := "A client is refused: it gives no password", []any{"client", f.request.RemoteAddr}
		if user, _, given := f.request.BasicAuth(); given {
			why, args = "A client is refused: wrong user or password", append(args, "user", cut(collectors.Escape(user), maxUser))
		}
		f.logger.Warn(why, args...)
	}
	f.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (f refusal) Unwrap() http.ResponseWriter { return f.ResponseWriter }
