package robustness

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/tests/robustness/mesh"
)

// story is a mesh in the course of a test.
type story struct {
	*mesh.Mesh
	t *testing.T
	// turns counts how often guests have played, by UID.
	turns map[string]int
}

// newConfig returns the configuration of the meshes of these tests, whose gossip is four
// times slower than real: it costs most of the work of a mesh at rest.
func newConfig() mesh.Config {
	c := mesh.DefaultConfig()
	for _, d := range []*time.Duration{&c.Gossip.ProbeInterval, &c.Gossip.ProbeTimeout, &c.Gossip.GossipInterval, &c.Gossip.Hold} {
		*d *= 4
	}
	return c
}

// perMinute is the most entries that a mesh of these tests may write in a minute. About 40 of them
// are the roles that a mesh writes once, within seconds of its start.
const perMinute = 160

// rolesWritten is when a mesh has written the roles that it starts with, also if its caches are
// behind and some writes are repeated.
const rolesWritten = 5 * time.Minute

// tellStory calls scenario with a mesh of n hosts in fake time, and checks at the end what a
// mesh promises never to do.
func tellStory(t *testing.T, config mesh.Config, n int, scenario func(s story)) {
	t.Helper()
	tellWithin(t, mesh.Limits{PerMinute: perMinute}, config, n, scenario)
}

// tellWithin is tellWith with other limits.
func tellWithin(t *testing.T, limits mesh.Limits, config mesh.Config, n int, scenario func(s story)) {
	t.Helper()
	config.Dir = t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := story{mesh.New(config), t, map[string]int{}}
		defer func() {
			s.Close()
			for _, wrong := range s.History.Check(limits) {
				t.Error(wrong)
			}
			if t.Failed() {
				t.Log(s.History)
			}
		}()
		s.check(s.Start(t.Context(), n))
		scenario(s)
	})
}

func (s story) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// act lets a user act until it succeeds. If that takes longer than five minutes, the
// test ends.
func (s story) act(build func(ctx context.Context, store objects.Store, tx *objects.Tx) error) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	return s.Commit(ctx, build)
}

// create creates a machine.
func (s story) create(name string) {
	s.t.Helper()
	s.check(s.act(func(_ context.Context, _ objects.Store, tx *objects.Tx) error {
		tx.Create(newMachine(name))
		return nil
	}))
}

// createOn makes a machine that runs on one host only.
func (s story) createOn(host, name string) {
	s.t.Helper()
	s.check(s.act(func(_ context.Context, _ objects.Store, tx *objects.Tx) error {
		vm := newMachine(name)
		vm.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: host}
		tx.Create(vm)
		return nil
	}))
}

// remove deletes a machine.
func (s story) remove(name string) {
	s.t.Helper()
	s.check(s.act(func(ctx context.Context, store objects.Store, tx *objects.Tx) error {
		vm, err := objects.Get[*kubevirtv1.VirtualMachine](ctx, store, objects.Key{Namespace: "default", Name: name}, raftstore.ReadOptions{})
		if err == nil {
			tx.Delete(vm, objects.DeleteOptions{})
		}
		return err
	}))
}

// get returns an object in the default namespace, nil if there is none.
func get[T objects.Object](s story, name string) T {
	s.t.Helper()
	return getKey[T](s, objects.Key{Namespace: "default", Name: name})
}

// getKey returns an object, nil if there is none.
func getKey[T objects.Object](s story, key objects.Key) (object T) {
	s.t.Helper()
	s.check(s.act(func(ctx context.Context, store objects.Store, _ *objects.Tx) (err error) {
		object, err = objects.Get[T](ctx, store, key, raftstore.ReadOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}))
	return object
}

// phase returns the phase of an instance; empty if there is none.
func (s story) phase(name string) kubevirtv1.VirtualMachineInstancePhase {
	s.t.Helper()
	if vmi := get[*kubevirtv1.VirtualMachineInstance](s, name); vmi != nil {
		return vmi.Status.Phase
	}
	return ""
}

// awaitAgreement waits until all members agree.
func (s story) awaitAgreement(limit time.Duration) {
	s.t.Helper()
	var wrong []string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Second) {
		if wrong = s.Disagreement(s.t.Context()); len(wrong) == 0 {
			return
		}
	}
	s.t.Errorf("still after %s: %v", limit, wrong)
}
