//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// restPeriod is how long TestMeshAtRestWritesNothing watches, and restGuests how many
// guests run meanwhile. SOAK=MINUTES makes it watch for that long, with more guests.
func restPeriod(t *testing.T) (period time.Duration, restGuests int) {
	t.Helper()
	soak := os.Getenv("SOAK")
	if soak == "" {
		return time.Minute, 3
	}
	minutes, err := strconv.Atoi(soak)
	if err != nil || minutes < 1 {
		t.Fatalf("SOAK=%q is not a number of minutes", soak)
	}
	return time.Duration(minutes) * time.Minute, 30
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

// A mesh whose guests run and whose users are silent writes nothing.
func TestMeshAtRestWritesNothing(t *testing.T) {
	period, guests := restPeriod(t)
	ns := namespace(t, "host1")
	var clients []api
	for i := range hosts {
		clients = append(clients, connect(t, fmt.Sprintf("host%d", i+1)))
	}
	read := func() map[string]float64 {
		counts, err := written(t.Context(), clients)
		if err != nil {
			t.Fatal(err)
		}
		return counts
	}
	start := read()
	for i := range guests {
		apply(t, "host1", machine(ns, fmt.Sprintf("rest-%d", i)))
	}
	for i := range guests {
		waitRunning(t, clients[0], ns, fmt.Sprintf("rest-%d", i), 6*time.Minute)
	}
	before := read()
	t.Logf("%d guests run; written so far:%s", guests, more(start, before))
	// What other tests left behind is cleaned up by loops that look once a minute, so a
	// shorter silence is no rest yet.
	eventually(t, 6*time.Minute, "rest", func(ctx context.Context) error {
		last := before
		select {
		case <-time.After(75 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		before = read()
		if text := more(last, before); text != "" {
			return fmt.Errorf("still written:%s", text)
		}
		return nil
	})
	select {
	case <-time.After(period):
	case <-t.Context().Done():
	}
	if text := more(before, read()); text != "" {
		t.Errorf("in %s at rest the mesh wrote:%s", period, text)
	}
}
