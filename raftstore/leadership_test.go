package raftstore_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// logHook is a slog handler that calls a function with every logged message.
type logHook func(string)

func (logHook) Enabled(context.Context, slog.Level) bool { return true }
func (h logHook) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h logHook) WithGroup(string) slog.Handler          { return h }
func (h logHook) Handle(_ context.Context, r slog.Record) error {
	h(r.Message)
	return nil
}

// TestNewLeaderTriesAgain: a leader whose first barrier fails, here because the
// disk is slow, must get ready nevertheless.
func TestNewLeaderTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan struct{})
		once := sync.OnceFunc(func() { close(failed) })
		var writes atomic.Int32
		s := raftstoretest.New(t, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.DataDir = t.TempDir()
			cfg.Timing.RPC = 50 * time.Millisecond
			cfg.Logger = slog.New(logHook(func(m string) {
				if strings.HasPrefix(m, "new leader could not commit") {
					once()
				}
			}))
			raftstore.WrapLog(cfg, func() error {
				// The first write founds the group, the second is a new leader's.
				if writes.Add(1) == 2 {
					<-failed
				}
				return nil
			})
		}))
		mustCommit(t, s, put("/k", "v"))
	})
}
