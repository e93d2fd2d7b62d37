package succession

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/identity/manifest"
	"virtmesh/raftstore"
)

// settled returns a mesh at rest with its first list: host1 leads, host1 to host3 vote.
func settled(t *testing.T) (*mesh, *manifest.Signed) {
	t.Helper()
	m := newMesh(t)
	m.add("host1", "host2", "host3", "host4")
	m.elect("group", "host1", "host2", "host3")
	m.settle(four...)
	base, err := readNewest(t.Context(), m.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	return m, base
}

var four = []string{"host1", "host2", "host3", "host4"}

// encoded returns a list that nobody has signed, as it is stored.
func encoded(t *testing.T, x manifest.Manifest) json.RawMessage {
	t.Helper()
	s, err := manifest.Seal(x)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// mustFollow checks which list all hosts follow, and that they believe no log index that is not of
// the mesh's log.
func (m *mesh) mustFollow(version uint64, anew bool) {
	m.t.Helper()
	if got := m.newest(); got.Version != version || got.Anew != anew {
		m.t.Errorf("the newest list is version %d, anew %v", got.Version, got.Anew)
	}
	for name, h := range m.hosts {
		if h.Version() != version || h.group.believed.Index > m.index {
			m.t.Errorf("%s follows version %d and believes log index %d", name, h.Version(), h.group.believed.Index)
		}
	}
}

// Any host can write any record. A list in the state that nobody has signed changes nothing for
// anybody, although it says what is so, and the leader puts the state right: what comes next is the
// mesh's next list.
func TestForeignRecordsArePutRight(t *testing.T) {
	for what, write := range map[string]func(m *mesh, x manifest.Manifest){
		"an unsigned next list with a log index far ahead": func(m *mesh, x manifest.Manifest) {
			x.Index = 1 << 62
			m.put(m.store, Key(2), encoded(t, x))
		},
		"a list of a later version": func(m *mesh, x manifest.Manifest) {
			x.Version = 5
			m.put(m.store, Key(5), encoded(t, x))
		},
		"a list of the last version": func(m *mesh, x manifest.Manifest) {
			x.Version = manifest.MaxVersion
			m.put(m.store, Key(x.Version), encoded(t, x))
		},
		"what is no list, in the place of the list": func(m *mesh, _ manifest.Manifest) { m.put(m.store, Key(1), json.RawMessage("7")) },
		"what is no list, behind the last version":  func(m *mesh, _ manifest.Manifest) { m.put(m.store, Key(math.MaxUint64), json.RawMessage("7")) },
		"lists with other versions than their keys": func(m *mesh, x manifest.Manifest) {
			x.Version = 9
			m.put(m.store, Key(2), encoded(t, x))
			x.Version = 5
			m.put(m.store, Key(7), encoded(t, x))
		},
		"nothing: all lists are deleted": func(m *mesh, _ manifest.Manifest) {
			if _, err := m.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: Key(1), Delete: true}}}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			m, base := settled(t)
			x := base.Manifest()
			x.Version, x.Previous, x.Anew = 2, base.Hash(), true
			write(m, x)
			m.settle("host4", "host3", "host2", "host1") // the leader last
			m.settle(four...)
			m.mustFollow(1, true)
			all, err := m.store.List(t.Context(), raftstore.ListRequest{Prefix: Prefix})
			if err != nil || len(all.Records) != 1 {
				t.Errorf("%d records stand in the state: %v", len(all.Records), err)
			}
			off := m.switchOff("host4")
			m.elect("group", "host2", "host3", "host1")
			m.setCA()
			m.settle("host2", "host3", "host1")
			m.mustFollow(2, false)
			off.sources = map[string]*identitytest.Store{"host1": m.store}
			off.Hear("host1")
			if err := off.Step(t.Context()); err != nil || off.Version() != 2 {
				t.Errorf("a host that was off follows version %d: %v", off.Version(), err)
			}
		})
	}
}

// A host that was led astray by a foreign chain, which a host has written before the leader saw it,
// comes back to that of its leader.
func TestAHostComesBackFromAForeignChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, base := settled(t)
		stray := m.hosts["host4"]
		foreign := base.Manifest()
		foreign.Made = foreign.Made.Add(time.Hour)
		s, err := manifest.Seal(foreign)
		if err != nil {
			t.Fatal(err)
		}
		stray.kept.Store(s)
		stray.sound = false
		m.settle(four...)
		time.Sleep(2 * settling)
		m.settle(four...)
		if stray.kept.Load().Hash() != base.Hash() {
			t.Error("it does not follow what its leader follows")
		}
	})
}

// A host proposes a new beginning, or just another version, while nothing has changed: nobody signs
// it, and the leader deletes it.
func TestNobodySignsWhatIsNotDue(t *testing.T) {
	for _, anew := range []bool{true, false} {
		m, base := settled(t)
		x := base.Manifest()
		x.Version, x.Previous, x.Anew = 2, base.Hash(), anew
		m.put(m.store, NextKey, encoded(t, x))
		m.settle("host2", "host3", "host1")
		m.mustFollow(1, true)
		if next, _, err := readNext(t.Context(), m.store); next != nil || err != nil {
			t.Errorf("anew %v: it still waits: %v", anew, err)
		}
	}
}

// A host proposes a new beginning as the voters change: they sign the one that follows.
func TestNobodyBeginsAnewWithoutNeed(t *testing.T) {
	m, base := settled(t)
	m.elect("group", "host1", "host2", "host4")
	want, err := m.hosts["host1"].want(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want.Version, want.Previous, want.Anew = 2, base.Hash(), true
	m.put(m.store, NextKey, encoded(t, want))
	m.settle("host2", "host3", "host4", "host1")
	m.mustFollow(2, false)
}

// A host that led once, and leads again later, waits for signatures as long as any leader.
func TestALeaderIsPatientAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := settled(t)
		m.elect("group", "host1", "host2", "host4")
		if err := m.hosts["host1"].Step(t.Context()); err != nil { // proposes
			t.Fatal(err)
		}
		if err := m.hosts["host1"].Step(t.Context()); err != nil { // waits
			t.Fatal(err)
		}
		m.elect("group", "host2", "host1", "host4") // loses the leadership
		m.settle("host2", "host1", "host4")
		if m.newest().Version != 2 || m.newest().Anew {
			t.Fatalf("%+v", m.newest())
		}
		time.Sleep(24 * time.Hour)
		m.settle("host2", "host1", "host4")
		m.elect("group", "host1", "host4", "host3") // leads again, as the voters have changed
		m.settle("host1", "host2", "host4", "host3")
		if m.newest().Anew {
			t.Errorf("version %d begins anew at once although all voters are on", m.newest().Version)
		}
	})
}

// Two voters come back, and a host feeds them a state of its own making: they sign nothing of it.
func TestNobodySignsWhatNobodyConfirms(t *testing.T) {
	m, b := settled(t)
	h := m.hosts["host2"]
	// host2 is cut off; a hostile feeder has made up its state.
	forged := m.copyOf(m.store)
	evil := m.machine("evil")
	m.put(forged, identity.HostKey("evil"), identity.HostRecord{Name: "evil", ID: evil.node.ID, MeshAddress: "e:1", GossipAddress: "e:2", KeyPin: evil.pin.String(), KeyKept: true})
	x := b.Manifest()
	x.Version, x.Previous, x.Anew, x.Index = 2, b.Hash(), false, 999
	x.Voters = []manifest.Voter{{Name: "evil", ID: evil.node.ID, KeyPin: evil.pin.String(), Address: "e:1"}}
	m.put(forged, NextKey, encoded(t, x))
	m.start(h, forged)
	h.group.electorate.Voters, h.group.electorate.Index = []string{"evil"}, 999
	h.group.confirm = errors.New("nobody has signed it")
	if err := h.Step(t.Context()); !errors.Is(err, h.group.confirm) {
		t.Errorf("a step returns %v", err)
	}
	got, _, err := readNext(t.Context(), forged)
	if err != nil || got == nil {
		t.Fatal(err)
	}
	if s := got.SignedBy(b.Manifest().Voters); len(s) > 0 {
		t.Errorf("signed by %v in an unconfirmed copy", s[0].Name)
	}
}

// A host names keys of its own as those of voters: nobody signs that, least of all these voters.
func TestNobodySignsAForeignKey(t *testing.T) {
	m, _ := settled(t)
	for _, n := range []string{"host1", "host2"} {
		evil := m.machine(n)
		m.put(m.store, identity.HostKey(n), identity.HostRecord{Name: n, ID: m.hosts[n].node.ID, MeshAddress: n + ":7443", GossipAddress: n + ":7946", KeyPin: evil.pin.String(), KeyKept: true})
	}
	m.settle(four...)
	got := m.newest()
	for _, v := range got.Voters {
		if h := m.hosts[v.Name]; v.KeyPin != h.pin.String() {
			t.Errorf("version %d, anew %v: honest voters have signed a foreign key as that of %s", got.Version, got.Anew, v.Name)
		}
	}
}

// A list that a host has proposed as the voters change says more than voters understand, and less
// than they know: they sign the leader's.
func TestVotersSignTheirOwnWordsOnly(t *testing.T) {
	m, b := settled(t)
	m.elect("group", "host1", "host2", "host4")
	v, err := m.hosts["host1"].view(t.Context(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	x := v.want
	x.Version, x.Previous, x.Index = 2, b.Hash(), 0
	x.Voters[0].Address = "192.0.2.66:1"
	s, err := manifest.Seal(x)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	var w struct {
		Body       []byte `json:"body"`
		Signatures []any  `json:"signatures"`
	}
	if err := errors.Join(json.Unmarshal(d, &w), json.Unmarshal(w.Body, &body)); err != nil {
		t.Fatal(err)
	}
	body["administrators"] = []string{"mallory"}
	if w.Body, err = json.Marshal(body); err != nil {
		t.Fatal(err)
	}
	m.put(m.store, NextKey, w)
	m.settle("host2", "host3", "host1")
	got, err := readNewest(t.Context(), m.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	if g := got.Manifest(); g.Version != 2 || g.Index != m.index || g.Voters[0].Address != "host1:7443" {
		t.Errorf("published: index %d, address %s, signed by %d", g.Index, g.Voters[0].Address, len(got.SignedBy(b.Manifest().Voters)))
	}
}

// One host that tells of many ports has one place among those that are asked.
func TestAHostHasOnePlaceAmongTheNews(t *testing.T) {
	var n news
	n.add("192.0.2.1:7443")
	for port := range 50 {
		n.add(fmt.Sprint("192.0.2.66:", port+1))
	}
	if at, _ := n.take(); !slices.Equal(at, []string{"192.0.2.1:7443", "192.0.2.66:50"}) {
		t.Errorf("it would ask %v", at)
	}
}

// The mesh was restored from before a list that a host has, which was off, and has made another one
// in its place: the host follows neither, and says so.
func TestAHostThatWasOffMissesARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := settled(t)
		off := m.switchOff("host4")
		other := newMesh(t)
		other.add("host1")
		other.elect("restored", "host1")
		other.settle("host1")
		off.sources = map[string]*identitytest.Store{"host1": other.store}
		for range 5 {
			if err := off.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		if off.Refused() == nil || off.Version() != 1 {
			t.Errorf("it follows version %d, and says %v", off.Version(), off.Refused())
		}
	})
}
