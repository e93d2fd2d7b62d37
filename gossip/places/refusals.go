package places

import (
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// RefusalLog logs who was refused. Anybody can cause a line, so only a few are warnings: ten
// at once, then one every ten seconds, which says how many it stands for. The others are at
// debug level. Its methods may be called from any goroutine.
type RefusalLog struct {
	log     *slog.Logger
	limit   *rate.Limiter
	skipped atomic.Int64
}

// NewRefusalLog returns a log of refusals that writes to log.
func NewRefusalLog(log *slog.Logger) *RefusalLog {
	return &RefusalLog{log: log, limit: rate.NewLimiter(rate.Every(10*time.Second), 10)}
}

// Record logs one refusal, or counts it for the next line.
func (l *RefusalLog) Record(message string, args ...any) {
	if !l.limit.Allow() {
		l.skipped.Add(1)
		l.log.Debug(message, args...)
		return
	}
	if n := l.skipped.Swap(0); n > 0 {
		args = append(args, "skipped", n)
	}
	l.log.Warn(message, args...)
}
