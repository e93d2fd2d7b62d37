package enrol

import (
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// refusalLog logs refused requests. Anybody can cause one, so only a few are warnings:
// ten at once, then one every ten seconds, which says how many it stands for. The others
// are at debug level.
type refusalLog struct {
	log     *slog.Logger
	limit   *rate.Limiter
	skipped *atomic.Int64
}

func newRefusalLog(log *slog.Logger) refusalLog {
	return refusalLog{log: log, limit: rate.NewLimiter(rate.Every(10*time.Second), 10), skipped: new(atomic.Int64)}
}

func (l refusalLog) record(message string, args ...any) {
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
