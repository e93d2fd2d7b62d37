package membership

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

var errNoLeader = errors.New("no leader")

// grave is a mesh in which host2 is to be removed.
type grave struct {
	*testing.T
	*objectstest.Store
	// left is how many more commits go through, negative for all.
	left int
	// before runs once, before the commit that writes a key with this part.
	before map[string]func()
	// group are the hosts with a replica; groupFails makes its changes fail.
	group      []string
	groupFails bool
	told       []string
	letGo      []string // hosts whose volume claims were let go
}

func (g *grave) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if g.left == 0 {
		return raftstore.TxnResult{}, errNoLeader
	}
	for part, act := range g.before {
		if slices.ContainsFunc(t.Ops, func(op raftstore.Op) bool { return strings.Contains(op.Key, part) }) {
			delete(g.before, part)
			act()
		}
	}
	g.left--
	return g.Store.Commit(ctx, t)
}

func (g *grave) RemoveReplica(_ context.Context, host string) error {
	if g.groupFails {
		return errNoLeader
	}
	g.group = slices.DeleteFunc(g.group, func(h string) bool { return h == host })
	return nil
}

func (g *grave) Status(context.Context) raftstore.Status { return raftstore.Status{Voters: g.group} }

func (g *grave) removal(host string) removal {
	return removal{
		host: host, store: g, hosts: identity.NewHosts(g), replicas: g,
		letGo: func(_ context.Context, host string) error { g.letGo = append(g.letGo, host); return nil },
		tell:  func(vmi *kubevirtv1.VirtualMachineInstance, _, _ string) { g.told = append(g.told, vmi.Name) },
	}
}

func (g *grave) remove(host string) error { return g.removal(host).runSteps(g.Context()) }

func (g *grave) write(build func(tx *objects.Tx)) {
	g.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(g.Context(), g.Store); err != nil {
		g.Fatal(err)
	}
}

func (g *grave) instance(name string) *kubevirtv1.VirtualMachineInstance {
	g.Helper()
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](g.Context(), g.Store, objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
	if err != nil {
		g.Fatal(err)
	}
	return vmi
}

// place makes an instance with a claim on a host.
func (g *grave) place(name, host string) *kubevirtv1.VirtualMachineInstance {
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID(name), Finalizers: []string{kubevirtv1.VirtualMachineInstanceFinalizer},
	}}
	vmi.Status.Phase, vmi.Status.NodeName = kubevirtv1.Running, host
	g.write(func(tx *objects.Tx) {
		tx.Create(vmi)
		claims.Place(tx, claims.Instance{Namespace: "ns", Name: name, UID: vmi.UID, Host: host}, claims.Epoch{})
	})
	return vmi
}

// dig makes the mesh: host2 runs an instance, holds the claims of two that have
// no object any more, and is the target of a migration from host1.
func dig(t *testing.T) *grave {
	g := &grave{T: t, Store: objectstest.New(claims.Rules()...), left: -1, before: map[string]func(){}, group: []string{"host1", "host2"}}
	for _, host := range []string{"host1", "host2"} {
		record, err := json.Marshal(identity.HostRecord{Name: host})
		if err != nil {
			t.Fatal(err)
		}
		g.write(func(tx *objects.Tx) {
			claims.Publish(tx, claims.Capacity{Host: host})
			claims.NoteSpace(tx, claims.Space{Host: host, Namespace: "ns", Claim: "data", Pool: "local", Bytes: 1})
			tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: host}})
			tx.Put(identity.HostKey(host), record)
			tx.Put(SubnetPrefix+host, []byte(host))
		})
	}
	g.place("runs", "host2")
	for _, name := range []string{"gone", "replaced"} {
		vmi := g.place(name, "host2")
		bare := vmi.DeepCopy()
		bare.Finalizers = nil
		g.write(func(tx *objects.Tx) { tx.Update(vmi, bare) })
		g.write(func(tx *objects.Tx) { tx.Delete(bare, objects.DeleteOptions{}) })
	}
	g.write(func(tx *objects.Tx) {
		tx.Create(&kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "replaced", UID: "new"}})
	})
	for _, uid := range []types.UID{"runs", "gone"} {
		g.write(func(tx *objects.Tx) { claims.Attach(tx, claims.Volume{Namespace: "ns", Claim: string(uid)}, uid) })
	}
	g.place("moves", "host1")
	moving, _, err := claims.GetInstance(t.Context(), g.Store, "moves", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last, err := claims.GetEpoch(t.Context(), g.Store, moving.Key(), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g.write(func(tx *objects.Tx) { claims.Reserve(tx, moving, "host2", last) })
	return g
}

// expectBuried checks that nothing is left of host2, and all of host1.
func (g *grave) expectBuried() {
	g.Helper()
	for _, key := range g.Keys("/") {
		if strings.HasSuffix(key, "/host2") && key != identity.ExpelledPrefix+"host2" || strings.Contains(key, "/host2/") {
			g.Errorf("%s is left", key)
		}
	}
	if keys := g.Keys("/claims/vmi/"); !slices.Equal(keys, []string{"/claims/vmi/moves"}) {
		g.Errorf("claims %v, want that of the instance on host1", keys)
	}
	if keys := g.Keys("/claims/volume/"); len(keys) != 0 {
		g.Errorf("volumes are still attached: %v", keys)
	}
	if vmi := g.instance("runs"); vmi.Status.Phase != kubevirtv1.Failed || vmi.Status.Reason != "NodeUnresponsive" || len(vmi.Finalizers) != 0 {
		g.Errorf("the instance of host2: %s, %v", vmi.Status.Phase, vmi.Finalizers)
	}
	for _, name := range []string{"replaced", "moves"} {
		if vmi := g.instance(name); vmi.Status.Phase == kubevirtv1.Failed {
			g.Errorf("%s was ended", name)
		}
	}
	if len(g.Keys(identity.HostKey("host1"))) != 1 || len(g.Keys("/claims/capacity/host1")) != 1 || !slices.Equal(g.group, []string{"host1"}) {
		g.Error("host1 was touched")
	}
	if keys := g.Keys("/claims/space/"); !slices.Equal(keys, []string{"/claims/space/host1/ns/data"}) {
		g.Errorf("volumes take room as %v", keys)
	}
	if !slices.Contains(g.letGo, "host2") {
		g.Errorf("volume claims let go of %v", g.letGo)
	}
	if !slices.Equal(g.told, []string{"runs"}) {
		g.Errorf("events about %v", g.told)
	}
}

func TestRemovalOfAHostThatIsGone(t *testing.T) {
	t.Parallel()
	g := dig(t)
	if err := g.remove("host2"); err != nil {
		t.Fatal(err)
	}
	g.expectBuried()
	if err := g.remove("host2"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := g.remove("host9"); !errors.Is(err, fault.NotFound) {
		t.Errorf("a name that nobody knows: %v", err)
	}
}

// Wherever a removal breaks off, the next one carries it on.
func TestRemovalCanBeRepeated(t *testing.T) {
	t.Parallel()
	g := dig(t)
	g.groupFails = true
	if err := g.remove("host2"); !errors.Is(err, errNoLeader) {
		t.Fatalf("got %v", err)
	}
	g.groupFails = false
	if err := g.remove("host2"); err != nil {
		t.Fatalf("after the replica could not be removed: %v", err)
	}
	g.expectBuried()
	for commits := 0; ; commits++ {
		g := dig(t)
		g.left = commits
		err := g.remove("host2")
		if err == nil {
			if commits < 6 {
				t.Errorf("a removal is %d transactions", commits)
			}
			return
		}
		if !errors.Is(err, errNoLeader) {
			t.Fatal(err)
		}
		g.left = -1
		if err := g.remove("host2"); err != nil {
			t.Fatalf("after a failure at transaction %d: %v", commits, err)
		}
		g.expectBuried()
	}
}

// A removal that goes on later finds another machine under the name: what is
// there now is not the dead one's, and stays.
func TestRemovalLeavesTheSuccessorAlone(t *testing.T) {
	t.Parallel()
	for done := 1; done < 6; done++ {
		g := dig(t)
		steps := g.removal("host2").steps()
		for _, step := range steps[:done] {
			if err := step.Do(t.Context(), func(int64, int64) {}); err != nil {
				t.Fatal(err)
			}
		}
		g.write(func(tx *objects.Tx) {
			tx.Put(identity.HostKey("host2"), []byte(`{"name":"host2","id":"new"}`))
			if len(g.Keys("/claims/capacity/host2")) == 0 {
				claims.Publish(tx, claims.Capacity{Host: "host2"})
			}
		})
		if err := steps[done].Do(t.Context(), func(int64, int64) {}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "joined the mesh as host2") {
			t.Errorf("%s after another machine has joined: %v", steps[done].Name, err)
		}
		if len(g.Keys(identity.HostKey("host2"))) != 1 || len(g.Keys("/claims/capacity/host2")) != 1 {
			t.Errorf("%s took what is the new machine's", steps[done].Name)
		}
	}
}

// Others write the same objects at the same time: the watcher of nodes marks
// the dead host's, and users edit instances.
func TestRemovalOutlastsConflicts(t *testing.T) {
	t.Parallel()
	g := dig(t)
	touch := func(o objects.Object) {
		next := o.DeepCopyObject().(objects.Object)
		next.SetAnnotations(map[string]string{"touched": "yes"})
		g.write(func(tx *objects.Tx) { tx.Update(o, next) })
	}
	g.before["/nodes/host2"] = func() {
		node, err := objects.Get[*corev1.Node](t.Context(), g.Store, objects.Key{Name: "host2"}, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		touch(node)
	}
	g.before["/claims/vmi/runs"] = func() { touch(g.instance("runs")) }
	if err := g.remove("host2"); err != nil {
		t.Fatal(err)
	}
	g.expectBuried()
	if len(g.before) != 0 {
		t.Errorf("no conflict was met on %v", g.before)
	}
}

// duties are those of a host that publishes itself and has no volumes.
type duties struct{ *publish.Publisher }

func (duties) Bury(context.Context, string) error { return nil }

// A steward may claim this host in the moment it is asked to leave. It must
// not leave then: the instance would be nobody's.
func TestAHostLeavesOnlyWithoutInstances(t *testing.T) {
	t.Parallel()
	g := dig(t)
	log := slog.New(slog.DiscardHandler)
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = g, log
	cache, err := objects.NewCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	publishing := publish.DefaultConfig()
	publishing.Host, publishing.Store, publishing.Cache, publishing.Logger = "host9", g, cache, log
	publishing.Claims, publishing.Describe = claims.NewCache(cache, log), func() publish.Description { return publish.Description{} }
	publisher, err := publish.New(publishing)
	if err != nil {
		t.Fatal(err)
	}
	var handedOver error
	leave := func() error {
		return retireHost(t.Context(), g, duties{publisher}, removal{host: "host9", store: g, hosts: identity.NewHosts(g), replicas: g},
			func(context.Context) error { return handedOver })
	}
	g.write(func(tx *objects.Tx) {
		claims.Publish(tx, claims.Capacity{Host: "host9"})
		tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host9"}})
	})
	g.before["/claims/capacity/host9"] = func() { g.place("late", "host9") }
	if err := leave(); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "1 instances run on host9") {
		t.Errorf("with an instance that has just been claimed: %v", err)
	}
	if len(g.Keys("/registry/core/nodes/host9")) != 1 {
		t.Error("a refused host lost its Node, and with it what users wrote there")
	}
	late, _, err := claims.GetInstance(t.Context(), g.Store, "late", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g.write(func(tx *objects.Tx) { claims.Release(tx, late) })
	handedOver = errNoLeader
	if err := leave(); !errors.Is(err, errNoLeader) || len(g.Keys("/registry/core/nodes/host9")) != 1 {
		t.Errorf("nobody takes over from the host: %v, its Node is gone: %v", err, len(g.Keys("/registry/core/nodes/host9")) == 0)
	}
	handedOver = nil
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if keys := append(g.Keys("/claims/capacity/host9"), g.Keys("/registry/core/nodes/host9")...); len(keys) != 0 {
		t.Errorf("left: %v", keys)
	}
}
