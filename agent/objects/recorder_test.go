package objects_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

func newRecorder(t *testing.T, s objects.Store) *objects.Recorder {
	t.Helper()
	cfg := objects.DefaultRecorderConfig()
	cfg.Store, cfg.Component, cfg.Host, cfg.Logger = s, "test", "h1", quiet()
	r, err := objects.NewRecorder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func events(t *testing.T, s objects.Store) []*corev1.Event {
	t.Helper()
	list, _, err := objects.List[*corev1.Event](t.Context(), s, "", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestEventsAreCountedAndBatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		vmi := newVMI("a")
		commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
		r := newRecorder(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		before := s.Commits()
		for range 3 {
			r.Event(vmi, corev1.EventTypeWarning, "Failed", "it failed")
		}
		r.Event(vmi, corev1.EventTypeNormal, "Started", "it started")
		time.Sleep(2 * time.Second)
		if n := s.Commits() - before; n != 1 {
			t.Errorf("%d transactions for 4 events, want 1", n)
		}
		time.Sleep(time.Hour)
		r.Event(vmi, corev1.EventTypeWarning, "Failed", "it failed")
		cancel()
		<-done
		// A recorder of the same host goes on counting after a restart.
		r = newRecorder(t, s)
		commit(t, s, func(tx *objects.Tx) { r.AddTo(tx, vmi, corev1.EventTypeWarning, "Failed", "it failed") })
		list := events(t, s)
		if len(list) != 2 {
			t.Fatalf("%d events, want 2", len(list))
		}
		for _, ev := range list {
			switch ev.Reason {
			case "Failed":
				if ev.Count != 5 || ev.LastTimestamp.Sub(ev.FirstTimestamp.Time) < time.Hour {
					t.Errorf("count %d from %v to %v", ev.Count, ev.FirstTimestamp, ev.LastTimestamp)
				}
			case "Started":
				if ev.InvolvedObject.Kind != "VirtualMachineInstance" || ev.InvolvedObject.UID != vmi.UID || ev.UID == "" {
					t.Errorf("event %+v", ev)
				}
			}
		}
	})
}

func TestEventsRideWithATransaction(t *testing.T) {
	s := objectstest.New()
	r := newRecorder(t, s)
	before := s.Commits()
	commit(t, s, func(tx *objects.Tx) {
		vmi := newVMI("a")
		tx.Create(vmi)
		r.AddTo(tx, vmi, corev1.EventTypeNormal, "Created", "it was created")
	})
	if s.Commits() != before+1 || len(events(t, s)) != 1 {
		t.Errorf("%d transactions and %d events, want one of each", s.Commits()-before, len(events(t, s)))
	}
}

// Words of a registry or of an image's tool get into messages.
func TestMessagesOfEventsAreShortPlainText(t *testing.T) {
	s := objectstest.New()
	vmi := newVMI("a")
	commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
	r := newRecorder(t, s)
	commit(t, s, func(tx *objects.Tx) {
		r.AddTo(tx, vmi, corev1.EventTypeWarning, "Failed", "said\u202e\x1b[2J:\n"+strings.Repeat("no", 1<<20))
	})
	for _, ev := range events(t, s) {
		if len(ev.Message) > 1024 || !strings.HasPrefix(ev.Message, "said[2J: nono") || !strings.HasSuffix(ev.Message, "…") {
			t.Errorf("%d bytes: %.40q", len(ev.Message), ev.Message)
		}
	}
}

func TestChattyObjectsAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		r := newRecorder(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		chatty, calm := newVMI("chatty"), newVMI("calm")
		chatty.UID, calm.UID = "1", "2"
		for i := range 100 {
			r.Event(chatty, corev1.EventTypeNormal, fmt.Sprint("Noise", i), "noise")
		}
		r.Event(calm, corev1.EventTypeNormal, "Word", "a word")
		time.Sleep(3 * time.Second)
		if n := len(events(t, s)); n != 26 {
			t.Errorf("%d events, want 25 of the chatty one and 1", n)
		}
		cancel()
		<-done
	})
}

// A text in which a number changes each time makes a few events, and then one that says
// how often and what it said last.
func TestChangingTextsAreCountedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		r := newRecorder(t, s)
		vmi := newVMI("a")
		for i := range 20 {
			commit(t, s, func(tx *objects.Tx) {
				r.AddTo(tx, vmi, corev1.EventTypeWarning, "FailedCreate", fmt.Sprint("no room at ", i))
			})
		}
		commit(t, s, func(tx *objects.Tx) { r.AddTo(tx, vmi, corev1.EventTypeWarning, "FailedCreate", "no room at 0") })
		counts := map[string]int32{}
		for _, ev := range events(t, s) {
			counts[ev.Message] = ev.Count
		}
		if len(counts) != 6 || counts["no room at 0"] != 2 || counts["(combined from similar events): no room at 19"] != 15 {
			t.Errorf("the events are %v", counts)
		}
		time.Sleep(time.Hour)
		commit(t, s, func(tx *objects.Tx) { r.AddTo(tx, vmi, corev1.EventTypeWarning, "FailedCreate", "no room at all") })
		if n := len(events(t, s)); n != 7 {
			t.Errorf("%d events, want a new text after a quiet hour to have its own", n)
		}
	})
}

// However many objects fail, a host writes a bounded number of events, and tells how
// many it dropped.
func TestAHostWritesBoundedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		cfg := objects.DefaultRecorderConfig()
		cfg.Store, cfg.Component, cfg.Host, cfg.Logger = s, "test", "h1", quiet()
		registry := prometheus.NewRegistry()
		cfg.Registerer = registry
		r, err := objects.NewRecorder(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		before := s.Commits()
		const objectsOfHost, minutes = 1000, 10
		for range minutes * 60 {
			for i := range objectsOfHost {
				vmi := newVMI(fmt.Sprint("a", i))
				vmi.UID = types.UID(vmi.Name)
				r.Event(vmi, corev1.EventTypeWarning, "FailedCreate", "it failed")
			}
			time.Sleep(time.Second)
		}
		cancel()
		<-done
		total := int32(0)
		for _, ev := range events(t, s) {
			total += ev.Count
		}
		if want := int32(cfg.HostBurst + minutes*60); total > want || total < want-2 {
			t.Errorf("%d events of %d objects in %d minutes, want %d", total, objectsOfHost, minutes, want)
		}
		if n := s.Commits() - before; n > minutes*60+10 {
			t.Errorf("%d transactions", n)
		}
		for _, reason := range []string{"object", "host"} {
			if metric(t, registry, "virtmesh_events_dropped_total", reason) == 0 {
				t.Errorf("no event was counted as dropped for the %s", reason)
			}
		}
	})
}

// metric returns the value of a counter with one label.
func metric(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s of %s", name, label)
	return 0
}

// When the clock of a host is set back, its events are still counted together, and none
// began after it ended.
func TestEventsOfAHostWhoseClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		vmi := newVMI("a")
		commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
		var ahead time.Duration
		cfg := objects.DefaultRecorderConfig()
		cfg.Store, cfg.Component, cfg.Host, cfg.Logger = s, "test", "h1", quiet()
		cfg.Clock = func() time.Time { return time.Now().Add(ahead) }
		r, err := objects.NewRecorder(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, ahead = range []time.Duration{time.Hour, 0, 2 * time.Hour, -time.Hour} {
			var tx objects.Tx
			r.AddTo(&tx, vmi, corev1.EventTypeWarning, "Failed", "it failed")
			if _, err := tx.Commit(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			list := events(t, s)
			if len(list) != 1 {
				t.Fatalf("%d events, want 1", len(list))
			}
			if last := list[0].LastTimestamp; last.Before(&list[0].FirstTimestamp) || !last.Time.Equal(time.Now().Add(ahead).Truncate(time.Second)) {
				t.Errorf("the event began at %s, and was last seen at %s by a clock that is ahead by %s", list[0].FirstTimestamp, last, ahead)
			}
		}
	})
}
