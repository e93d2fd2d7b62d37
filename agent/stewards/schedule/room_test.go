package schedule

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// withClaim gives an instance a volume of a PersistentVolumeClaim.
func withClaim(name string) func(*kubevirtv1.VirtualMachineInstance) {
	return func(vmi *kubevirtv1.VirtualMachineInstance) {
		vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: name, VolumeSource: kubevirtv1.VolumeSource{
			PersistentVolumeClaim: &kubevirtv1.PersistentVolumeClaimVolumeSource{PersistentVolumeClaimVolumeSource: corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}},
		}})
	}
}

// withEmptyDisk gives an instance a disk that ends with it.
func withEmptyDisk(size string) func(*kubevirtv1.VirtualMachineInstance) {
	return func(vmi *kubevirtv1.VirtualMachineInstance) {
		vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: "scratch", VolumeSource: kubevirtv1.VolumeSource{
			EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse(size)},
		}})
	}
}

// createClaim stores a claim that nobody has used yet.
func (b *bench) createClaim(name, class, size string) {
	b.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	if class != "" {
		claim.Spec.StorageClassName = &class
	}
	claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	b.commit(func(tx *objects.Tx) { tx.Create(claim) })
}

// pools lets a host tell of the room in its pools, in GiB.
func (b *bench) pools(host string, room map[string]int64) {
	b.hear(host, func(m *gossip.Member) {
		m.Facts.Pools = map[string]gossip.Pool{}
		for name, n := range room {
			m.Facts.Pools[name] = gossip.Pool{Capacity: 100 * gib, Free: n * gib}
		}
	})
}

// A volume is made on the host of its first instance, so that host must have room for it.
func TestUnmadeVolumesNeedRoom(t *testing.T) {
	run(t, func(b *bench) {
		b.commit(func(tx *objects.Tx) {
			tx.Create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Parameters: map[string]string{"storagePool": "fast"}})
		})
		b.host("h1", 8*gib) // preferred, as it has the most memory
		b.host("h2", 4*gib)
		b.pools("h1", map[string]int64{gossip.StateDisk: 50, "local": 9})
		b.pools("h2", map[string]int64{gossip.StateDisk: 50, "local": 10, "fast": 10})
		b.createClaim("a1", "", "5Gi")
		b.createClaim("a2", "", "5Gi")
		b.create("a", withClaim("a1"), withClaim("a2"))
		b.expectHost("a", "h2")
		if got := b.offers.wants[0].Pools; len(got) != 1 || got["local"] != 10*gib {
			b.Errorf("the host was asked for room for %v", got)
		}
		b.createClaim("b1", "gold", "1Gi")
		b.create("b", withClaim("b1"))
		b.expectHost("b", "h2")

		b.createClaim("c1", "gold", "11Gi")
		b.create("c", withClaim("c1"))
		b.expectWaiting("c", "0/2 hosts are available: 1 could not use pool fast, 1 had too little room in pool fast")
		b.pools("h1", map[string]int64{gossip.StateDisk: 50, "local": 9, "fast": 11})
		time.Sleep(time.Second)
		b.expectHost("c", "h1")
	})
}

// A volume that is there needs no room, however full its pool is.
func TestMadeVolumesNeedNoRoom(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		b.pools("h1", map[string]int64{gossip.StateDisk: 0, "local": 0})
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", Annotations: map[string]string{
			kinds.SelectedNode: "h1", kinds.VolumePool: "local",
		}}}
		claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}
		claim.Status.Phase = corev1.ClaimBound
		b.commit(func(tx *objects.Tx) { tx.Create(claim) })
		b.create("a", withClaim("data"))
		b.expectHost("a", "h1")
	})
}

// Disks that end with their instance take room beside the host's own state. A host that does
// not tell how much there is, because its version is older, is asked all the same.
func TestEmptyDisksNeedRoom(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		capacity, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		capacity.Allocatable.EphemeralBytes = 90 * gib
		b.commit(func(tx *objects.Tx) { claims.Publish(tx, capacity) })
		b.pools("h1", map[string]int64{gossip.StateDisk: 4})
		b.create("a", withEmptyDisk("5Gi"))
		b.expectWaiting("a", "1 had too little room on disk for what ends with the instance")
		b.pools("h1", map[string]int64{"local": 4})
		time.Sleep(time.Second)
		b.expectHost("a", "h1")
	})
}

// Room on disk that grows bit by bit wakes the instances that lacked it, and no others: those
// go on waiting longer and longer.
func TestRoomOnDiskWakesThoseThatLackedIt(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		b.pools("h1", map[string]int64{"local": 1})
		b.offers.set(func() { b.offers.by["h1"] = claims.Offer{Reason: "busy"} })
		b.create("plain")
		b.createClaim("data", "", "5Gi")
		b.create("stored", withClaim("data"))
		time.Sleep(5 * time.Minute)
		asked := 0
		b.offers.set(func() { asked = len(b.offers.asked) })
		for room := range int64(3) {
			b.pools("h1", map[string]int64{"local": 2 + room})
		}
		b.offers.set(func() {
			if n := len(b.offers.asked) - asked; n > 1 {
				b.Errorf("the host was asked %d times for an instance without disks", n)
			}
			b.offers.by["h1"] = claims.Offer{Accepted: true}
		})
		b.expectWaiting("stored", "1 had too little room in pool local")
		b.pools("h1", map[string]int64{"local": 5})
		b.expectHost("stored", "h1")
		b.expectWaiting("plain", "busy")
	})
}

// counts makes the mesh count pools, of which a host may promise so many GiB beside its state.
func (b *bench) counts(host string, g int64) {
	b.Helper()
	b.store.SetFeatureLevel(level.Apart)
	capacity, err := claims.GetCapacity(b.Context(), b.store, host, raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	capacity.Allocatable.EphemeralBytes = 1000 * gib
	capacity.Disks = []claims.Disk{{State: true, Pools: []string{"local"}, Bytes: g * gib}}
	b.commit(func(tx *objects.Tx) { claims.Publish(tx, capacity) })
	time.Sleep(time.Second)
}

// Room is claimed for a volume with its instance, so that it is promised once, however empty
// the disk still is.
func TestUnmadeVolumesArePromisedOnce(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		b.counts("h1", 10)
		b.pools("h1", map[string]int64{gossip.StateDisk: 90, "local": 90})
		for _, name := range []string{"a", "b"} {
			b.createClaim(name, "", "6Gi")
			b.create(name, withClaim(name))
		}
		b.expectHost("a", "h1")
		taken, err := claims.GetSpace(b.Context(), b.store, "h1", objects.Key{Namespace: "ns", Name: "a"}, raftstore.ReadOptions{})
		if err != nil || taken.Bytes != 6*gib || taken.Pool != "local" || taken.For != b.vmi("a").UID {
			b.Errorf("claimed %+v, %v", taken, err)
		}
		b.expectWaiting("b", "1 had promised the disk of pool local to others")
		b.create("c", withEmptyDisk("7Gi"))
		b.expectWaiting("c", "1 had promised the disk of pool local to others")
		b.create("d", withEmptyDisk("4Gi"))
		b.expectHost("d", "h1")
		b.commit(func(tx *objects.Tx) { claims.FreeSpace(tx, taken) })
		time.Sleep(time.Second)
		b.expectHost("b", "h1")
	})
}

// Room that was claimed for an instance which has ended is claimed for the next one: otherwise
// the host would free it as nobody's. Whether the volume has its host already does not matter.
func TestRoomGoesOverToTheNextInstance(t *testing.T) {
	for _, selected := range []string{"", "h1"} {
		run(t, func(b *bench) {
			b.host("h1", 8*gib)
			b.counts("h1", 13)
			b.createClaim("data", "", "6Gi")
			pvc, err := objects.Get[*corev1.PersistentVolumeClaim](b.Context(), b.store, objects.Key{Namespace: "ns", Name: "data"}, raftstore.ReadOptions{})
			if err != nil {
				b.Fatal(err)
			}
			next := pvc.DeepCopy()
			next.Annotations = map[string]string{kinds.SelectedNode: selected}
			b.commit(func(tx *objects.Tx) {
				tx.Update(pvc, next)
				claims.NoteSpace(tx, claims.Space{
					Host: "h1", Namespace: "ns", Claim: "data", UID: pvc.UID, Pool: kinds.DefaultPool, Bytes: 6 * gib, For: "ended",
				})
			})
			time.Sleep(time.Second)
			b.create("a", withClaim("data"))
			b.expectHost("a", "h1")
			taken, err := claims.GetSpace(b.Context(), b.store, "h1", objects.Key{Namespace: "ns", Name: "data"}, raftstore.ReadOptions{})
			if err != nil || taken.For != b.vmi("a").UID || taken.Bytes != 6*gib {
				b.Errorf("selected %q: claimed %+v, %v", selected, taken, err)
			}
		})
	}
}

// Stewards that decide at the same time, each on its own view, do not promise a disk twice: the
// store refuses the second, whose instance goes to another host.
func TestManyStewardsPromiseADiskOnce(t *testing.T) {
	run(t, func(b *bench) {
		for _, host := range []string{"h1", "h2", "h3"} {
			b.host(host, 100*gib)
			b.counts(host, 10)
			b.pools(host, map[string]int64{gossip.StateDisk: 90, "local": 90})
		}
		b.offers.set(func() { b.offers.delay = time.Second })
		for i := range 12 {
			name := fmt.Sprint("vm", i)
			b.createClaim(name, "", "4Gi")
			b.create(name, withClaim(name))
		}
		time.Sleep(5 * time.Minute)
		on := map[string]int{}
		for i := range 12 {
			if in, ok := b.claim(fmt.Sprint("vm", i)); ok {
				on[in.Host]++
			}
		}
		if on["h1"] != 2 || on["h2"] != 2 || on["h3"] != 2 {
			b.Errorf("placed %v, want two of 4 GiB on each disk of 10", on)
		}
	}, "h1", "h2", "h3")
}
