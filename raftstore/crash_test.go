package raftstore_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// crashDir makes the test binary a process that writes to a store there, and
// prints what was acknowledged, until it is killed.
const crashDir = "RAFTSTORE_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeUntilKilled(dir)
		return
	}
	os.Exit(m.Run())
}

func writeUntilKilled(dir string) {
	cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "host1")
	cfg.DataDir, cfg.Bootstrap = dir, true
	cfg.Limits.SnapshotEntries = 20
	cfg.Limits.SegmentBytes = 16 << 10
	s, err := raftstore.Open(context.Background(), cfg)
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/k/%d/%d/%d", os.Getpid(), w, i)
				if _, err := s.Commit(context.Background(), put(key, key)); err != nil {
					fmt.Println("commit:", err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println("ack", key)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// TestKilledProcessLosesNothing kills a writing process again and again, and looks for
// every write that was acknowledged to it.
func TestKilledProcessLosesNothing(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var key string
			if _, err := fmt.Sscanf(lines.Text(), "ack %s", &key); err != nil {
				// A line cut off by the end of the process was not told.
				if n < 150 {
					t.Fatalf("round %d: the process said %q", round, lines.Text())
				}
				continue
			}
			acked[key] = true
			if n == 150 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	s := mustOpenSingle(t, dir)
	l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, r := range l.Records {
		have[r.Key] = string(r.Value) == r.Key
	}
	for key := range acked {
		// The last line of a round may have been cut.
		if !have[key] && !isCut(key, have) {
			t.Errorf("acknowledged write %s is lost", key)
		}
	}
	t.Logf("%d acknowledged, %d found", len(acked), len(have))
	if len(acked) < 600 {
		t.Errorf("only %d writes were acknowledged", len(acked))
	}
}

// isCut reports whether key is the beginning of an existing key.
func isCut(key string, have map[string]bool) bool {
	for k := range have {
		if len(k) > len(key) && k[:len(key)] == key {
			return true
		}
	}
	return false
}
