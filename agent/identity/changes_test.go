package identity_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// newPin returns the pin of a new key.
func newPin(t *testing.T) string {
	t.Helper()
	pin, err := identity.PinOfKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pin.String()
}

func recordOf(t *testing.T, name, id string) identity.HostRecord {
	t.Helper()
	return identity.HostRecord{Name: name, ID: id, MeshAddress: "10.0.0.1:7443", GossipAddress: "10.0.0.1:7946", KeyPin: newPin(t), KeyKept: true}
}

// with returns the op that puts a record.
func with(t *testing.T, rec identity.HostRecord, change func(*identity.HostRecord)) raftstore.Op {
	t.Helper()
	if change != nil {
		change(&rec)
	}
	data, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	return raftstore.Op{Key: identity.HostKey(rec.Name), Value: data}
}

// membership is a store with the records of host1 and host2, which judges a change before it
// makes it, as a leader does.
type membership struct {
	*identitytest.Store
	hosts      *identity.Hosts
	one, two   identity.HostRecord
	first, at2 uint64 // the revisions of the records
}

func newMembership(t *testing.T) membership {
	t.Helper()
	m := membership{Store: identitytest.NewStore(), one: recordOf(t, "host1", "id-1"), two: recordOf(t, "host2", "id-2")}
	m.hosts = identity.NewHosts(m.Store)
	res, err := m.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{with(t, m.one, nil), with(t, m.two, nil)}})
	if err != nil {
		t.Fatal(err)
	}
	m.first, m.at2 = res.OpRevisions[0], res.OpRevisions[1]
	return m
}

// No host changes what says who another host is, or which key it has; and what it may change, it
// may change only as the leader has judged it.
func TestNobodyWritesTheRecordOfAnother(t *testing.T) {
	m := newMembership(t)
	other := newPin(t)
	at := func(host string, revision uint64) []raftstore.Condition {
		return []raftstore.Condition{{Key: identity.HostKey(host), ModRevision: revision}}
	}
	mark := func(mark string) raftstore.Op {
		return raftstore.Op{Key: identity.DepartedPrefix + "id-2", Value: []byte(mark)}
	}
	ended := `{"host":"host2","expelled":true,"keyPin":"` + m.two.KeyPin + `"}`
	expelled := raftstore.Op{Key: identity.ExpelledPrefix + "host2", Value: []byte(ended)}
	gone := raftstore.Op{Key: identity.HostKey("host2"), Delete: true}
	for what, txn := range map[string]raftstore.Txn{
		"another key":                   {If: at("host2", m.at2), Ops: []raftstore.Op{with(t, m.two, func(r *identity.HostRecord) { r.KeyPin = other })}},
		"another machine":               {If: at("host2", m.at2), Ops: []raftstore.Op{with(t, m.two, func(r *identity.HostRecord) { r.ID, r.KeyPin = "id-9", other })}},
		"another address":               {If: at("host2", m.at2), Ops: []raftstore.Op{with(t, m.two, func(r *identity.HostRecord) { r.MeshAddress = "10.9.9.9:1" })}},
		"another key of its own":        {If: at("host1", m.first), Ops: []raftstore.Op{with(t, m.one, func(r *identity.HostRecord) { r.KeyPin = other })}},
		"no key of its own":             {If: at("host1", m.first), Ops: []raftstore.Op{with(t, m.one, func(r *identity.HostRecord) { r.KeyKept = false })}},
		"another ID of its own":         {If: at("host1", m.first), Ops: []raftstore.Op{with(t, m.one, func(r *identity.HostRecord) { r.ID = "id-9" })}},
		"whatever there is":             {Ops: []raftstore.Op{with(t, m.two, nil)}},
		"a record that says another":    {If: at("host9", 0), Ops: []raftstore.Op{{Key: identity.HostKey("host9"), Value: with(t, m.two, nil).Value}}},
		"no record":                     {If: at("host1", m.first), Ops: []raftstore.Op{{Key: identity.HostKey("host1"), Value: []byte("{")}}},
		"twice":                         {If: at("host1", m.first), Ops: []raftstore.Op{with(t, m.one, nil), with(t, m.one, func(r *identity.HostRecord) { r.KeyPin = other })}},
		"deleted without a mark":        {If: at("host2", m.at2), Ops: []raftstore.Op{gone}},
		"deleted as if it had left":     {If: at("host2", m.at2), Ops: []raftstore.Op{gone, mark(`{"host":"host2","keyPin":"` + m.two.KeyPin + `"}`)}},
		"deleted, and the name is free": {If: at("host2", m.at2), Ops: []raftstore.Op{gone, mark(ended)}},
		"deleted with the mark of a key": {If: at("host2", m.at2), Ops: []raftstore.Op{gone, expelled,
			mark(`{"host":"host2","expelled":true,"keyPin":"` + other + `"}`)}},
		"a mark alone":            {Ops: []raftstore.Op{mark(ended)}},
		"a name that is expelled": {Ops: []raftstore.Op{expelled}},
		"a name that is not":      {Ops: []raftstore.Op{{Key: expelled.Key, Delete: true}}},
		"the ID again, with another key": {If: at("host2", 0), Ops: []raftstore.Op{
			with(t, m.two, func(r *identity.HostRecord) { r.KeyPin = other })}}, // while the record is being deleted
		"the ID of another host under a new name": {If: at("host9", 0), Ops: []raftstore.Op{
			with(t, m.two, func(r *identity.HostRecord) { r.Name = "host9" })}},
	} {
		if err := m.hosts.MayChange("host1", txn); !errors.Is(err, raftstore.ErrForbidden) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A machine that has left removes nobody, although it is let in until it has finished leaving.
func TestWhoHasLeftRemovesNobody(t *testing.T) {
	m := newMembership(t)
	mark := `{"host":"host2","expelled":true,"keyPin":"` + m.two.KeyPin + `"}`
	txn := raftstore.Txn{
		If: []raftstore.Condition{{Key: identity.HostKey("host2"), ModRevision: m.at2}},
		Ops: []raftstore.Op{{Key: identity.HostKey("host2"), Delete: true},
			{Key: identity.DepartedPrefix + "id-2", Value: []byte(mark)}, {Key: identity.ExpelledPrefix + "host2", Value: []byte(mark)}},
	}
	if err := m.hosts.MayChange("host1", txn); err != nil {
		t.Errorf("a host: %v", err)
	}
	err := m.hosts.MayChange("host9", txn)
	if !errors.Is(err, raftstore.ErrForbidden) || !strings.Contains(err.Error(), "host9, which asks, has no record") {
		t.Errorf("a machine without a record may remove a host, or is not told why it may not: %v", err)
	}
}

// What hosts have to write they may: their own record, the end of a membership, and the admission
// of a machine, under the name too.
func TestHostsWriteWhatIsTheirs(t *testing.T) {
	m := newMembership(t)
	by := "host1"
	m.BeforeCommit = func(txn raftstore.Txn) error { return m.hosts.MayChange(by, txn) }
	if err := m.hosts.Update(t.Context(), m.one.Node(), func(r *identity.HostRecord) { r.MeshAddress, r.KeyPin = "10.0.0.7:7443", newPin(t) }); err != nil {
		t.Errorf("its own address: %v", err)
	}
	if err := m.hosts.Update(t.Context(), m.two.Node(), func(r *identity.HostRecord) { r.SANs = []string{"evil.example"} }); !errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("the names of another host: %v", err)
	}
	stale := raftstore.Txn{If: []raftstore.Condition{{Key: identity.HostKey("host1"), ModRevision: m.first}}, Ops: []raftstore.Op{with(t, m.one, nil)}}
	if err := m.hosts.MayChange(by, stale); err != nil {
		t.Errorf("a change that comes again is known by its ID, or fails: %v", err)
	}
	ahead := raftstore.Txn{If: []raftstore.Condition{{Key: identity.HostKey("host1"), ModRevision: 99}}, Ops: []raftstore.Op{with(t, m.one, nil)}}
	if err := m.hosts.MayChange(by, ahead); err == nil || errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("a change of what this copy does not have yet: %v", err)
	}
	if err := m.hosts.ExpelMachine(t.Context(), "host2", "id-2"); err != nil {
		t.Errorf("the removal of a host: %v", err)
	}
	mark := raftstore.Op{Key: identity.DepartedPrefix + "id-2", Delete: true}
	if _, err := m.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{mark}}); !errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("the mark of a host that was removed is deleted: %v", err)
	}
	free := []raftstore.Condition{{Key: identity.HostKey("host2")}}
	if _, err := m.Commit(t.Context(), raftstore.Txn{If: free, Ops: []raftstore.Op{with(t, m.two, nil)}}); !errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("the machine that was removed is a host again: %v", err)
	}
	next := recordOf(t, "host2", "id-3")
	admitted := raftstore.Txn{If: free, Ops: []raftstore.Op{with(t, next, nil), {Key: identity.ExpelledPrefix + "host2", Delete: true}}}
	if _, err := m.Commit(t.Context(), admitted); err != nil {
		t.Errorf("another machine under the name: %v", err)
	}
	by = "host9"
	if err := m.hosts.MayChange(by, raftstore.Txn{If: []raftstore.Condition{{Key: identity.HostKey("host8")}}, Ops: []raftstore.Op{with(t, recordOf(t, "host8", "id-8"), nil)}}); !errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("who has no record himself admits a machine: %v", err)
	}
	by = "host2"
	if err := m.hosts.Remove(t.Context(), "host2"); err != nil {
		t.Errorf("a host leaves: %v", err)
	}
}

// A leader of an older version lets a host write of itself what only a newer version knows.
func TestALeaderDoesNotFreezeTheRecord(t *testing.T) {
	m := newMembership(t)
	for what, fields := range map[string]map[string]any{
		"a field":                  {"racks": []string{"r1"}},
		"an address of a new form": {"meshAddress": "unix:/run/mesh"},
		"more names than today":    {"sans": make([]string, 1000)},
	} {
		record := map[string]any{"name": "host1", "id": m.one.ID, "keyPin": m.one.KeyPin, "keyKept": true}
		maps.Copy(record, fields)
		data, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		txn := raftstore.Txn{If: []raftstore.Condition{{Key: identity.HostKey("host1"), ModRevision: m.first}}, Ops: []raftstore.Op{{Key: identity.HostKey("host1"), Value: data}}}
		if err := m.hosts.MayChange("host1", txn); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		txn.Ops[0].Value = slices.Concat(data, bytes.Repeat([]byte(" "), 64<<10))
		if err := m.hosts.MayChange("host1", txn); !errors.Is(err, raftstore.ErrForbidden) {
			t.Errorf("a record of more than 64 KiB: %v", err)
		}
	}
}

// A host that does not vote may ask for another key for Secrets, and changes nothing else in their
// record, by which every host encrypts.
func TestOnlyVotersChangeTheKeysForSecrets(t *testing.T) {
	store := identitytest.NewStore()
	keys := identity.SecretKeysRecord{Active: "a", Keys: []identity.SecretKeyRecord{{ID: "a"}}, Kinds: []string{"configmaps"}}
	if err := identity.StoreSecretKeys(t.Context(), store, raftstore.Record{Key: identity.KeySecretKeys}, keys); err != nil {
		t.Fatal(err)
	}
	_, stored, err := identity.ReadSecretKeys(t.Context(), store, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(at uint64, op raftstore.Op) error {
		op.Key = identity.KeySecretKeys
		return identity.MayAskForSecretKey(store, "host2", raftstore.Txn{If: []raftstore.Condition{{Key: op.Key, ModRevision: at}}, Ops: []raftstore.Op{op}}, op)
	}
	op := func(change func(*identity.SecretKeysRecord)) raftstore.Op {
		next := keys
		change(&next)
		data, err := json.Marshal(next)
		if err != nil {
			t.Fatal(err)
		}
		return raftstore.Op{Value: data}
	}
	asks := op(func(k *identity.SecretKeysRecord) { k.Rotate = true })
	if err := judge(stored.ModRevision, asks); err != nil {
		t.Errorf("a host asks for another key: %v", err)
	}
	if err := judge(99, asks); err == nil || errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("a change of what this copy does not have yet: %v", err)
	}
	unconditional := raftstore.Op{Key: identity.KeySecretKeys, Value: asks.Value}
	if err := identity.MayAskForSecretKey(store, "host2", raftstore.Txn{Ops: []raftstore.Op{unconditional}}, unconditional); !errors.Is(err, raftstore.ErrForbidden) {
		t.Errorf("whatever the record says: %v", err)
	}
	for what, op := range map[string]raftstore.Op{
		"another active key": op(func(k *identity.SecretKeysRecord) {
			k.Rotate, k.Active, k.Keys = true, "b", append(k.Keys, identity.SecretKeyRecord{ID: "b"})
		}),
		"no kinds":       op(func(k *identity.SecretKeysRecord) { k.Rotate, k.Kinds = true, nil }),
		"nothing":        op(func(*identity.SecretKeysRecord) {}),
		"no record":      {Delete: true},
		"something else": {Value: []byte("[]")},
	} {
		if err := judge(stored.ModRevision, op); !errors.Is(err, raftstore.ErrForbidden) {
			t.Errorf("a host writes %s: %v", what, err)
		}
	}
}

// A machine that repeats its request to join gets its certificate, also where the host that it
// asks must not write its record.
func TestAnAdmissionIsRepeatedWithoutAWrite(t *testing.T) {
	m := newMesh(t)
	token, key := m.token(t), newKey(t)
	first, err := m.signer.Admit(t.Context(), candidate(token, key, "host2"))
	if err != nil {
		t.Fatal(err)
	}
	before := m.node(t, "host2")
	asked := 0
	m.Store.BeforeCommit = func(txn raftstore.Txn) error {
		asked++
		return identity.NewHosts(m.Store).MayChange("host1", txn)
	}
	again := candidate(token, key, "host2")
	again.Host.MeshAddress = "10.0.0.9:7443"
	for _, own := range []bool{true, false} { // the level is raised at that moment
		got, err := m.signer.WithOwnRecords(func() bool { return own }).Admit(t.Context(), again)
		if err != nil || len(got.Chain) == 0 || got.MeshID != first.MeshID {
			t.Fatalf("a repeated admission: %v", err)
		}
		if own && asked > 0 {
			t.Error("a host tries to change the record of another one, of which the leader's log tells")
		}
	}
	if rec, err := m.hosts.Get(t.Context(), "host2", raftstore.ReadOptions{}); err != nil || rec.Node() != before || rec.MeshAddress == again.Host.MeshAddress {
		t.Errorf("record %+v, %v", rec, err)
	}
}
