package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/porttest"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// rotationBy returns the steps of the replacement of the gossip key that a host carries out.
func rotationBy(m *Member, uid types.UID) []Step {
	op := &meshv1alpha1.Operation{}
	op.UID = uid
	return m.GossipRotationSteps(op, objects.FromRaft(m.store, nil))
}

func carryOut(t *testing.T, steps []Step) {
	t.Helper()
	for _, step := range steps {
		if err := step.Do(t.Context(), func(int64, int64) {}); err != nil {
			t.Fatalf("%s: %v", step.Name, err)
		}
	}
}

// hears waits until a host hears another one by gossip.
func hears(t *testing.T, m *Member, other string) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if !slices.Contains(m.peers.otherLive(), other) {
			return fmt.Errorf("%s does not hear %s", m.config.Name, other)
		}
		return nil
	})
}

// gossipWith returns the error of a stranger that has gossip keys and wants to gossip with a host.
func gossipWith(t *testing.T, m *Member, keys [][]byte) error {
	t.Helper()
	cfg := gossip.DefaultConfig()
	cfg.Name, cfg.Mesh, cfg.Keys = "thief", m.identity.MeshID(), keys
	cfg.BindAddr, cfg.AdvertiseAddr, cfg.BindPort = "127.0.0.1", "127.0.0.1", porttest.Reserve(t)
	g, err := gossip.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Shutdown()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = g.Join(ctx, []string{m.config.GossipAddress()})
	return err
}

// Half of the hosts are off while the gossip key is replaced, and one host continues what
// another has begun. Then the old key opens nothing, and the hosts that come back gossip.
func TestTheGossipKeyIsReplacedWhileHostsAreOff(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	path3, config3 := newMachine(t, "host3")
	path4, config4 := newMachine(t, "host4")
	invite(t, second, path3, config3)
	old := first.identity.GossipKeys()
	if err := gossipWith(t, first, old); err != nil {
		t.Fatalf("with the key of now: %v", err)
	}
	third := boot(t, config3)
	if err := third.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	invite(t, third, path4, config4)
	hears(t, first, "host2")
	hears(t, second, "host1")
	hears(t, second, "host3")
	shutdown(third) // host4 was admitted, and has not been on yet
	raftstoretest.Eventually(t, func() error {
		if slices.Contains(second.peers.otherLive(), "host3") {
			return errors.New("host2 has not found out yet that host3 is off")
		}
		return nil
	})
	carryOut(t, rotationBy(second, "one")[:2])
	carryOut(t, rotationBy(first, "one"))
	rec, err := identity.ReadGossip(t.Context(), first.store, raftstore.ReadOptions{})
	if err != nil || rec.Generation != 3 || len(rec.Keys) != 1 || slices.Equal(rec.Keys[0], old[0]) {
		t.Fatalf("generation %d, %d keys, %v", rec.Generation, len(rec.Keys), err)
	}
	for _, m := range []*Member{first, second} {
		if have := m.identity.GossipKeys(); len(have) != 1 || !slices.Equal(have[0], rec.Keys[0]) {
			t.Errorf("%s has %d keys on its disk, or the old one", m.config.Name, len(have))
		}
		if gossipWith(t, m, old) == nil {
			t.Errorf("%s gossips with a stranger that has the old key", m.config.Name)
		}
	}
	hears(t, first, "host2")
	for _, config := range []Config{config3, config4} {
		back := boot(t, config)
		if have := back.identity.GossipKeyring(); have.Generation != 3 || !slices.Equal(have.Keys[0], rec.Keys[0]) {
			t.Errorf("%s comes back with the keys of generation %d", config.Name, have.Generation)
		}
		hears(t, second, config.Name)
	}
}

// helpless opens a member up to its copy of the state, which it cannot use, and lets it wait
// for help until stop.
func helpless(t *testing.T, config Config) (m *Member, stop func()) {
	t.Helper()
	m = newMember(config, testOptions())
	for _, step := range m.openingSteps() {
		if step.what == "open the replicated store" {
			break
		}
		if err := step.run(t.Context()); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.awaitHelp(ctx, raftstore.ErrHalted) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-ended
			shutdown(m)
		})
	}
	t.Cleanup(stop)
	return m, stop
}

// A host that waits for help can follow no change of the keys in time, and nobody may come to
// help for long: it is not waited for. It asks the others for the keys, so they hear it again.
func TestAHostThatWaitsForHelpHoldsUpNoReplacement(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	// As hosts do from level.Apart on: it knows the others by their keys.
	err := identity.NewHosts(first.store).Update(t.Context(), first.identity.Node(), func(r *identity.HostRecord) {
		r.KeyPin, r.KeyKept = first.identity.KeyPin().String(), true
	})
	if err != nil {
		t.Fatal(err)
	}
	sameCopy(t, first, second)
	second.peers.readRecords()
	shutdown(second)
	waiting, stop := helpless(t, second.config)
	raftstoretest.Eventually(t, func() error {
		if slices.Contains(first.peers.Deciders().Members(), "host2") || !slices.Contains(first.peers.otherLive(), "host2") {
			return errors.New("host1 does not hear that host2 waits for help")
		}
		return nil
	})
	carryOut(t, rotationBy(first, "one"))
	raftstoretest.Eventually(t, func() error {
		if have := waiting.identity.GossipKeyring().Generation; have != 3 {
			return fmt.Errorf("while it waits it has the keys of generation %d", have)
		}
		return nil
	})
	hears(t, first, "host2")
	stop()
	if have := boot(t, second.config).identity.GossipKeyring(); have.Generation != 3 {
		t.Errorf("with its copy it has the keys of generation %d", have.Generation)
	}
	hears(t, first, "host2")
}

// The keys of a mesh whose hosts may be of an earlier version are left alone.
func TestKeysAreNotReplacedBelowTheirLevel(t *testing.T) {
	t.Parallel()
	err := mustReplaceKeys(level.Apart - 1)
	if told := fault.Of(err); told.Code != fault.Conflict || told.Remedy == "" {
		t.Errorf("%+v", told)
	}
	if err := mustReplaceKeys(level.Apart); err != nil {
		t.Error(err)
	}
}

// keysOpen reports whether who has only some keys can read what a host gossips now.
func keysOpen(m *Member, keys [][]byte) bool {
	return slices.ContainsFunc(m.identity.GossipKeys(), func(have []byte) bool {
		return slices.ContainsFunc(keys, func(key []byte) bool { return slices.Equal(key, have) })
	})
}

// After the removal of a host nothing that it has lets it back: its gossip key, its
// certificate, its record, and the key that was made while a host that lags could still have
// told it. With KeepKeys the key stays.
func TestARemovalReplacesTheKeysThatTheHostKnows(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	path3, config3 := newMachine(t, "host3")
	invite(t, second, path3, config3)
	third := boot(t, config3)
	if err := third.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, first, "host3")
	hears(t, first, "host2")
	known := third.identity.GossipKeys()
	token, _, err := identity.NewTokens(third.store).Create(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: "host3", Force: true, KeepKeys: true}}
	op.UID = "removal"
	bury := func(context.Context, string) error { return nil }
	steps := func() []Step { return first.RemovalSteps(op, objects.FromRaft(first.store, nil), bury, nil) }
	kept := len(steps())
	carryOut(t, steps())
	if err := gossipWith(t, first, known); err != nil {
		t.Errorf("the key was to be kept: %v", err)
	}
	op.Spec.KeepKeys = false
	if len(steps()) <= kept {
		t.Fatal("the removal replaces no key")
	}
	carryOut(t, steps()[kept:kept+2])
	known = append(known, first.identity.GossipKeys()...) // a host that lagged has told it
	carryOut(t, steps()[kept:])
	for _, m := range []*Member{first, second} {
		if keysOpen(m, known) || gossipWith(t, m, known[:1]) == nil || gossipWith(t, m, known[len(known)-1:]) == nil {
			t.Errorf("%s still accepts a key that host3 can know", m.config.Name)
		}
	}
	hears(t, second, "host1")
	if known, err := second.signer.KnowsToken(t.Context(), token.ID, token.Secret[:]); known {
		t.Errorf("a token that host3 made still lets a machine join: %v", err)
	}
	if keys, err := third.voters.GossipKeys(t.Context(), "host1"); err == nil {
		t.Errorf("host3 is told the keys of generation %d", keys.Generation)
	}
}

// Two replacements at the same time, such as at the end of two removals: the one that has
// begun last replaces the key, and the other one ends with it.
func TestAReplacementEndsWithALaterOne(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	raftstoretest.Eventually(t, func() error {
		if !m.peers.recorded("host1") {
			return errors.New("host1 does not know its own record yet")
		}
		return nil
	})
	early, late := rotationBy(m, "early"), rotationBy(m, "late")
	carryOut(t, early[:2])
	carryOut(t, late[:2])
	ended := make(chan error, 1)
	go func() { ended <- early[2].Do(t.Context(), func(int64, int64) {}) }()
	carryOut(t, late[2:3])
	select {
	case err := <-ended:
		t.Fatalf("it has ended before the later one: %v", err)
	default:
	}
	carryOut(t, late[3:])
	if err := <-ended; err != nil {
		t.Error(err)
	}
	carryOut(t, early[3:])
	rec, err := identity.ReadGossip(t.Context(), m.store, raftstore.ReadOptions{})
	if err != nil || rec.Rotation != "late" || len(rec.Keys) != 1 {
		t.Errorf("%q, %d keys, %v", rec.Rotation, len(rec.Keys), err)
	}
}
