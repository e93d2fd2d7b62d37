package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	haltedMachines = 100
	// settleTime lets the agents take in what was written and forget what
	// that took.
	settleTime = 10 * time.Second
)

// readMemory prints the memory of the host's agent. It looks for the process by
// its arguments, because its name is that of whatever the binary is called; the
// pattern is written so that the arguments of this script do not match it.
const readMemory = `
for p in /proc/[0-9]*; do
  if tr '\0' ' ' <"$p/cmdline" 2>/dev/null | grep -q ' [a]gent run'; then
    cat "$p/status" "$p/smaps_rollup"
    exit
  fi
done
echo "the agent does not run" >&2
exit 1`

// measureMemory fills the mesh with machines that do not run and reads what
// the agents take.
func (l *laboratory) measureMemory(ctx context.Context, r *report) error {
	for i := range haltedMachines {
		h := l.hosts[i%len(l.hosts)]
		object, err := l.manifest(fmt.Sprintf("halted-%d", i), h.name, string(kubevirtv1.RunStrategyHalted))
		if err != nil {
			return err
		}
		if _, err := h.dynamic.Resource(vms).Namespace(namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create machine %d: %w", i, err)
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleTime):
	}
	var most memory
	for _, h := range l.hosts {
		out, err := h.shell(ctx, readMemory)
		if err != nil {
			return err
		}
		m, err := parseMemory(out)
		if err != nil {
			return fmt.Errorf("memory of the agent on %s: %w", h.name, err)
		}
		progressf("  agent on %s: %.0f MB RSS, %.0f MB anonymous", h.name, m.rss, m.anonymous)
		most.rss, most.anonymous = max(most.rss, m.rss), max(most.anonymous, m.anonymous)
	}
	name := fmt.Sprintf("agent_%d_vms_", haltedMachines)
	r.add(figure{Name: name + "rss", Value: most.rss, Unit: "MB", Budget: atMost(180)})
	r.add(figure{Name: name + "anonymous", Value: most.anonymous, Unit: "MB", Budget: atMost(120)})
	return nil
}

// restWatch is how long the mesh is watched at rest.
const restWatch = time.Minute

// measureRest counts the log entries of a minute in which a machine runs and nobody asks for
// anything.
func (l *laboratory) measureRest(ctx context.Context, r *report) error {
	const name = "resting"
	if _, _, err := l.startMachine(ctx, l.hosts[0], name); err != nil {
		return fmt.Errorf("start a machine: %w", err)
	}
	leader, err := l.leader(ctx)
	if err != nil {
		return err
	}
	// What the start of the machine and of its guest makes the agents write comes first.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * settleTime):
	}
	before, err := leader.entries(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(restWatch):
	}
	after, err := leader.metric(ctx, entriesApplied)
	if err != nil {
		return err
	}
	r.add(figure{Name: "mesh_at_rest_raft_entries", Value: after - before, Unit: "entries/min", Budget: atMost(0)})
	return l.remove(ctx, l.hosts[0], name)
}

// memory is what a process holds, in MB of a million bytes.
type memory struct{ rss, anonymous float64 }

// parseMemory reads VmRSS of /proc/<pid>/status and Anonymous of smaps_rollup.
func parseMemory(text string) (memory, error) {
	var m memory
	for _, want := range []struct {
		field string
		into  *float64
	}{{"VmRSS:", &m.rss}, {"Anonymous:", &m.anonymous}} {
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) != 3 || fields[0] != want.field || fields[2] != "kB" {
				continue
			}
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return m, fmt.Errorf("%s %w", want.field, err)
			}
			*want.into = kib * 1024 / 1e6
		}
		if *want.into == 0 {
			return m, fmt.Errorf("there is no %s", strings.TrimSuffix(want.field, ":"))
		}
	}
	return m, nil
}
