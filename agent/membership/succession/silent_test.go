package succession

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity/identitytest"
)

// steps lets a host take steps for a time.
func (m *mesh) steps(h *host, lasting time.Duration) {
	m.t.Helper()
	for begin := time.Now(); time.Since(begin) < lasting; time.Sleep(5 * time.Second) {
		if err := h.Step(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// Whoever feeds a host can go on to send it beats of the leader, and nothing else. The leader does
// not answer the host then, so it asks others who votes now.
func TestAHostThatIsFedBeatsOnlyAsksOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := settled(t)
		fed := m.switchOff("host4")
		fed.group.silent, fed.group.mute = false, true
		m.elect("group", "host1", "host2")
		m.settle("host1", "host2", "host3")
		fed.sources = map[string]*identitytest.Store{"host1": m.store}
		m.steps(fed, 30*time.Second)
		if fed.Version() != 1 {
			t.Errorf("it follows version %d before it can tell that the leader does not answer", fed.Version())
		}
		m.steps(fed, 2*time.Minute)
		if want := m.newest().Version; fed.Version() != want || want < 2 {
			t.Errorf("it follows version %d, want %d", fed.Version(), want)
		}
	})
}

// The mesh was restored from before a list that a host has, which was off, and has not come as far
// again: nobody whom the host asks has its list, and it says so. One that has is enough.
func TestAHostThatWasOffMeetsAShorterChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := settled(t)
		before := m.copyOf(m.store)
		m.elect("group", "host1", "host2")
		m.settle(four...)
		off := m.switchOff("host4")
		if off.Version() != 2 {
			t.Fatalf("it follows version %d", off.Version())
		}
		off.sources = map[string]*identitytest.Store{"host1": before, "host2": before}
		m.steps(off, time.Minute)
		if err := off.Refused(); !errors.Is(err, ErrShorter) {
			t.Errorf("nobody has its list, and it says %v", err)
		}
		off.sources = map[string]*identitytest.Store{"host1": before, "host2": m.copyOf(m.store)}
		m.steps(off, 3*time.Minute)
		if err := off.Refused(); err != nil || off.Version() != 2 {
			t.Errorf("one lags behind, and it says %v", err)
		}
	})
}

// A host that lags behind says nothing of why another one is refused: only where all lag behind is
// the host told so.
func TestAShorterChainIsNoReasonBesideAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := settled(t)
		before := m.copyOf(m.store)
		m.elect("group", "host1", "host2")
		m.settle(four...)
		off := m.switchOff("host4")
		foreign := m.copyOf(m.store)
		m.put(foreign, Key(2), "no list")
		off.sources = map[string]*identitytest.Store{"host1": before, "host2": foreign}
		m.steps(off, time.Minute)
		if err := off.Refused(); err == nil || errors.Is(err, ErrShorter) {
			t.Errorf("one host lags behind, and one shows what is no list: %v", err)
		}
	})
}

// What a host has kept of the voters is damaged. It says so until it has learned it anew, which it
// does from its leader.
func TestASpoiltListIsLearnedAnew(t *testing.T) {
	m, _ := settled(t)
	h := m.hosts["host3"]
	h.book.manifest = []byte("{")
	k, err := New(h.cfg)
	if err == nil || k.Spoilt() == nil || k.Version() != 0 {
		t.Errorf("version %d, %v", k.Version(), err)
	}
	h.Keeper = k
	m.settle("host3")
	if k.Spoilt() != nil || k.Version() != 1 || string(h.book.manifest) == "{" {
		t.Errorf("it follows version %d, and says %v", k.Version(), k.Spoilt())
	}
}
