package raftstore

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// hclogBridge lets the hashicorp libraries log to slog. It lowers their levels:
// Raft's info messages are about its internals and become debug messages.
//
// A message that Raft repeats, such as that a peer does not answer, keeps its level
// once a minute and is logged at debug level in between.
type hclogBridge struct {
	log     *slog.Logger
	repeats *repeats
	name    string
	implied []any
}

var _ hclog.Logger = (*hclogBridge)(nil)

func newHclog(l *slog.Logger, name string) hclog.Logger {
	return &hclogBridge{log: l, name: name, repeats: &repeats{told: make(map[string]time.Time)}}
}

func (b *hclogBridge) level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return slog.LevelDebug - 4
	case hclog.Debug, hclog.Info, hclog.NoLevel:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelInfo
	default:
		return slog.LevelWarn
	}
}

// Log implements hclog.Logger.
func (b *hclogBridge) Log(l hclog.Level, msg string, args ...any) {
	level := b.level(l)
	if level > slog.LevelDebug && b.repeats.toldRecently(repeatKey(msg, args)) {
		level = slog.LevelDebug
	}
	if !b.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]any, 0, len(b.implied)+len(args)+2)
	attrs = append(attrs, "component", b.name)
	attrs = append(attrs, b.implied...)
	for _, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		attrs = append(attrs, a)
	}
	b.log.Log(context.Background(), level, msg, attrs...)
}

// Trace implements hclog.Logger.
func (b *hclogBridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }

// Debug implements hclog.Logger.
func (b *hclogBridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }

// Info implements hclog.Logger.
func (b *hclogBridge) Info(msg string, args ...any) { b.Log(hclog.Info, msg, args...) }

// Warn implements hclog.Logger.
func (b *hclogBridge) Warn(msg string, args ...any) { b.Log(hclog.Warn, msg, args...) }

// Error implements hclog.Logger.
func (b *hclogBridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *hclogBridge) enabled(l hclog.Level) bool {
	return b.log.Enabled(context.Background(), b.level(l))
}

// IsTrace implements hclog.Logger.
func (b *hclogBridge) IsTrace() bool { return b.enabled(hclog.Trace) }

// IsDebug implements hclog.Logger.
func (b *hclogBridge) IsDebug() bool { return b.enabled(hclog.Debug) }

// IsInfo implements hclog.Logger.
func (b *hclogBridge) IsInfo() bool { return b.enabled(hclog.Info) }

// IsWarn implements hclog.Logger.
func (b *hclogBridge) IsWarn() bool { return b.enabled(hclog.Warn) }

// IsError implements hclog.Logger.
func (b *hclogBridge) IsError() bool { return b.enabled(hclog.Error) }

// ImpliedArgs implements hclog.Logger.
func (b *hclogBridge) ImpliedArgs() []any { return b.implied }

// With implements hclog.Logger.
func (b *hclogBridge) With(args ...any) hclog.Logger {
	return &hclogBridge{log: b.log, repeats: b.repeats, name: b.name, implied: append(b.implied[:len(b.implied):len(b.implied)], args...)}
}

// Name implements hclog.Logger.
func (b *hclogBridge) Name() string { return b.name }

// Named implements hclog.Logger.
func (b *hclogBridge) Named(name string) hclog.Logger {
	return &hclogBridge{log: b.log, repeats: b.repeats, name: b.name + "." + name, implied: b.implied}
}

// ResetNamed implements hclog.Logger.
func (b *hclogBridge) ResetNamed(name string) hclog.Logger {
	return &hclogBridge{log: b.log, repeats: b.repeats, name: name, implied: b.implied}
}

// SetLevel implements hclog.Logger; slog's handler decides.
func (b *hclogBridge) SetLevel(hclog.Level) {}

// GetLevel implements hclog.Logger.
func (b *hclogBridge) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Info, hclog.Warn} {
		if b.enabled(l) {
			return l
		}
	}
	return hclog.Error
}

// StandardLogger implements hclog.Logger.
func (b *hclogBridge) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(b.StandardWriter(o), "", 0)
}

// StandardWriter implements hclog.Logger.
func (b *hclogBridge) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{b} }

const (
	repeatEvery = time.Minute
	repeatLimit = 1024
)

// repeats remembers which messages were logged recently.
type repeats struct {
	mu   sync.Mutex
	told map[string]time.Time
}

// toldRecently reports whether key was logged within repeatEvery. If it was not, it
// counts as logged now.
func (r *repeats) toldRecently(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if last, ok := r.told[key]; ok && now.Sub(last) < repeatEvery {
		return true
	}
	if len(r.told) >= repeatLimit {
		clear(r.told)
	}
	r.told[key] = now
	return false
}

// repeatKey returns the message and the peer it is about. It leaves out the other
// arguments, because they vary from one repetition to the next.
func repeatKey(msg string, args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "id", "server-id", "address":
			msg += fmt.Sprint(" ", args[i+1])
		}
	}
	return msg
}

type lineWriter struct{ b *hclogBridge }

// Write implements io.Writer.
func (w lineWriter) Write(p []byte) (int, error) {
	w.b.Info(strings.TrimSpace(string(p)))
	return len(p), nil
}
