package membership

import (
	"encoding/json"
	"errors"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// Root on a host that does not vote writes the record of a voter anew, with an ID and a key of its
// own, so that the next list of the mesh's voters would name a machine of its own in the voter's
// place. The leader refuses it; and a host goes on to keep its own record.
func TestAMemberDoesNotTakeTheNameOfAVoter(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	before, at, err := readRecord(t, second, "host1")
	if err != nil {
		t.Fatal(err)
	}
	forged := before
	forged.ID, forged.KeyPin, forged.KeyKept = identity.NewNode("host1").ID, second.identity.KeyPin().String(), true
	value, err := json.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	for what, conditions := range map[string][]raftstore.Condition{"whatever there is": nil, "that record": {{Key: identity.HostKey("host1"), ModRevision: at}}} {
		txn := raftstore.Txn{If: conditions, Ops: []raftstore.Op{{Key: identity.HostKey("host1"), Value: value}}}
		if _, err := second.store.Commit(t.Context(), txn); !errors.Is(err, raftstore.ErrForbidden) || fault.Of(err).Code != fault.Forbidden {
			t.Errorf("host2 writes over %s of host1: %v", what, err)
		}
	}
	if now, _, err := readRecord(t, first, "host1"); err != nil || now.ID != before.ID || now.KeyPin != before.KeyPin {
		t.Errorf("the record of host1 is %+v, %v", now, err)
	}
	address := "127.0.0.1:1234"
	err = identity.NewHosts(second.store).Update(t.Context(), second.identity.Node(), func(rec *identity.HostRecord) { rec.GossipAddress = address })
	if now, _, readErr := readRecord(t, first, "host2"); err != nil || readErr != nil || now.GossipAddress != address {
		t.Errorf("host2 changes its own record: %v; it is %+v, %v", err, now, readErr)
	}
}

// readRecord returns the record of a host and its revision.
func readRecord(t *testing.T, m *Member, host string) (rec identity.HostRecord, revision uint64, err error) {
	t.Helper()
	stored, _, err := m.store.Get(t.Context(), identity.HostKey(host), raftstore.ReadOptions{})
	if err == nil {
		err = json.Unmarshal(stored.Value, &rec)
	}
	return rec, stored.ModRevision, err
}
