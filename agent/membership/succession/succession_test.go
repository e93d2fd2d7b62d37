package succession

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// Each change of the voters makes one version, with few writes, and a mesh at rest writes
// nothing. All hosts follow.
func TestTheVotersSignWhoVotesNext(t *testing.T) {
	m := newMesh(t)
	m.add("host1", "host2", "host3", "host4")
	all := []string{"host1", "host2", "host3", "host4"}
	want := uint64(0)
	for _, c := range []struct {
		voters []string
		writes int
	}{
		{[]string{"host1"}, 1},                   // the leader's signature is enough
		{[]string{"host1", "host2", "host3"}, 1}, // so it is here: it was the only voter
		{[]string{"host2", "host3", "host4"}, 3}, // proposed and signed by host2, signed by host3, published
		{[]string{"host4"}, 4},
	} {
		m.elect("group", c.voters...)
		before := m.store.Commits()
		m.settle(all...)
		if n := m.store.Commits() - before; n > c.writes {
			t.Errorf("%v: %d writes, want %d", c.voters, n, c.writes)
		}
		want++
		if got := m.newest(); got.Version != want || !slices.Equal(got.VoterNames(), c.voters) || got.Anew != (want == 1) || got.Index != m.index {
			t.Errorf("%v: the newest list is %+v", c.voters, got)
		}
		for name, h := range m.hosts {
			if h.Version() != want || !slices.Equal(h.group.believed.Voters, c.voters) {
				t.Errorf("%s follows version %d and believes %v", name, h.Version(), h.group.believed.Voters)
			}
		}
	}
	m.setCA() // and each change of the CAs
	m.settle(all...)
	if got := m.newest(); got.Version != want+1 || got.Anew {
		t.Errorf("another CA: the newest list is %+v", got)
	}
	before := m.store.Commits()
	for range 100 {
		m.settle(all...)
	}
	if n := m.store.Commits() - before; n > 0 {
		t.Errorf("a mesh at rest writes %d times", n)
	}
}

// Below the level nothing is written.
func TestNothingIsWrittenBelowTheLevel(t *testing.T) {
	m := newMesh(t)
	m.add("host1")
	m.elect("group", "host1")
	m.hosts["host1"].group.level = level.Succession - 1
	before := m.store.Commits()
	m.settle("host1")
	if n := m.store.Commits() - before; n > 0 {
		t.Errorf("%d writes", n)
	}
	m.hosts["host1"].group.level = level.Succession
	m.settle("host1")
	if got := m.newest(); got.Version != 1 {
		t.Errorf("after the raise the newest list is %+v", got)
	}
}

// A leader that says of the voters, or of the CAs, what is not so gets no signature.
func TestNobodySignsWhatIsNotSo(t *testing.T) {
	for name, lie := range map[string]func(m *mesh, next *manifest.Manifest){
		"other voters":      func(m *mesh, next *manifest.Manifest) { next.Voters = next.Voters[:1] },
		"another key":       func(m *mesh, next *manifest.Manifest) { next.Voters[0].KeyPin = m.machine("x").pin.String() },
		"another CA":        func(m *mesh, next *manifest.Manifest) { next.CAs = m.setCA(); m.setCA() },
		"a later log index": func(_ *mesh, next *manifest.Manifest) { next.Index++ },
		"another past":      func(_ *mesh, next *manifest.Manifest) { next.Previous = strings.Repeat("0", 64) },
	} {
		m := newMesh(t)
		m.add("host1", "host2", "host3", "host4")
		m.elect("group", "host1", "host2", "host3")
		m.settle("host1", "host2", "host3")
		m.elect("group", "host1", "host2", "host4")
		next, err := m.hosts["host1"].view(t.Context(), true, nil)
		if err != nil {
			t.Fatal(err)
		}
		lied := next.want
		lied.Version, lied.Previous = 2, next.base.Hash()
		lied.Voters = slices.Clone(lied.Voters)
		lie(m, &lied)
		sealed, err := manifest.Seal(lied)
		if err != nil {
			t.Fatal(err)
		}
		data, err := sealed.Encode()
		if err != nil {
			t.Fatal(err)
		}
		m.put(m.store, NextKey, json.RawMessage(data))
		m.settle("host2", "host3")
		waiting, _, err := readNext(t.Context(), m.store)
		if err != nil || waiting == nil {
			t.Fatalf("%s: %v", name, err)
		}
		if signers := waiting.SignedBy(next.base.Manifest().Voters); len(signers) > 0 {
			t.Errorf("%s is signed by %v", name, signers)
		}
	}
}

// A host that was off while all voters were replaced by other machines, one under the name of
// one of them, and the CA too, comes back without help: it believes those of today, whoever has
// told it of them, and nobody else.
func TestAHostThatWasOffFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.add("host1", "host2", "host3", "host4")
		m.elect("group", "host1", "host2", "host3")
		m.settle("host1", "host2", "host3", "host4")
		off, former := m.switchOff("host4"), m.hosts["host1"]
		m.add("host5", "host6")
		m.elect("group", "host2", "host3", "host5")
		m.settle("host2", "host3", "host5")
		m.add("host1") // another machine
		m.elect("group", "host3", "host5", "host1")
		m.settle("host3", "host5", "host1")
		ca := m.setCA()
		m.elect("group", "host5", "host1", "host6")
		m.settle("host3", "host5", "host1", "host6")
		off.sources = map[string]*identitytest.Store{"somebody": m.store}
		for range 10 {
			if err := off.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		if want := []string{"host1", "host5", "host6"}; !slices.Equal(off.group.believed.Voters, want) || off.Version() != m.newest().Version {
			t.Fatalf("it follows version %d of %d and believes %v", off.Version(), m.newest().Version, off.group.believed.Voters)
		}
		if string(off.book.cas) != string(ca) || off.trusted != 1 {
			t.Errorf("it does not trust today's CA, or began to %d times", off.trusted)
		}
		for what, c := range map[string]struct {
			host *host
			want Verdict
		}{
			"a new voter": {m.hosts["host5"], Votes}, "the new machine of an old name": {m.hosts["host1"], Votes},
			"the old one": {former, Impostor}, "a stranger": {m.machine("host9"), Unnamed}, "a stranger with a voter's name": {m.machine("host5"), Impostor},
		} {
			if v, newer := off.Judge(c.host.node, c.host.pin); v != c.want || !newer {
				t.Errorf("%s: %v, newer %v", what, v, newer)
			}
		}
		if len(off.Voters()) != 3 || off.Voters()[1].Address != "host5:7443" {
			t.Errorf("it knows the voters %v", off.Voters())
		}
		m.start(off, m.copyOf(off.cfg.Store.(*identitytest.Store))) // its agent starts again
		off.sources = nil
		off.group.believed = raftstore.Electorate{}
		if err := off.Step(t.Context()); err != nil || len(off.group.believed.Voters) != 3 {
			t.Errorf("after a restart it believes %v, %v", off.group.believed.Voters, err)
		}
	})
}

// Who has the CA's key and the network, and the keys of a minority of the voters, tells a host
// that is cut off nothing.
func TestForgedListsAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.add("host1", "host2", "host3", "host4")
		m.elect("group", "host1", "host2", "host3")
		m.settle("host1", "host2", "host3", "host4")
		off := m.switchOff("host4")
		mine := newMesh(t) // the attacker's: with hosts of his own, one of which has a stolen key
		mine.add("host1", "host2", "host3")
		mine.store = m.copyOf(m.store)
		before, err := readNewest(t.Context(), mine.store, localRead)
		if err != nil {
			t.Fatal(err)
		}
		voters := []manifest.Voter{{Name: "host9", ID: "id9", KeyPin: mine.hosts["host1"].pin.String()}}
		for _, forged := range []manifest.Manifest{
			{Version: 2, Previous: before.Hash(), Voters: voters},
			{Version: 2, Previous: before.Hash(), Voters: voters, Anew: true},
			{Version: 1, Anew: true, Voters: voters, Group: "other"},
		} {
			forged.MeshID, forged.CAs, forged.Index = "mesh", before.Manifest().CAs, 1<<40
			s, err := manifest.Seal(forged)
			for _, signer := range []*host{mine.hosts["host1"], m.hosts["host1"]} {
				if err == nil {
					s, err = s.Sign(signer.cfg.Sign)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			mine.put(mine.store, Key(forged.Version), json.RawMessage(data))
			off.sources = map[string]*identitytest.Store{"attacker": mine.store}
			for range 60 {
				if err := off.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
			}
			if v, _ := off.Judge(identity.Node{Name: "host9", ID: "id9"}, mine.hosts["host1"].pin); off.Version() != 1 || v != Unnamed {
				t.Errorf("%+v is taken", forged)
			}
		}
		if off.Refused() == nil {
			t.Error("it does not say that it was told what it does not believe")
		}
	})
}

// A majority of the voters is gone at once, or the mesh was recovered: its list begins anew. A
// host that hears the leader follows the state that the voters have confirmed; one that was off
// refuses, and says so.
func TestABrokenChain(t *testing.T) {
	for name, recovered := range map[string]bool{"replaced too fast": false, "recovered": true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMesh(t)
			m.add("host1", "host2", "host3", "host4", "host5", "host6")
			m.elect("group", "host1", "host2", "host3")
			m.settle("host1", "host2", "host3", "host4", "host5", "host6")
			off := m.switchOff("host6")
			now := "group"
			if recovered {
				now = "another"
			}
			m.elect(now, "host3", "host4", "host5")
			began := time.Now()
			for m.settle("host3", "host4", "host5"); m.newest().Version < 2; m.settle("host3", "host4", "host5") {
				if time.Since(began) > time.Hour {
					t.Fatal(name, ": there is no next list")
				}
				time.Sleep(5 * time.Second)
			}
			if took := time.Since(began); recovered != (took == 0) {
				t.Errorf("%s: it begins anew after %v", name, took)
			}
			if got := m.newest(); !got.Anew || got.Previous == "" {
				t.Errorf("%s: the list does not show that it begins anew: %+v", name, got)
			}
			off.sources = map[string]*identitytest.Store{"host3": m.store}
			for range 10 {
				if err := off.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
			}
			if err := off.Refused(); off.Version() != 1 || !errors.Is(err, manifest.ErrAnew) {
				t.Errorf("%s: a host that was off follows version %d: %v", name, off.Version(), err)
			}
			// It hears the leader, and what it was fed is not confirmed yet.
			m.start(off, m.store)
			off.group.electorate = m.hosts["host3"].group.electorate
			off.group.silent, off.group.confirm = false, errors.New("nobody has signed it")
			if err := off.Step(t.Context()); err == nil || off.Version() != 1 {
				t.Errorf("%s: it follows version %d of an unconfirmed state: %v", name, off.Version(), err)
			}
			off.group.confirm = nil
			if err := off.Step(t.Context()); err != nil || off.Version() != 2 || off.Refused() != nil {
				t.Errorf("%s: it follows version %d of the confirmed state: %v", name, off.Version(), err)
			}
		})
	}
}

// A host that writes lists of its own gets nobody to follow them, and does not keep the mesh from
// making the next ones.
func TestAListThatAHostHasWritten(t *testing.T) {
	m := newMesh(t)
	m.add("host1", "host2", "host3", "host4")
	m.elect("group", "host1", "host2", "host3")
	m.settle("host1", "host2", "host3", "host4")
	before, err := readNewest(t.Context(), m.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	forged := before.Manifest()
	forged.Version, forged.Previous, forged.Anew, forged.Voters = 2, before.Hash(), true, forged.Voters[:1]
	forged.Voters[0].KeyPin = m.hosts["host4"].pin.String()
	s, err := manifest.Seal(forged)
	if err == nil {
		s, err = s.Sign(m.hosts["host4"].cfg.Sign)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for what, value := range map[string]json.RawMessage{"a list": data, "nothing that can be read": json.RawMessage("7")} {
		version := m.newest().Version + 1
		m.put(m.store, Key(version), value)
		m.put(m.store, NextKey, value)
		m.settle("host1", "host2", "host3", "host4")
		for name, h := range m.hosts {
			if h.Version() != version-1 || len(h.group.believed.Voters) != 3 {
				t.Errorf("%s: %s follows version %d and believes %v", what, name, h.Version(), h.group.believed.Voters)
			}
		}
		m.setCA()
		m.settle("host1", "host2", "host3", "host4")
		for name, h := range m.hosts {
			if h.Version() != version {
				t.Errorf("after %s, %s follows version %d, want %d", what, name, h.Version(), version)
			}
		}
	}
}

// A mesh that is restored from a backup without lists, or with older ones, goes on.
func TestAMeshIsRestored(t *testing.T) {
	m := newMesh(t)
	m.add("host1", "host2")
	without := m.copyOf(m.store)
	m.elect("group", "host1")
	m.settle("host1", "host2")
	older := m.copyOf(m.store)
	m.setCA()
	m.settle("host1", "host2")
	for what, c := range map[string]struct {
		state *identitytest.Store
		want  uint64
	}{"no list": {without, 1}, "an older list": {older, 2}} {
		now := newMesh(t)
		now.store, now.hosts = m.copyOf(c.state), map[string]*host{"host1": m.hosts["host1"]}
		kept := now.hosts["host1"].book
		now.elect("restored", "host1")
		now.start(now.hosts["host1"], now.store)
		now.settle("host1")
		if got := now.newest(); got.Version != c.want || !got.Anew || got.Group != "restored" || now.hosts["host1"].Version() != c.want {
			t.Errorf("%s: the newest list is %+v", what, got)
		}
		now.hosts["host1"].book = kept
	}
}

// The mesh keeps a bounded number of lists, and a host that follows is not troubled by it.
func TestTheNumberOfListsIsBounded(t *testing.T) {
	m := newMesh(t)
	m.add("host1", "host2")
	bundles := [][]byte{m.setCA(), m.setCA()}
	m.elect("group", "host1")
	for i := range Kept + 5 {
		m.put(m.store, identity.KeyCA, identity.CARecord{MeshID: "mesh", Certificate: bundles[i%2], Bundle: bundles[i%2]})
		m.settle("host1", "host2")
	}
	all, err := m.store.List(t.Context(), raftstore.ListRequest{Prefix: Prefix})
	if err != nil || len(all.Records) != Kept || m.newest().Version != Kept+5 || m.hosts["host2"].Version() != Kept+5 {
		t.Errorf("of %d versions %d are kept, and host2 follows version %d: %v", m.newest().Version, len(all.Records), m.hosts["host2"].Version(), err)
	}
	m.add("host3") // a host that joins begins with the newest one
	m.hosts["host3"].group.electorate = m.hosts["host1"].group.electorate
	m.settle("host3")
	if v := m.hosts["host3"].Version(); v != Kept+5 {
		t.Errorf("a host that joins follows version %d", v)
	}
	if list, err := Published(t.Context(), m.store, 0, localRead); err != nil || len(list) != page {
		t.Error(fmt.Sprint("a stranger gets ", len(list), " lists: ", err))
	}
}
