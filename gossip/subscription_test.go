package gossip

import (
	"fmt"
	"testing"
	"testing/synctest"
)

func ev(t EventType, name string) Event { return Event{Type: t, Member: Member{Name: name}} }

func TestSlowSubscriberGetsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscription(100)
		go s.deliverLoop()
		defer s.Close()
		if e := <-s.Events(); e.Type != EventResync {
			t.Fatalf("first event %v", e.Type)
		}
		s.pushEvent(ev(EventFacts, "blocker"))
		synctest.Wait() // it is being offered now, and no longer merged with
		for _, e := range []Event{
			ev(EventSuspect, "a"), ev(EventFacts, "b"), ev(EventDead, "a"), ev(EventFacts, "a"),
		} {
			s.pushEvent(e)
		}
		<-s.Events()
		if e := <-s.Events(); e.Type != EventDead || e.Member.Name != "a" || e.Merged != 2 {
			t.Errorf("got %+v, want the death of a for three events", e)
		}
		if e := <-s.Events(); e.Type != EventFacts || e.Member.Name != "b" || e.Merged != 0 {
			t.Errorf("got %+v, want the facts of b", e)
		}
	})
}

func TestVerySlowSubscriberIsResynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscription(10)
		go s.deliverLoop()
		defer s.Close()
		<-s.Events()
		s.pushEvent(ev(EventFacts, "blocker"))
		synctest.Wait() // it is being offered now
		for i := range 30 {
			s.pushEvent(ev(EventAlive, fmt.Sprint(i)))
		}
		<-s.Events()
		if e := <-s.Events(); e.Type != EventResync {
			t.Errorf("got %+v, want resync", e)
		}
		synctest.Wait()
		s.pushEvent(ev(EventDead, "later"))
		if e := <-s.Events(); e.Type != EventDead {
			t.Errorf("got %+v, want what happened after the resync", e)
		}
	})
}

func TestClosedSubscriptionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscription(10)
		go s.deliverLoop()
		s.Close()
		s.Close()
		for range s.Events() {
		}
		s.pushEvent(ev(EventDead, "nobody listens"))
	})
}
