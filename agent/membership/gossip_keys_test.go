package membership

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// keysOf is a gossipKeys of a host of a test, with the keys that gossip was given last.
func keysOf(t *testing.T, mesh *identitytest.Mesh) (k *gossipKeys, given *[][]byte) {
	t.Helper()
	given = new([][]byte)
	return &gossipKeys{
		store: mesh.Store, identity: mesh.First, log: testOptions().Logger,
		set:     func(keys [][]byte) error { *given = keys; return nil },
		unheard: func() []string { return nil }, others: func() []string { return nil },
		ask: func(context.Context, string) (identity.GossipKeyring, error) {
			return identity.GossipKeyring{}, errors.New("nobody answers")
		},
	}, given
}

// apartFromLeader is a copy of the mesh's state on a host that reaches no leader.
type apartFromLeader struct{ identity.Store }

func (s apartFromLeader) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if opts.Consistency != raftstore.Local {
		return raftstore.Record{}, 0, raftstore.ErrNoLeader
	}
	return s.Store.Get(ctx, key, opts)
}

// A host that was cut off while the key was replaced, and whose copy of the state is still
// old, takes the keys of a host that it does not hear, keeps them, and does not go back.
func TestAHostThatWasCutOffAsksForTheKeys(t *testing.T) {
	t.Parallel()
	mesh := identitytest.NewMesh(t)
	k, given := keysOf(t, mesh)
	before := mesh.First.GossipKeys()
	k.store = apartFromLeader{mesh.Store}
	k.unheard = func() []string { return []string{"host2", "host3", "host4"} }
	newer := identity.GossipKeyring{Generation: 7, Keys: [][]byte{make([]byte, identity.GossipKeyLen)}}
	k.ask = func(_ context.Context, host string) (identity.GossipKeyring, error) {
		switch host {
		case "host2":
			return newer, nil
		case "host3":
			return identity.GossipKeyring{Generation: 0, Keys: before}, nil
		}
		return identity.GossipKeyring{}, errors.New("off")
	}
	k.keepKeys(t.Context())
	if len(*given) != 1 || !slices.Equal((*given)[0], newer.Keys[0]) {
		t.Fatalf("gossip was given %d keys", len(*given))
	}
	again, err := identity.Open(mesh.First.Dir())
	if err != nil || again.GossipKeyring().Generation != 7 || !slices.Equal(again.GossipKeys()[0], newer.Keys[0]) {
		t.Errorf("generation %d on disk, %v", again.GossipKeyring().Generation, err)
	}
	if k.keepKeys(t.Context()); mesh.First.GossipKeyring().Generation != 7 {
		t.Errorf("it goes back to generation %d", mesh.First.GossipKeyring().Generation)
	}
}

// After a recovery a host that waits for the new copy tells the keys of before, which are of a
// higher generation. Who can ask the mesh does not take them, not even for a moment.
func TestTheStateOfTheMeshOutweighsWhatAHostTells(t *testing.T) {
	t.Parallel()
	mesh := identitytest.NewMesh(t)
	k, given := keysOf(t, mesh)
	k.unheard = func() []string { return []string{"host2"} }
	asked := 0
	k.ask = func(context.Context, string) (identity.GossipKeyring, error) {
		asked++
		return identity.GossipKeyring{Generation: 7, Keys: [][]byte{make([]byte, identity.GossipKeyLen)}}, nil
	}
	for range 2 {
		k.asked = time.Time{}
		k.keepKeys(t.Context())
	}
	if asked != 2 || len(*given) > 0 || mesh.First.GossipKeyring().Generation != 0 {
		t.Errorf("asked %d times: generation %d", asked, mesh.First.GossipKeyring().Generation)
	}
}

// A host that has no copy of the state yet, and hears all others, learns of other keys from them.
func TestAHostWithoutACopyAsksForTheKeys(t *testing.T) {
	t.Parallel()
	mesh := identitytest.NewMesh(t)
	k, given := keysOf(t, mesh)
	k.store, k.others = identitytest.NewStore(), func() []string { return []string{"host2"} }
	k.ask = func(context.Context, string) (identity.GossipKeyring, error) {
		return identity.GossipKeyring{Generation: 1, Keys: [][]byte{make([]byte, identity.GossipKeyLen)}}, nil
	}
	k.keepKeys(t.Context())
	if len(*given) != 1 || mesh.First.GossipKeyring().Generation != 1 {
		t.Errorf("generation %d", mesh.First.GossipKeyring().Generation)
	}
}

// After the restore of a backup the mesh has older keys than its hosts: they go back.
func TestARestoredMeshHasItsOldKeys(t *testing.T) {
	t.Parallel()
	mesh := identitytest.NewMesh(t)
	k, given := keysOf(t, mesh)
	before := mesh.First.GossipKeyring()
	if err := k.takeKeys(identity.GossipKeyring{Generation: 7, Keys: [][]byte{make([]byte, identity.GossipKeyLen)}}); err != nil {
		t.Fatal(err)
	}
	k.keepKeys(t.Context())
	if len(*given) != 1 || !slices.Equal((*given)[0], before.Keys[0]) || mesh.First.GossipKeyring().Generation != before.Generation {
		t.Errorf("generation %d", mesh.First.GossipKeyring().Generation)
	}
}

// Keys that gossip did not take are given to it again, though they are on disk already.
func TestGossipGetsItsKeysAtLast(t *testing.T) {
	t.Parallel()
	mesh := identitytest.NewMesh(t)
	k, given := keysOf(t, mesh)
	set := k.set
	k.set = func([][]byte) error { return errors.New("not now") }
	if err := identity.GiveGossipKey(t.Context(), mesh.Store, "one"); err != nil {
		t.Fatal(err)
	}
	k.keepKeys(t.Context())
	k.set = set
	k.keepKeys(t.Context())
	if len(*given) != 2 {
		t.Errorf("gossip has %d keys", len(*given))
	}
}
