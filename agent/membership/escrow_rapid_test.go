package membership

import (
	"encoding/json"
	"log/slog"
	"math"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// escrowModel is a mesh with one voter, whose keys are replaced and whose records a hostile
// member writes.
type escrowModel struct {
	t      *rapid.T
	mesh   *identitytest.Mesh
	keeper escrowKeeper
	// other is a host that holds nothing: what it has after a recovery is what a bundle gives back.
	other *identity.Identity
	// newest is the bundle that root has made last; nil: none. thief's is nobody's.
	newest *identity.Bundle
	thief  identity.Bundle
	// escrows and notes are what was stored before.
	escrows, notes [][]byte
}

func newEscrowModel(t *rapid.T, tb testing.TB) *escrowModel {
	mesh := identitytest.NewMesh(tb)
	self := func() []string { return []string{"host1"} }
	e := &escrowModel{t: t, mesh: mesh, other: mesh.Host(tb, "host2", 0), keeper: escrowKeeper{keyringKeeper{
		self: "host1", store: mesh.Store, identity: mesh.First, level: func() uint32 { return level.Succession },
		voters: self, leads: func() bool { return true }, live: self, voted: new(sync.Map), log: slog.New(slog.DiscardHandler),
	}}}
	e.thief = must(t, mesh.First.Bundle)
	e.thief.CAKey, e.thief.SecretKeys = e.newCAKey(), nil
	e.must(e.thief.AddRecipient())
	return e
}

func must[V any](t *rapid.T, of func() (V, error)) V {
	v, err := of()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (e *escrowModel) must(err error) {
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *escrowModel) newCA() *identity.CA {
	return must(e.t, func() (*identity.CA, error) { return identity.NewCA(e.mesh.First.MeshID()) })
}

func (e *escrowModel) newCAKey() []byte { return must(e.t, e.newCA().KeyPEM) }

func (e *escrowModel) custody() identity.Custody {
	return must(e.t, func() (identity.Custody, error) {
		return identity.ReadCustody(e.t.Context(), e.mesh.Store, raftstore.ReadOptions{})
	})
}

func (e *escrowModel) secrets() (identity.SecretKeysRecord, raftstore.Record) {
	keys, stored, err := identity.ReadSecretKeys(e.t.Context(), e.mesh.Store, raftstore.ReadOptions{})
	e.must(err)
	return keys, stored
}

// write stores a record as any member can; nil deletes it.
func (e *escrowModel) write(key string, value []byte) {
	_, err := e.mesh.Store.Commit(e.t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: value, Delete: value == nil}}})
	e.must(err)
}

func (e *escrowModel) encode(value any) []byte {
	return must(e.t, func() ([]byte, error) { return json.Marshal(value) })
}

func (e *escrowModel) makeBundle(*rapid.T) {
	bundle := must(e.t, e.mesh.First.Bundle)
	e.must(bundle.AddRecipient())
	note := identity.BundleMade{CAPin: e.custody().CA.String(), Made: bundle.Made, Host: "host1"}
	note.SecretKeys, note.Recipient = must(e.t, bundle.SecretKeyIDs), must(e.t, bundle.Recipient)
	e.must(e.mesh.First.RecordNewBundle(e.t.Context(), e.mesh.Store, note))
	e.newest = &bundle
	e.notes = append(e.notes, e.encode(identity.BundlesRecord{Last: *e.mesh.First.KnownBundle()}))
}

func (e *escrowModel) makeSecretKey(t *rapid.T) {
	keys, stored := e.secrets()
	if keys.Pending() != "" {
		t.Skip("one waits")
	}
	next := must(t, sealed.NewKey)
	e.must(e.mesh.First.KeepSecretKeys(next))
	keys.Keys = append(keys.Keys, identity.NewSecretKeyRecord(next))
	e.must(identity.StoreSecretKeys(t.Context(), e.mesh.Store, stored, keys))
}

// useSecretKey is what secretsKeeper does, which asks the other voters besides.
func (e *escrowModel) useSecretKey(t *rapid.T) {
	keys, stored := e.secrets()
	if keys.Pending() == "" {
		t.Skip("none waits")
	}
	recovered, err := e.keeper.mustRecover(t.Context(), identity.Holds{SecretKeyIDs: keys.IDs()})
	if err != nil {
		t.Skip(err)
	}
	keys.Active = keys.Pending()
	keys.Keys = keys.Keys[max(0, len(keys.Keys)-1-keptOldKeys):]
	e.must(identity.StoreSecretKeys(t.Context(), e.mesh.Store, stored, keys, recovered...))
	e.must(e.mesh.First.RetainSecretKeys(keys.IDs()...))
	e.givesBack(*e.newest, identity.Holds{SecretKeyIDs: keys.IDs()})
}

func (e *escrowModel) record() (rec identity.CARecord) {
	stored, _, err := e.mesh.Store.Get(e.t.Context(), identity.KeyCA, raftstore.ReadOptions{})
	e.must(err)
	e.must(json.Unmarshal(stored.Value, &rec))
	return rec
}

func (e *escrowModel) makeCA(t *rapid.T) {
	rec := e.record()
	if len(rec.Next) > 0 {
		t.Skip("one is on its way")
	}
	next := e.newCA()
	e.must(e.mesh.First.KeepCAKey(must(t, next.KeyPEM)))
	rec.Key, rec.Next = nil, next.CertificatePEM()
	e.write(identity.KeyCA, e.encode(rec))
}

// useCA lets the next CA sign and drops the key of the one before, in one step.
func (e *escrowModel) useCA(t *rapid.T) {
	rec := e.record()
	next, ok := rec.NextCA()
	if !ok {
		t.Skip("none is on its way")
	}
	if _, err := e.keeper.mustRecover(t.Context(), identity.Holds{CAPins: []string{next.String()}}); err != nil {
		t.Skip(err)
	}
	rec.Certificate, rec.Bundle, rec.Next = rec.Next, rec.Next, nil
	e.write(identity.KeyCA, e.encode(rec))
	for _, host := range []*identity.Identity{e.mesh.First, e.other} {
		_, err := host.KeepTrust(rec.Bundle, 0)
		e.must(err)
	}
	e.must(e.mesh.First.DropCAKeysBut(next))
	e.givesBack(*e.newest, identity.Holds{CAPins: []string{next.String()}})
}

func (e *escrowModel) keep(t *rapid.T) {
	if act, err := e.keeper.step(t.Context()); err != nil && e.newest != nil {
		t.Fatalf("%s: %v", act, err)
	}
	if escrow := e.custody().Escrow; escrow != nil {
		e.escrows = append(e.escrows, e.encode(escrow))
	}
}

func (e *escrowModel) replayEscrow(t *rapid.T) {
	written := append([][]byte{nil, []byte("{}")}, e.escrows...)
	if escrow := e.custody().Escrow; escrow != nil { // it says that it holds all
		escrow.Holds = must(t, func() (identity.Holds, error) { return e.keeper.used(t.Context(), e.custody()) })
		written = append(written, e.encode(escrow))
	}
	e.write(identity.KeyEscrow, rapid.SampledFrom(written).Draw(t, "escrow"))
}

func (e *escrowModel) replayNote(t *rapid.T) {
	forged := identity.BundleMade{CAPin: e.custody().CA.String(), Host: "host1", Number: rapid.SampledFrom([]uint64{0, 1, 2, 3, 100, math.MaxUint64}).Draw(t, "number"), Recipient: must(t, e.thief.Recipient)}
	keys, _ := e.secrets()
	forged.SecretKeys = keys.IDs()
	e.write(identity.KeyBundles, rapid.SampledFrom(append([][]byte{nil, e.encode(identity.BundlesRecord{Last: forged})}, e.notes...)).Draw(t, "note"))
}

// givesBack checks that a bundle and what is in escrow now give back some keys.
func (e *escrowModel) givesBack(bundle identity.Bundle, keys identity.Holds) {
	e.take(bundle)
	if !e.other.Holds(keys) {
		e.t.Fatalf("the newest bundle gives back the CAs %q and the keys %q, want %+v", e.other.HeldCAs(), e.other.SecretKeyIDs(), keys)
	}
}

// take recovers the other host with a bundle and what is in escrow now.
func (e *escrowModel) take(bundle identity.Bundle) {
	e.must(e.other.DropCAKey())
	e.must(e.other.RetainSecretKeys())
	if escrow := e.custody().Escrow; escrow != nil {
		opened, err := bundle.WithEscrow(*escrow)
		e.must(err)
		bundle = opened
	}
	e.must(e.other.TakeBundle(bundle))
}

// check is run after each action: nothing is in escrow for the thief.
func (e *escrowModel) check(t *rapid.T) {
	escrow := e.custody().Escrow
	if escrow == nil || escrow.Recipient != must(t, e.thief.Recipient) {
		return
	}
	e.take(e.thief)
	t.Fatalf("the thief has the CAs %q and the keys %q", e.other.HeldCAs(), e.other.SecretKeyIDs())
}

// settled lets the leader look until it is done: then the newest bundle gives back all, and the
// state names it.
func (e *escrowModel) settled(t *rapid.T) {
	if e.newest == nil {
		t.Skip("no bundle")
	}
	acts := 0
	for act := settleNote; act != nothingToEscrow; acts++ {
		var err error
		if act, err = e.keeper.step(t.Context()); err != nil || acts > 3 {
			t.Fatalf("after %d moves: %s, %v", acts, act, err)
		}
	}
	e.givesBack(*e.newest, must(t, func() (identity.Holds, error) { return e.keeper.used(t.Context(), e.custody()) }))
	if got := e.custody().Bundle; got.Recipient != must(t, e.newest.Recipient) {
		t.Fatalf("the note is of a bundle for %q", got.Recipient)
	}
}

// Whatever is replaced when, and whatever a hostile member writes into the records meanwhile: a
// key is used only when the newest bundle gives it back, the newest bundle gives back all keys
// as soon as the leader has looked, and nobody else gets one.
func TestTheNewestBundleGivesBackAllKeys(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		e := newEscrowModel(rt, t)
		rt.Repeat(map[string]func(*rapid.T){
			"root makes a bundle": e.makeBundle, "make a key for Secrets": e.makeSecretKey, "use the key": e.useSecretKey,
			"make a CA": e.makeCA, "use the CA": e.useCA, "the leader looks": e.keep,
			"a member writes the escrow": e.replayEscrow, "a member writes the note": e.replayNote,
			"the leader looks until it is done": e.settled, "": e.check,
		})
	})
}
