package robustness

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/tests/robustness/mesh"
)

// expectEntries checks which entries follow a user's act, before its events are so old
// that they are deleted.
func (s story) expectEntries(act func(), want ...string) {
	s.t.Helper()
	before := len(s.History.Writes())
	act()
	time.Sleep(50 * time.Minute)
	writes := s.History.Writes()[before:]
	slices.SortStableFunc(writes, func(a, b mesh.Write) int { return cmp.Compare(a.Revision, b.Revision) })
	var got []string
	for _, w := range writes {
		line := w.Writer + ": " + w.Kinds
		if w.Err != nil {
			line += ", refused: " + w.Err.Error()
		}
		got = append(got, line)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("the entries are\n%q, want\n%q", got, want)
	}
}

// A machine costs four log entries until its guest runs, one more for its own
// status, and nothing from then on, however far the caches are behind. Its end
// costs four, and a fifth that is shared by all machines that end in one minute. The events
// are deleted an hour later, all those of five minutes by one entry.
func TestLifeOfMachineWritesFewEntries(t *testing.T) {
	for _, lag := range []time.Duration{0, 2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(fmt.Sprint("lag ", lag), func(t *testing.T) {
			config := newConfig()
			config.Lag = lag
			tellStory(t, config, 1, func(s story) {
				time.Sleep(rolesWritten)
				s.expectEntries(func() { s.create("web") },
					"user: virtualmachines",
					"virtualmachine: virtualmachineinstances events virtualmachines",
					"placement: claims virtualmachineinstances events",
					"executor: virtualmachineinstances events", // the guest runs
					"virtualmachine: virtualmachines",
				)
				vm := get[*kubevirtv1.VirtualMachine](s, "web")
				if vm == nil || vm.Status.PrintableStatus != kubevirtv1.VirtualMachineStatusRunning || !vm.Status.Ready {
					t.Fatalf("the machine is %+v", vm)
				}
				if phase := s.phase("web"); phase != kubevirtv1.Running {
					t.Errorf("the instance is %q", phase)
				}
				time.Sleep(20 * time.Minute)
				s.expectEntries(func() { s.remove("web") },
					"user: virtualmachines",
					"virtualmachine: virtualmachineinstances events virtualmachines",
					"executor: virtualmachineinstances claims events",
					"virtualmachine: virtualmachineinstances virtualmachines",
					"epochs: claims", // the epochs of the names that are free again
				)
				if left := s.list("/registry/kubevirt.io/"); len(left) > 0 {
					t.Errorf("left are %v", left)
				}
			})
		})
	}
}

// list returns the keys below a prefix.
func (s story) list(prefix string) (keys []string) {
	s.check(s.act(func(ctx context.Context, store objects.Store, _ *objects.Tx) error {
		result, err := store.List(ctx, raftstore.ListRequest{Prefix: prefix})
		keys = nil
		for _, rec := range result.Records {
			keys = append(keys, rec.Key)
		}
		return err
	}))
	return keys
}
