//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// restingInCI is how long CI watches a mesh at rest: one round of the loops that look once a
// minute. What happens less often is left to SOAK, and to tests/robustness in fake time.
const restingInCI = 65 * time.Second

// soak returns for how long SOAK=MINUTES wants a mesh at rest to be watched, 0 if it is not
// set.
func soak(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return 0
	}
	minutes, err := strconv.Atoi(text)
	if err != nil || minutes < 1 {
		t.Fatalf("SOAK=%q is not a number of minutes", text)
	}
	return time.Duration(minutes) * time.Minute
}

// written reads from all hosts how many records which writer has written of which kind.
// The deletion of events that are an hour old is left out: it belongs to what happened
// then.
func written(ctx context.Context, clients []api) (map[string]float64, error) {
	counts := map[string]float64{}
	for i, a := range clients {
		text, err := a.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the metrics of host%d: %w", i+1, err)
		}
		for line := range strings.Lines(string(text)) {
			labels, ok := strings.CutPrefix(line, "virtmesh_writes_total")
			if !ok || strings.Contains(labels, `writer="old-events"`) {
				continue
			}
			labels, value, _ := strings.Cut(strings.TrimSpace(labels), " ")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, fmt.Errorf("metrics of host%d: %q: %w", i+1, line, err)
			}
			counts[fmt.Sprintf("host%d %s", i+1, labels)] = n
		}
	}
	if len(counts) == 0 {
		return nil, fmt.Errorf("no host has counted a write")
	}
	return counts, nil
}

// more lists what was written between two readings, by host, writer and kind.
func more(before, after map[string]float64) string {
	var b strings.Builder
	for _, who := range slices.Sorted(maps.Keys(after)) {
		if n := after[who] - before[who]; n > 0 {
			fmt.Fprintf(&b, "\n  %4.0f %s", n, who)
		}
	}
	return b.String()
}

// resting is a mesh with guests that writes nothing.
type resting struct {
	t       *testing.T
	clients []api
}

// startResting lets guests run.
func startResting(t *testing.T, guests int) resting {
	t.Helper()
	r := resting{t: t}
	for i := range hosts {
		r.clients = append(r.clients, connect(t, fmt.Sprintf("host%d", i+1)))
	}
	ns := namespace(t, "host1")
	start := r.written()
	for i := range guests {
		apply(t, "host1", machine(ns, fmt.Sprintf("rest-%d", i)))
	}
	for i := range guests {
		waitRunning(t, r.clients[0], ns, fmt.Sprintf("rest-%d", i), 6*time.Minute)
	}
	t.Logf("%d guests run; written so far:%s", guests, more(start, r.written()))
	return r
}

// awaitRest waits until nothing was written for a time. What other tests left behind is
// cleaned up by loops that look once a minute, so a mesh may write for a while first.
func (r resting) awaitRest(silence time.Duration) {
	r.t.Helper()
	last, since := r.written(), time.Now()
	eventually(r.t, 6*time.Minute, silence.String()+" of silence", func(context.Context) error {
		now := r.written()
		if text := more(last, now); text != "" {
			last, since = now, time.Now()
			return fmt.Errorf("still written:%s", text)
		}
		if quiet := time.Since(since); quiet < silence {
			return fmt.Errorf("nothing was written for %s", quiet)
		}
		return nil
	})
}

// written reads what was written so far.
func (r resting) written() map[string]float64 {
	r.t.Helper()
	counts, err := written(r.t.Context(), r.clients)
	if err != nil {
		r.t.Fatal(err)
	}
	return counts
}

// expectSilence checks that nothing is written for a time.
func (r resting) expectSilence(period time.Duration, when string) {
	r.t.Helper()
	before := r.written()
	select {
	case <-time.After(period):
	case <-r.t.Context().Done():
	}
	if text := more(before, r.written()); text != "" {
		r.t.Errorf("in %s %s the mesh wrote:%s", period, when, text)
	}
}

// A mesh whose guests run and whose users are silent comes to rest: it writes nothing. With
// SOAK it also stays at rest for that long, with more guests.
func TestMeshAtRestWritesNothing(t *testing.T) {
	length, guests := soak(t), 3
	if length > 0 {
		guests = 30
	}
	r := startResting(t, guests)
	r.awaitRest(restingInCI)
	if length > 0 {
		r.expectSilence(length, "at rest")
	}
}

// A mesh at rest writes nothing either while other programs take the CPUs. A test of the
// same name in tests/robustness is part of CI and tries more, in fake time.
func TestStarvedMeshWritesNothing(t *testing.T) {
	length := soak(t)
	if length == 0 {
		t.Skip("takes four minutes: make soak runs it")
	}
	r := startResting(t, 3)
	r.awaitRest(restingInCI)
	for range 4 * runtime.NumCPU() {
		busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = busy.Process.Kill()
			_ = busy.Wait() // it was killed
		}()
	}
	r.expectSilence(max(length, 90*time.Second), "without CPU")
}
