package succession

import (
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity/identitytest"
)

// A member writes a CA of its own into the record of the CA. The hosts refuse it, and so the voters
// sign no list that names it: a host that is cut off for a moment believes the list.
func TestTheListNamesNoCAThatNobodyVouchedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.add("host1", "host2", "host3", "off")
		m.elect("group", "host1", "host2", "host3")
		m.settle("host1", "host2", "host3", "off")
		off := m.hosts["off"]
		good, version := string(off.book.cas), m.newest().Version
		off.group.silent = true
		off.sources = map[string]*identitytest.Store{"host1": m.store}
		m.foreign = m.setCA()
		m.settle("host1", "host2", "host3")
		for range 10 {
			if err := off.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		if string(off.book.cas) != good || off.trusted > 0 {
			t.Error("a host that was cut off for a moment trusts the CA of a member, by a list that the voters signed")
		}
		if got := m.newest(); got.Version != version || string(got.CAs) != good {
			t.Errorf("the voters have signed version %d", got.Version)
		}
		m.foreign = nil // the state is put right, and the lists go on
		want := m.setCA()
		m.settle("host1", "host2", "host3")
		if got := m.newest(); string(got.CAs) != string(want) {
			t.Errorf("the newest list is version %d, without the mesh's CA", got.Version)
		}
	})
}
