package schedule

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// happening is a drawn change of what a view follows.
type happening struct{ what, which, value int }

// happenings are the kinds of changes. Each is about a host or an instance of few.
var happenings = []func(b *bench, h happening){
	func(b *bench, h happening) { // a host joins, or its load changes
		b.facts.set(h.host(), func(m *gossip.Member) {
			m.State, m.Facts.Load = gossip.Alive, float64(h.value)/8
		})
	},
	func(b *bench, h happening) {
		b.facts.set(h.host(), func(m *gossip.Member) {
			m.State = []gossip.State{gossip.Suspect, gossip.Dead, gossip.Left}[h.value%3]
		})
	},
	func(b *bench, h happening) {
		b.facts.set(h.host(), func(m *gossip.Member) {
			switch h.value {
			case 0:
				m.Facts.Zone = fmt.Sprint("z", h.which/4)
			case 1:
				m.Facts.Images = []string{fmt.Sprint("image", h.which/4)}
			case 2:
				m.Facts.CPUModels = []string{fmt.Sprint("model", h.which/4)}
			case 3:
				m.Facts.Unschedulable = !m.Facts.Unschedulable
			case 4:
				m.Facts.KVM = !m.Facts.KVM
			default:
				m.Facts.Labels = map[string]string{"disk": fmt.Sprint(h.value)}
			}
		})
	},
	func(b *bench, h happening) { b.facts.forgetHost(h.host()) },
	func(b *bench, h happening) { b.setNode(h.host(), h.value) },
	func(b *bench, h happening) {
		b.edit(func(tx *objects.Tx) {
			if node, err := objects.Get[*corev1.Node](b.Context(), b.store, objects.Key{Name: h.host()}, raftstore.ReadOptions{}); err == nil {
				tx.Delete(node, objects.DeleteOptions{})
			}
		})
	},
	func(b *bench, h happening) {
		b.edit(func(tx *objects.Tx) {
			c, err := claims.GetCapacity(b.Context(), b.store, h.host(), raftstore.ReadOptions{})
			switch {
			case err == nil && h.value > 0:
				c.Allocatable = machine.Resources{CPUMilli: 8000, MemoryBytes: int64(h.value) * gib}
				claims.Publish(tx, c)
			case err == nil && c.Revision > 0:
				claims.Withdraw(tx, c)
			}
		})
	},
	func(b *bench, h happening) {
		if b.vmi(h.instance()) == nil {
			kind := []func(*kubevirtv1.VirtualMachineInstance){func(*kubevirtv1.VirtualMachineInstance) {}, labelled, apart, evenly}[h.value%4]
			b.edit(func(tx *objects.Tx) { tx.Create(instance(h.instance(), kind)) })
		}
	},
	func(b *bench, h happening) { b.endInstance(h.instance()) },
	func(_ *bench, h happening) { time.Sleep(time.Duration(h.value) * 50 * time.Millisecond) },
}

func (h happening) host() string     { return fmt.Sprint("h", h.which%4+1) }
func (h happening) instance() string { return fmt.Sprint("vm", h.which) }

// edit commits what may have been overtaken by the steward.
func (b *bench) edit(build func(tx *objects.Tx)) {
	var tx objects.Tx
	build(&tx)
	_, _ = tx.Commit(b.Context(), b.store)
}

// setNode creates or changes the Node of a host.
func (b *bench) setNode(name string, value int) {
	node, err := objects.Get[*corev1.Node](b.Context(), b.store, objects.Key{Name: name}, raftstore.ReadOptions{})
	next := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err == nil {
		next = node.DeepCopy()
	}
	next.Labels = map[string]string{"rack": fmt.Sprint(value % 2), kubevirtv1.NodeSchedulable: fmt.Sprint(value != 6)}
	next.Spec.Unschedulable, next.Spec.Taints = value == 5, nil
	if value == 4 {
		next.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	}
	b.edit(func(tx *objects.Tx) {
		if err != nil {
			tx.Create(next)
		} else {
			tx.Update(node, next)
		}
	})
}

// endInstance removes an instance with its claim, as its host does when the guest has ended.
func (b *bench) endInstance(name string) {
	vmi := b.vmi(name)
	if vmi == nil {
		return
	}
	in, claimed := b.claim(name)
	b.edit(func(tx *objects.Tx) {
		next := vmi.DeepCopy()
		next.Finalizers = nil
		tx.Delete(next, objects.DeleteOptions{})
		if claimed {
			claims.Release(tx, in)
		}
	})
}

// Whatever happens in whatever order, a view that follows the changes knows the same as
// one that reads everything anew, and decides the same.
func TestFollowingEqualsReadingAnew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) happening {
			return happening{
				rapid.IntRange(0, len(happenings)-1).Draw(t, "what"), rapid.IntRange(0, 7).Draw(t, "which"), rapid.IntRange(0, 7).Draw(t, "value"),
			}
		})
		list := rapid.SliceOfN(draw, 1, 40).Draw(rt, "happenings")
		run(t, func(b *bench) {
			for _, h := range []string{"h1", "h2"} {
				b.host(h, 4*gib)
			}
			for _, h := range list {
				happenings[h.what](b, h)
			}
			time.Sleep(time.Second)
			for _, difference := range b.compareViews() {
				rt.Errorf("after %v: %s", list, difference)
			}
		})
	})
}

// compareViews says in what the view of the first steward differs from one made anew.
func (b *bench) compareViews() (differences []string) {
	synctest.Wait()
	view := b.views[0]
	fresh := NewView(b.store, b.caches[0], view.claims, b.facts)
	ctx, cancel := context.WithCancel(b.Context())
	ready := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { fresh.Run(ctx, func() { close(ready) }) })
	<-ready
	cancel()
	running.Wait()
	names := map[string]bool{}
	for name := range view.lines {
		names[name] = true
	}
	for name := range fresh.lines {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		have, want := view.lines[name], fresh.lines[name]
		if have == nil || want == nil || !reflect.DeepEqual(have.host.Host, want.host.Host) {
			differences = append(differences, fmt.Sprintf("host %s is %+v, anew %+v", name, have, want))
		}
	}
	if have, want := view.CountHosts(), fresh.CountHosts(); have != want {
		differences = append(differences, fmt.Sprintf("%d hosts, anew %d", have, want))
	}
	for size := range 9 {
		for kind, edit := range []func(*kubevirtv1.VirtualMachineInstance){func(*kubevirtv1.VirtualMachineInstance) {}, labelled, apart, evenly, onRack} {
			if have, want := view.probe(size, edit), fresh.probe(size, edit); have != want {
				differences = append(differences, fmt.Sprintf("%d GiB of kind %d go to %s, anew to %s", size, kind, have, want))
			}
		}
	}
	return differences
}

func onRack(vmi *kubevirtv1.VirtualMachineInstance) {
	vmi.Spec.NodeSelector = map[string]string{"rack": "1"}
}

// probe returns where an instance would go, or why it goes nowhere.
func (v *View) probe(size int, edit func(*kubevirtv1.VirtualMachineInstance)) string {
	vmi := instance("probe", edit)
	vmi.UID = "probe"
	request, err := place.NewRequest(vmi, place.DefaultPolicy())
	if err != nil {
		return err.Error()
	}
	request.Resources.MemoryBytes = int64(size) * gib
	v.mu.Lock()
	defer v.mu.Unlock()
	host, err := v.snapshot.Place(request)
	return fmt.Sprint(host, err)
}

// counted are facts that count how often they are read.
type counted struct {
	*facts
	all, one atomic.Int64
}

func (c *counted) Members() []gossip.Member {
	c.all.Add(1)
	return c.facts.Members()
}

func (c *counted) Member(name string) (gossip.Member, bool) {
	c.one.Add(1)
	return c.facts.Member(name)
}

// News of one host makes a view read that host and no other.
func TestNewsOfOneHostCostsOneHost(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 50 {
			b.facts.set(fmt.Sprint("h", i), nil)
		}
		read := &counted{facts: b.facts}
		view := NewView(b.store, b.caches[0], b.views[0].claims, read)
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { view.Run(ctx, func() {}) })
		time.Sleep(time.Second)
		allBefore, oneBefore := read.all.Load(), read.one.Load()
		for load := range 10 {
			b.facts.set("h7", func(m *gossip.Member) { m.Facts.Load = float64(load) })
			time.Sleep(time.Second)
		}
		cancel()
		running.Wait()
		if all, one := read.all.Load()-allBefore, read.one.Load()-oneBefore; all != 0 || one != 10 {
			b.Errorf("ten changes of one host made the view read all hosts %d times and single ones %d times, want 0 and 10", all, one)
		}
		if load := view.lines["h7"].host.Load; load != 9 {
			b.Errorf("its load is %v, want 9", load)
		}
	})
}

// slowFacts are facts whose reading takes as long as the test wants.
type slowFacts struct {
	*facts
	hold  atomic.Bool
	going chan struct{}
}

func (s *slowFacts) Member(name string) (gossip.Member, bool) {
	if s.hold.Load() {
		<-s.going
	}
	return s.facts.Member(name)
}

// While hosts are read and described, decisions go on.
func TestDecisionsDoNotWaitForFacts(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		slow := &slowFacts{facts: b.facts, going: make(chan struct{})}
		view := NewView(b.store, b.caches[0], b.views[0].claims, slow)
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { view.Run(ctx, func() {}) })
		time.Sleep(time.Second)
		slow.hold.Store(true)
		b.facts.set("h1", func(m *gossip.Member) { m.Facts.Load = 1 })
		time.Sleep(time.Second) // the view reads, and does not get its answer
		vmi := instance("a")
		vmi.UID = "a"
		request, err := place.NewRequest(vmi, place.DefaultPolicy())
		if err != nil {
			b.Fatal(err)
		}
		if choice, err := view.Decide(ctx, request); choice.Host != "h1" {
			b.Errorf("decided for %q: %v", choice.Host, err)
		}
		close(slow.going)
	})
}

// No decision follows the news of a death that does not count it, however busy the host
// was before.
func TestDeathCountsAtOnce(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 8*gib) // the better one
		for load := range 5 {
			b.facts.set("h2", func(m *gossip.Member) { m.Facts.Load = float64(load) / 100 })
			synctest.Wait()
		}
		b.facts.set("h2", func(m *gossip.Member) { m.State = gossip.Dead })
		synctest.Wait()
		if got := b.views[0].probe(1, labelled); got != "h1<nil>" {
			b.Errorf("an instance goes to %s, want h1", got)
		}
	})
}
