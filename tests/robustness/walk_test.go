package robustness

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/tests/robustness/mesh"
)

var (
	seedFlag = flag.Uint64("robust.seed", 0, "run only the random walk of this seed")
	soakFlag = flag.Duration("robust.soak", 0, "take random walks of new seeds for this long")
)

// walkSteps is how long a walk is, and walkHosts how many hosts it goes through.
const (
	walkSteps = 40
	walkHosts = 5
)

// TestRandomWalk lets random faults meet. A failure names its seed:
// go test ./tests/robustness -run TestRandomWalk -robust.seed SEED
func TestRandomWalk(t *testing.T) {
	seeds := []uint64{1, 3}
	switch {
	case *seedFlag > 0:
		seeds = []uint64{*seedFlag}
	case *soakFlag > 0:
		seeds = nil
		for begun := time.Now(); time.Since(begun) < *soakFlag && !t.Failed(); {
			walk(t, uint64(time.Now().UnixNano()%1e9))
		}
	}
	for _, seed := range seeds {
		walk(t, seed)
	}
}

func walk(t *testing.T, seed uint64) {
	t.Run(fmt.Sprint("robust.seed=", seed), func(t *testing.T) {
		tellStory(t, newConfig(), walkHosts, func(s story) {
			w := mesh.NewWalk(s.Mesh, seed)
			w.Create, w.Delete = s.tryCreate, s.tryRemove
			for range walkSteps {
				w.Step()
			}
			s.check(w.End())
			s.awaitAgreement(10 * time.Minute)
			s.awaitOrder(10 * time.Minute)
			for _, wrong := range w.Wrong(s.names()) {
				t.Error(wrong)
			}
		})
	})
}

// try lets a user act for at most half a minute.
func (s story) try(build func(ctx context.Context, store objects.Store, tx *objects.Tx) error) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	return s.Commit(ctx, build) // without a quorum it fails, and what becomes of it is open
}

func (s story) tryCreate(name string) error {
	return s.try(func(_ context.Context, _ objects.Store, tx *objects.Tx) error {
		tx.Create(newMachine(name))
		return nil
	})
}

func (s story) tryRemove(name string) error {
	return s.try(func(ctx context.Context, store objects.Store, tx *objects.Tx) error {
		vm, err := objects.Get[*kubevirtv1.VirtualMachine](ctx, store, objects.Key{Namespace: "default", Name: name}, raftstore.ReadOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			tx.Delete(vm, objects.DeleteOptions{})
		}
		return err
	})
}

// awaitOrder waits until every machine runs, on one host, and nothing else does.
func (s story) awaitOrder(limit time.Duration) {
	s.t.Helper()
	var machines, guests []string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Second) {
		machines, guests = s.machines(), nil
		for _, h := range s.Hosts() {
			for _, guest := range h.Guests() {
				guests = append(guests, guest.Owner.Ref.String()+" "+string(kubevirtv1.VirtualMachineStatusRunning))
			}
		}
		slices.Sort(guests)
		if slices.Equal(machines, guests) {
			return
		}
	}
	s.t.Errorf("after %s the machines are %v, and the guests %v", limit, machines, guests)
}

// names returns the names of the machines.
func (s story) names() (names []string) {
	s.t.Helper()
	for _, machine := range s.machines() {
		_, name, _ := strings.Cut(strings.Fields(machine)[0], "/")
		names = append(names, name)
	}
	return names
}

// machines returns the names of the machines and how they are, in order.
func (s story) machines() (names []string) {
	s.t.Helper()
	s.check(s.act(func(ctx context.Context, store objects.Store, _ *objects.Tx) error {
		vms, _, err := objects.List[*kubevirtv1.VirtualMachine](ctx, store, "", raftstore.ReadOptions{})
		names = nil
		for _, vm := range vms {
			names = append(names, objects.KeyOf(vm).String()+" "+string(vm.Status.PrintableStatus))
		}
		return err
	}))
	slices.Sort(names)
	return names
}
