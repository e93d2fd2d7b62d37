package volumes

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

const gib = int64(1) << 30

// counts makes the mesh count pools, of which host1's local one may be promised so many bytes.
func (w *world) counts(bytes int64) {
	w.t.Helper()
	w.Store.SetFeatureLevel(level.Apart)
	have, err := claims.GetCapacity(w.t.Context(), w.Store, "host1", raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	have.Disks = []claims.Disk{{State: true, Pools: []string{"local"}, Bytes: bytes}}
	w.Commit(func(tx *objects.Tx) { claims.Publish(tx, have) })
}

// space returns the room that a claim's volume takes on host1.
func (w *world) space(name string) claims.Space {
	w.t.Helper()
	s, err := claims.GetSpace(w.t.Context(), w.Store, "host1", objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// awaitBound waits until the informers show that a claim is bound.
func (w *world) awaitBound(name string) {
	w.t.Helper()
	w.AwaitShown(func() bool {
		claim, ok := w.claims.claims.Get(objects.Key{Namespace: "ns", Name: name})
		return ok && claim.Status.Phase == corev1.ClaimBound
	})
}

// The room is claimed before the volume is made, and is free when the claim is gone.
func TestVolumesTakeRoomWhileTheyExist(t *testing.T) {
	w := newWorld(t)
	w.counts(2 * gib)
	for _, name := range []string{"a", "b", "c"} {
		w.claim(name, "local", nil)
	}
	users := map[string]*kubevirtv1.VirtualMachineInstance{}
	for _, name := range []string{"a", "b"} {
		users[name] = w.create(vmiWith(name, usesClaim(name)))
		w.prepare(users[name])
		if got := w.space(name); got.Pool != "local" || got.Bytes != gib || got.UID != w.stored(name).UID || got.For != "" {
			t.Errorf("claim %s takes %+v", name, got)
		}
	}
	third := w.create(vmiWith("c", usesClaim("c")))
	if err := w.refusal(third); !strings.Contains(err.Error(), "host host1 may promise 2048 MiB on the disk of pool local, and 3072 MiB would be") {
		t.Errorf("one volume too many: %v", err)
	}
	if w.has(w.local, volumeName(w.stored("c"))) || w.space("c").Revision != 0 {
		t.Error("the volume was made")
	}
	w.end(users["a"])
	w.remove("a")
	w.reconcile(w.claims, "a")
	w.AwaitShown(func() bool { _, ok := w.claims.claims.Get(objects.Key{Namespace: "ns", Name: "a"}); return !ok })
	w.reconcile(w.claims, "a")
	if got := w.space("a"); got.Revision != 0 {
		t.Errorf("a volume that is gone takes %+v", got)
	}
	w.prepare(third)
	w.awaitBound("c")
	if got := w.reconcile(w.claims, "c"); got.RequeueAfter != 0 {
		t.Errorf("a host at rest looks again: %+v", got)
	}
}

// What was claimed when the instance was placed becomes the volume's, even if the host has
// published less since.
func TestAPlacedVolumeFindsItsRoom(t *testing.T) {
	w := newWorld(t)
	w.counts(gib)
	claim := w.claim("data", "local", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	w.Commit(func(tx *objects.Tx) {
		claims.TakeSpace(tx, claims.Space{Host: "host1", Namespace: "ns", Claim: "data", UID: claim.UID, Pool: "local", Bytes: gib, For: vmi.UID})
	})
	if got := w.reconcile(w.claims, "data"); got.RequeueAfter != spaceInterval || w.space("data").Revision == 0 {
		t.Errorf("while the instance is on its way: %+v, takes %+v", got, w.space("data"))
	}
	w.counts(1)
	w.prepare(vmi)
	if got := w.space("data"); got.For != "" || got.Bytes != gib {
		t.Errorf("takes %+v", got)
	}
}

// Room that nobody will use is given back: of an instance that ended before its volume was
// made, and of a claim whose name another has now.
func TestRoomOfNobodyIsGivenBack(t *testing.T) {
	for name, change := range map[string]func(*claims.Space){
		"the instance is gone":           func(s *claims.Space) { s.For = "gone" },
		"the claim is another":           func(s *claims.Space) { s.UID = "other" },
		"the claim is gone":              func(s *claims.Space) { s.Claim = "gone" },
		"the volume is made by host2":    func(s *claims.Space) { s.Claim = "elsewhere" },
		"the instance is on another one": func(s *claims.Space) { s.For = "on-host2" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.counts(10 * gib)
			uid := w.claim("data", "local", nil).UID
			w.claim("elsewhere", "local", func(claim *corev1.PersistentVolumeClaim) {
				claim.Annotations = map[string]string{SelectedNode: "host2"}
			})
			w.Commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: "host2"}) })
			w.Commit(func(tx *objects.Tx) {
				claims.Place(tx, claims.Instance{UID: "on-host2", Namespace: "ns", Name: "x", Host: "host2"}, claims.Epoch{})
			})
			taken := claims.Space{Host: "host1", Namespace: "ns", Claim: "data", UID: uid, Pool: "local", Bytes: gib}
			if change(&taken); taken.Claim == "elsewhere" {
				taken.UID = w.stored("elsewhere").UID
			}
			w.Commit(func(tx *objects.Tx) { claims.TakeSpace(tx, taken) })
			w.AwaitShown(func() bool { return len(w.claims.claims.List("")) == 2 })
			w.reconcile(w.claims, taken.Claim)
			if got := w.space(taken.Claim); got.Revision != 0 {
				t.Errorf("still takes %+v", got)
			}
		})
	}
}

// After a raise a host counts the volumes that it has, more than it may promise or not; before,
// it looks again now and then.
func TestVolumesOfBeforeTheRaiseAreCounted(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "local", nil)
	w.claim("far", "nfs", nil)
	w.prepare(w.create(vmiWith("a", usesClaim("data"), usesClaim("far"))))
	w.awaitBound("data")
	w.awaitBound("far")
	if got := w.reconcile(w.claims, "data"); got.RequeueAfter != spaceInterval || w.space("data").Revision != 0 {
		t.Errorf("before the raise: %+v, takes %+v", got, w.space("data"))
	}
	w.counts(1)
	for _, name := range []string{"data", "far"} {
		w.reconcile(w.claims, name)
	}
	if got := w.space("data"); got.Bytes != gib || got.Pool != "local" {
		t.Errorf("takes %+v", got)
	}
	if got := w.space("far"); got.Revision != 0 {
		t.Errorf("a volume in a shared pool takes %+v of its first host", got)
	}
	before := w.Store.Commits()
	if got := w.reconcile(w.claims, "data"); got.RequeueAfter != 0 || w.Store.Commits() != before {
		t.Errorf("counted again: %+v, %d commits", got, w.Store.Commits()-before)
	}
}
