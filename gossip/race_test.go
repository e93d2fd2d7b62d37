//go:build race

package gossip_test

import (
	"os"
	"runtime"
	"testing"
)

// TestMain runs everything on one CPU when the race detector watches: two
// threads that fire timers of one synctest bubble at the same time crash it
// (golang/go#78156). The detector finds races by the happens-before relation, so it
// misses little on one CPU.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	os.Exit(m.Run())
}
