package schedule

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

func TestPlacedInOneTransaction(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		before := b.store.Commits()
		b.create("a")
		b.expectHost("a", "h1")
		if n := b.store.Commits() - before; n != 2 {
			b.Errorf("%d transactions, want the user's and one", n)
		}
		vmi := b.vmi("a")
		if ts := vmi.Status.PhaseTransitionTimestamps; len(ts) != 1 || ts[0].Phase != kubevirtv1.Scheduled {
			b.Errorf("transitions %+v", ts)
		}
		if in, _ := b.claim("a"); in.Epoch != 1 || in.Resources.MemoryBytes <= gib {
			b.Errorf("claim %+v", in)
		}
		if b.events(reasonScheduled) != 1 {
			b.Errorf("%d events", b.events(reasonScheduled))
		}
	})
}

func TestWaitsForRoomAndTakesIt(t *testing.T) {
	run(t, func(b *bench) {
		b.create("a")
		b.expectWaiting("a", "0/1 hosts are available: 1 without published capacity")
		if b.vmi("a").Status.Phase != kubevirtv1.Scheduling || b.events(reasonFailedScheduling) != 1 {
			b.Errorf("phase %s, %d events", b.vmi("a").Status.Phase, b.events(reasonFailedScheduling))
		}
		// Hours without news cost nothing.
		before := b.store.Commits()
		time.Sleep(3 * time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions while waiting", n)
		}
		b.host("h1", 2*gib)
		time.Sleep(time.Second)
		b.expectHost("a", "h1")
		if c := b.vmi("a").Status.Conditions; len(c) != 0 {
			b.Errorf("conditions left: %+v", c)
		}
		b.create("b")
		b.expectWaiting("b", "1 Insufficient memory")
		in, _ := b.claim("a")
		b.commit(func(tx *objects.Tx) { claims.Release(tx, in) })
		time.Sleep(time.Second)
		b.expectHost("b", "h1")
	})
}

func TestNodeObjectsCount(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 4*gib)
		for _, n := range []string{"h1", "h2"} {
			b.commit(func(tx *objects.Tx) {
				tx.Create(&corev1.Node{
					ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{"disk": map[string]string{"h1": "hdd", "h2": "ssd"}[n]}},
					Spec:       corev1.NodeSpec{Unschedulable: n == "h1"},
				})
			})
		}
		b.create("a")
		b.expectHost("a", "h2")
		b.create("b", func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Spec.NodeSelector = map[string]string{"disk": "hdd"} })
		b.expectWaiting("b", "0/2 hosts are available: 1 cordoned, 1 didn't match node affinity or selector")
		node, err := objects.Get[*corev1.Node](b.Context(), b.store, objects.Key{Name: "h1"}, raftstore.ReadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		next := node.DeepCopy()
		next.Spec.Unschedulable = false
		b.commit(func(tx *objects.Tx) { tx.Update(node, next) })
		time.Sleep(time.Second)
		b.expectHost("b", "h1")
	})
}

func TestDeadHostsGetNothing(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 8*gib)
		b.hear("h2", func(m *gossip.Member) { m.State = gossip.Dead })
		b.create("a")
		b.expectHost("a", "h1")
		b.hear("h1", func(m *gossip.Member) { m.State = gossip.Suspect })
		b.create("b")
		b.expectWaiting("b", "1 not alive, 1 not answering")
		b.hear("h2", func(m *gossip.Member) { m.State = gossip.Alive })
		time.Sleep(time.Second)
		b.expectHost("b", "h2")
	})
}

func TestTheNextBestIsAskedAfterARefusal(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 8*gib)
		b.host("h3", 16*gib)
		b.offers.set(func() {
			b.offers.by["h3"] = claims.Offer{Reason: "memory is really used"}
			b.offers.err["h2"] = errors.New("connection refused")
		})
		b.create("a")
		b.expectHost("a", "h1")
		if want := []string{"h3", "h2", "h1"}; !slices.Equal(b.offers.asked, want) {
			b.Errorf("asked %v, want %v", b.offers.asked, want)
		}
		b.offers.set(func() { b.offers.by["h1"] = claims.Offer{} })
		b.create("b")
		b.expectWaiting("b", "1 gave no offer, 1 refused, 1 refused (memory is really used)")
		b.offers.set(func() { delete(b.offers.by, "h3") })
		time.Sleep(2 * time.Minute)
		b.expectHost("b", "h3")
	})
}

// TestHostsThatWereNotAskedAreCounted: five refusals in a mesh of eight hosts must not
// read as if the mesh had five.
func TestHostsThatWereNotAskedAreCounted(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 8 {
			name := fmt.Sprintf("h%d", i+1)
			b.host(name, 8*gib)
			b.offers.set(func() { b.offers.by[name] = claims.Offer{} })
		}
		b.create("a")
		b.expectWaiting("a", "0/8 hosts are available: 3 not asked yet, 5 refused")
	})
}

func TestUnclaimedInstancesAreLetGo(t *testing.T) {
	run(t, func(b *bench) {
		b.create("a")
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vmi("a"), objects.DeleteOptions{}) })
		if b.vmi("a") != nil {
			b.Error("a is still there")
		}
		// With another finalizer it stays, and says how it ended.
		b.create("b", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Finalizers = append(vmi.Finalizers, kubevirtv1.VirtualMachineControllerFinalizer)
		})
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vmi("b"), objects.DeleteOptions{}) })
		if vmi := b.vmi("b"); vmi.Status.Phase != kubevirtv1.Failed || objects.HasFinalizer(vmi, kubevirtv1.VirtualMachineInstanceFinalizer) {
			b.Errorf("%s %v", vmi.Status.Phase, vmi.Finalizers)
		}
		// One that has a claim is its host's.
		b.host("h1", 4*gib)
		b.create("c")
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vmi("c"), objects.DeleteOptions{}) })
		time.Sleep(time.Hour)
		if b.vmi("c") == nil {
			b.Error("c was taken from its host")
		}
	})
}

func TestThePreviousInstanceMustBeGone(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 16*gib)
		b.create("a")
		claim, _ := b.claim("a")
		// It loses its finalizers by force, and its machine makes another.
		old := b.vmi("a")
		next := old.DeepCopy()
		next.Finalizers = nil
		b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
		b.commit(func(tx *objects.Tx) { tx.Delete(next, objects.DeleteOptions{}) })
		b.create("a")
		b.expectWaiting("a", "host h1 has not let go of the previous instance")
		b.commit(func(tx *objects.Tx) { claims.Release(tx, claim) })
		time.Sleep(time.Second)
		b.expectHost("a", "h1")
		if in, _ := b.claim("a"); in.Epoch != 2 {
			b.Errorf("epoch %d, want 2", in.Epoch)
		}
	})
}

func TestVolumesComeFirstAndDecide(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		b.host("h2", 4*gib)
		withDisk := func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "disk", VolumeSource: kubevirtv1.VolumeSource{
				PersistentVolumeClaim: &kubevirtv1.PersistentVolumeClaimVolumeSource{PersistentVolumeClaimVolumeSource: corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}},
			}}}
		}
		b.create("a", withDisk)
		b.expectWaiting("a", "PVC ns/data does not exist")
		if c := b.vmi("a").Status.Conditions[0]; c.Reason != ReasonPVCNotFound || c.Type != kubevirtv1.VirtualMachineInstanceSynchronized {
			b.Errorf("condition %+v", c)
		}
		b.commit(func(tx *objects.Tx) {
			tx.Create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", Annotations: map[string]string{kinds.SelectedNode: "h2"}}})
		})
		time.Sleep(time.Second)
		b.expectHost("a", "h2")
	})
}

// What TPM and firmware keep is on one host: the machine starts there or says why not.
func TestKeptStateDecides(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		keeps := func(vmi *kubevirtv1.VirtualMachineInstance) {
			yes := true
			vmi.Spec.Domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: &yes}
		}
		b.commit(func(tx *objects.Tx) {
			tx.Create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "persistent-state-for-a", Annotations: map[string]string{kinds.SelectedNode: "h2"}}})
		})
		b.create("a", keeps)
		b.expectWaiting("a", "did not have the state of its TPM and firmware, see PersistentVolumeClaim persistent-state-for-a")
		b.host("h2", 4*gib)
		time.Sleep(time.Minute)
		b.expectHost("a", "h2")
	})
}

func TestBadInstancesSayWhichField(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.create("a", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone"}}
		})
		b.expectWaiting("a", "spec.topologySpreadConstraints[0]")
	})
}

func TestAntiAffinityAmongNewInstances(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 4 {
			b.host(fmt.Sprint("h", i+1), 16*gib)
		}
		b.commit(func(tx *objects.Tx) {
			for i := range 5 {
				tx.Create(instance(fmt.Sprint("db", i), apart))
			}
		})
		time.Sleep(time.Second)
		hosts := map[string]int{}
		for i := range 5 {
			hosts[b.vmi(fmt.Sprint("db", i)).Status.NodeName]++
		}
		if len(hosts) != 5 || hosts[""] != 1 {
			b.Errorf("hosts %v, want one each and one waiting", hosts)
		}
	})
}

// Stewards with separate views place many instances at once on hosts that hold
// few: nobody is overcommitted, and what fits is placed.
func TestManyStewardsShareTheMesh(t *testing.T) {
	stewards := []string{"h1", "h2", "h3", "h4"}
	run(t, func(b *bench) {
		for _, h := range stewards {
			b.host(h, 4*gib) // three instances each
		}
		b.commit(func(tx *objects.Tx) {
			for i := range 16 {
				tx.Create(instance(fmt.Sprint("vm", i)))
			}
		})
		time.Sleep(5 * time.Minute)
		perHost := map[string]int{}
		for i := range 16 {
			perHost[b.vmi(fmt.Sprint("vm", i)).Status.NodeName]++
		}
		for _, h := range stewards {
			if perHost[h] != 3 {
				b.Errorf("%s has %d instances, want 3 (%v)", h, perHost[h], perHost)
			}
		}
		// The views agree with the books.
		for _, v := range b.views {
			for size, want := range map[int64]int{1 * gib: 0, gib / 8: len(stewards)} {
				if n := fits(b, v, machine.Resources{MemoryBytes: size}); n != want {
					b.Errorf("%d bytes more fit on %d hosts, want %d", size, n, want)
				}
			}
		}
	}, stewards...)
}

// fits counts the hosts that would take an instance, by a view.
func fits(b *bench, v *View, more machine.Resources) (n int) {
	vmi := instance("last")
	vmi.UID = "last"
	all, err := place.NewRequest(vmi, place.DefaultPolicy())
	if err != nil {
		b.Fatal(err)
	}
	all.Resources = more
	for {
		choice, err := v.Decide(b.Context(), all)
		if err != nil {
			return n
		}
		v.Forget(all.UID)
		all.Avoid(choice.Host, "counted")
		n++
	}
}

// When a steward dies, another takes over its waiting instances.
func TestAnotherStewardTakesOver(t *testing.T) {
	run(t, func(b *bench) {
		// h9 is a member that never does anything.
		b.facts.stewards = append(b.facts.stewards, "h9")
		b.hear("h9", nil)
		b.host("h1", 64*gib)
		for i := range 12 {
			b.create(fmt.Sprint("vm", i))
		}
		placed := func() (n int) {
			for i := range 12 {
				if b.vmi(fmt.Sprint("vm", i)).Status.NodeName != "" {
					n++
				}
			}
			return n
		}
		if n := placed(); n == 0 || n == 12 {
			b.Fatalf("%d of 12 were h1's", n)
		}
		b.hear("h9", func(m *gossip.Member) { m.State = gossip.Dead })
		time.Sleep(time.Second)
		if n := placed(); n != 12 {
			b.Errorf("%d of 12 are placed", n)
		}
	})
}

// A steward keeps nothing of the waiting instances that are another's now.
func TestWhatMovedToAnotherStewardIsForgotten(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 12 {
			b.create(fmt.Sprint("vm", i))
		}
		c := b.controllers[0]
		kept := func() (waiting, taken int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.figures.mu.Lock()
			defer c.figures.mu.Unlock()
			return len(c.waiting), len(c.figures.taken)
		}
		if w, n := kept(); w != 12 || n != 12 {
			b.Fatalf("%d wait and %d are timed, want 12", w, n)
		}
		b.facts.stewards = append(b.facts.stewards, "h9")
		b.hear("h9", nil)
		time.Sleep(5 * time.Minute)
		mine := 0
		for i := range 12 {
			if c.cfg.Stewardship.Mine("virtualmachineinstances", objects.Key{Namespace: "ns", Name: fmt.Sprint("vm", i)}) {
				mine++
			}
		}
		if w, n := kept(); w != mine || n != mine || mine == 12 {
			b.Errorf("%d wait and %d are timed, want the %d that are still its own", w, n, mine)
		}
	})
}
