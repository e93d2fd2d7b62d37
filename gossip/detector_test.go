package gossip

import (
	"slices"
	"testing"
	"time"
)

// story drives a detector through time and records what it publishes about member x.
type story struct {
	*detector
	now    time.Time
	states []string
	// answers says whether x answers the probes that tick asks for.
	answers bool
	checks  int
	late    time.Duration
	health  int
}

func newStory() *story {
	s := &story{now: time.Unix(1000, 0)}
	s.detector = newDetector("me", DefaultProfile(), func(p *peer) {
		if p.name == "x" {
			s.states = append(s.states, p.state.String())
		}
	})
	for _, name := range []string{"me", "x", "y", "z"} {
		s.joined(s.now, name, endpoint{}, name+":1", nodeMeta{})
	}
	return s
}

// pass lets time pass in ticks.
func (s *story) pass(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(tickInterval)
		check, _ := s.tick(s.now, s.late, s.health)
		for _, p := range check {
			s.checks++
			s.checked(s.now, p.name, s.answers)
		}
	}
}

func (s *story) rejoin() { s.joined(s.now, "x", endpoint{}, "x:1", nodeMeta{}) }

func TestDetectorStories(t *testing.T) {
	hold := DefaultProfile().HoldFor(4)
	for name, tc := range map[string]struct {
		run  func(s *story)
		want []string
	}{
		"dies": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.pass(hold / 2)
			s.departed(s.now, "x")
			s.buried(s.now, "x", 0, false)
			s.pass(hold)
		}, []string{"alive", "suspect", "dead"}},
		"is not dead before the hold is over": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			s.pass(hold - 2*tickInterval)
		}, []string{"alive", "suspect"}},
		"is not dead while nobody says so": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.pass(2 * hold)
		}, []string{"alive", "suspect"}},
		"refutes": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.refuted(s.now, "x", 0)
			s.pass(time.Second)
			s.refuted(s.now, "x", 1)
			s.suspected(s.now, "x", 0) // a straggler
			s.pass(2 * hold)
		}, []string{"alive", "suspect", "alive"}},
		"refutes its death in time": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			s.pass(hold / 2)
			s.rejoin()
			s.suspected(s.now, "x", 0) // a straggler
			s.pass(2 * hold)
		}, []string{"alive", "suspect", "alive"}},
		"comes back from the dead": {func(s *story) {
			s.departed(s.now, "x")
			s.pass(2 * hold)
			s.rejoin()
		}, []string{"alive", "suspect", "dead", "alive"}},
		"leaves": {func(s *story) {
			s.goodbye(s.now, "x", 0)
			s.departed(s.now, "x")
			s.buried(s.now, "x", 0, true)
			s.pass(2 * hold)
		}, []string{"alive", "left"}},
		"leaves, as is known only from others": {func(s *story) {
			s.departed(s.now, "x")
			s.pass(tickInterval)
			s.buried(s.now, "x", 0, true)
			s.pass(2 * hold)
		}, []string{"alive", "suspect", "left"}},
		"dies some time after an old goodbye": {func(s *story) {
			s.goodbye(s.now, "x", 0)
			s.pass(goodbyeFresh)
			s.departed(s.now, "x")
			s.pass(2 * hold)
		}, []string{"alive", "suspect", "dead"}},
		"dies though it seemed to leave": {func(s *story) {
			s.goodbye(s.now, "x", 0)
			s.departed(s.now, "x")
			s.buried(s.now, "x", 0, false)
			s.pass(2 * hold)
		}, []string{"alive", "left", "suspect", "dead"}},
		"is not dead while it answers": {func(s *story) {
			s.answers = true
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			s.pass(10 * hold)
		}, []string{"alive", "suspect"}},
		"is not dead while it sends": {func(s *story) {
			s.departed(s.now, "x")
			for range 20 {
				s.pass(hold / 2)
				s.packetFrom(s.now, "x:1")
			}
		}, []string{"alive", "suspect"}},
		"dies once it is silent": {func(s *story) {
			s.departed(s.now, "x")
			s.pass(hold / 4)
			s.packetFrom(s.now, "x:1")
			s.pass(2 * hold)
		}, []string{"alive", "suspect", "dead"}},
		"is not dead while we are stalled": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			for range 10 { // each counts for one tick
				s.now = s.now.Add(3 * time.Second)
				s.tick(s.now, 3*time.Second-tickInterval, 0)
				s.checked(s.now, "x", false)
			}
		}, []string{"alive", "suspect"}},
		"is not dead so soon while our CPU comes late": {func(s *story) {
			s.late = 50 * time.Millisecond
			s.pass(time.Second)
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			s.pass(hold + 8*s.late)
		}, []string{"alive", "suspect"}},
		"is not dead so soon while we are unwell": {func(s *story) {
			s.health = 5
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			s.pass(hold + 2*healthHold)
		}, []string{"alive", "suspect"}},
		"dies even while we are unwell": {func(s *story) {
			s.health, s.late = 7, 50*time.Millisecond
			s.suspected(s.now, "x", 0)
			s.departed(s.now, "x")
			s.pass(hold + 7*healthHold)
		}, []string{"alive", "suspect", "dead"}},
		"is alive again when the refutation was missed": {func(s *story) {
			s.suspected(s.now, "x", 0)
			s.pass(30 * time.Second)
		}, []string{"alive", "suspect", "alive"}},
		"dies though others judged long ago": {func(s *story) {
			s.departed(s.now, "x") // no suspicion was heard of
			s.pass(unseenHold + 2*tickInterval)
		}, []string{"alive", "suspect", "dead"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory()
			tc.run(s)
			if !slices.Equal(s.states, tc.want) {
				t.Errorf("published %v, want %v", s.states, tc.want)
			}
			total := 0
			for _, n := range s.count {
				total += n
			}
			if total != len(s.peers) {
				t.Errorf("%d members counted, there are %d", total, len(s.peers))
			}
			if p := s.peers["x"]; (s.pending["x"] != nil) != (p.heldVerdict() || p.state == Left) {
				t.Errorf("pending %v, heard %v, state %v", s.pending["x"] != nil, p.heard, p.state)
			}
		})
	}
}

func TestDetectorNeverSuspectsItself(t *testing.T) {
	s := newStory()
	s.suspected(s.now, "me", 9)
	s.buried(s.now, "me", 9, false)
	if got := s.peers["me"].state; got != Alive {
		t.Errorf("state %v", got)
	}
	s.departed(s.now, "me") // after Leave
	if got := s.peers["me"].state; got != Left {
		t.Errorf("state %v after leaving", got)
	}
}

func TestDetectorProbesOnlySuspects(t *testing.T) {
	s := newStory()
	s.pass(time.Minute)
	if s.checks != 0 {
		t.Errorf("%d probes of healthy members", s.checks)
	}
}

func TestDetectorComparesNotesWithTheUndead(t *testing.T) {
	s := newStory()
	s.departed(s.now, "x")
	s.now = s.now.Add(tickInterval)
	s.packetFrom(s.now, "x:1")
	if _, meet := s.tick(s.now, s.late, s.health); len(meet) != 1 || meet[0].name != "x" {
		t.Errorf("to meet: %v, want x", meet)
	}
	if _, meet := s.tick(s.now.Add(tickInterval), 0, 0); len(meet) != 0 {
		t.Error("met again at once")
	}
}

func TestDetectorComparesNotesWithTheReturned(t *testing.T) {
	s := newStory()
	s.goodbye(s.now, "x", 0)
	s.departed(s.now, "x")
	s.now = s.now.Add(tickInterval)
	s.packetFrom(s.now, "x:1") // still passing on its goodbye
	if _, meet := s.tick(s.now.Add(time.Minute), 0, 0); len(meet) != 0 {
		t.Errorf("to meet while it leaves: %v", meet)
	}
	s.now = s.now.Add(2 * goodbyeFresh)
	s.packetFrom(s.now, "x:1")
	if _, meet := s.tick(s.now, 0, 0); len(meet) != 1 || meet[0].name != "x" {
		t.Errorf("to meet: %v, want x", meet)
	}
	if _, meet := s.tick(s.now.Add(time.Minute), 0, 0); len(meet) != 0 {
		t.Error("met again without a sign of life")
	}
	s.rejoin()
	if got := s.peers["x"].state; got != Alive || len(s.pending) != 0 {
		t.Errorf("back, but %v and %d pending", got, len(s.pending))
	}
}

func TestDetectorForgets(t *testing.T) {
	s := newStory()
	s.departed(s.now, "x")
	s.goodbye(s.now, "y", 0)
	s.departed(s.now, "y")
	s.pass(time.Minute)
	if gone := s.forgetGone(s.now, time.Hour, time.Hour); len(gone) != 0 {
		t.Errorf("forgot %d members early", len(gone))
	}
	if gone := s.forgetGone(s.now, time.Hour, time.Second); len(gone) != 1 || gone[0].name != "y" {
		t.Errorf("forgot %v, want y", gone)
	}
	if gone := s.forgetGone(s.now, time.Second, time.Second); len(gone) != 1 || gone[0].name != "x" {
		t.Errorf("forgot %v, want x", gone)
	}
	if s.live() != 2 || s.count[Dead] != 0 || s.count[Left] != 0 || len(s.pending) != 0 {
		t.Errorf("counts %v, %d pending", s.count, len(s.pending))
	}
}

func TestHoldGrowsWithTheMesh(t *testing.T) {
	p := DefaultProfile()
	if a, b := p.HoldFor(3), p.HoldFor(100); a != b || a != p.Hold {
		t.Errorf("%v for 3, %v for 100", a, b)
	}
	if got, want := p.HoldFor(1000), p.Hold+p.HoldPerDecade; got != want {
		t.Errorf("%v for 1000, want %v", got, want)
	}
}
