package raise

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

// fakeMesh is a mesh whose hosts are upgraded by the test.
type fakeMesh struct {
	mu     sync.Mutex
	level  uint32
	hosts  map[string]level.Host
	asked  int
	refuse error
}

var _ Mesh = (*fakeMesh)(nil)

func newFakeMesh(highest uint32, names ...string) *fakeMesh {
	m := &fakeMesh{level: 1, hosts: map[string]level.Host{}}
	for _, name := range names {
		m.hosts[name] = level.Host{Name: name, Highest: highest, Live: true}
	}
	return m
}

func (m *fakeMesh) FeatureLevel() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.level
}

func (m *fakeMesh) LevelHosts() (hosts []level.Host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.hosts {
		hosts = append(hosts, h)
	}
	return hosts
}

func (m *fakeMesh) RaiseFeatureLevel(_ context.Context, to uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.refuse != nil {
		return m.refuse
	}
	m.level = to
	return nil
}

// set changes what a host says of itself.
func (m *fakeMesh) set(name string, highest uint32, live bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[name] = level.Host{Name: name, Highest: highest, Live: live}
}

// setRefusal makes raises fail with err.
func (m *fakeMesh) setRefusal(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = err
}

// requests returns how often a raise was asked for.
func (m *fakeMesh) requests() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// setPolicy writes the mesh's settings with a policy for the level.
func setPolicy(w *stewardstest.World, policy meshv1alpha1.FeatureLevelPolicy) {
	w.Helper()
	config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}}
	config.Spec.FeatureLevel = policy
	if old := stewardstest.Get[*meshv1alpha1.MeshConfig](w, objects.Key{Name: meshv1alpha1.Name}); old != nil {
		w.Commit(func(tx *objects.Tx) { tx.Update(old, config) })
		return
	}
	w.Create(config)
}

// start runs the steward on a host.
func start(w *stewardstest.World, host string, mesh Mesh) *stewardstest.Host {
	w.Helper()
	h := w.Host(host)
	r, err := New(h.Deps, mesh)
	w.Check(err)
	h.Start(r.Run)
	return h
}

// A mesh is raised by itself once all its hosts have known the level for ten minutes, if
// its settings say so, and never otherwise.
func TestAMeshIsRaisedWhenAllItsHostsKnowTheLevel(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		mesh := newFakeMesh(2, "h1", "h2", "h3")
		mesh.set("h3", 1, true)
		start(w, "h1", mesh)
		w.Host("h1").Start(func(ctx context.Context) error { w.Host("h1").Deps.Recorder.Run(ctx); return nil })
		time.Sleep(time.Hour)
		setPolicy(w, meshv1alpha1.FeatureLevelManual)
		mesh.set("h3", 2, true)
		time.Sleep(time.Hour)
		if n := mesh.requests(); n != 0 {
			t.Fatalf("%d raises by hand without a hand", n)
		}
		mesh.set("h3", 1, true)
		setPolicy(w, meshv1alpha1.FeatureLevelAutomatic)
		time.Sleep(time.Hour)
		if n := mesh.requests(); n != 0 {
			t.Fatalf("%d raises while h3 does not know the level", n)
		}
		mesh.set("h3", 2, true)
		time.Sleep(9 * time.Minute)
		if n := mesh.requests(); n != 0 {
			t.Fatalf("%d raises after nine minutes", n)
		}
		time.Sleep(3 * time.Minute)
		if got := mesh.FeatureLevel(); got != 2 || mesh.requests() != 1 {
			t.Fatalf("level %d after %d requests, want 2 after one", got, mesh.requests())
		}
		events := stewardstest.List[*corev1.Event](w)
		if !slices.ContainsFunc(events, func(e *corev1.Event) bool {
			return e.Reason == "FeatureLevelRaised" && e.InvolvedObject.Kind == "MeshConfig"
		}) {
			t.Errorf("events %v do not tell of the raise", events)
		}
		if n := w.CommitsDuring(time.Hour); n != 0 || mesh.requests() != 1 {
			t.Errorf("%d writes and %d requests once there is nothing to raise", n, mesh.requests()-1)
		}
	})
}

// A host that goes back to the old version, or a steward that is new, begins the wait anew.
func TestTheWaitBeginsAnew(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		mesh := newFakeMesh(2, "h1", "h2")
		setPolicy(w, meshv1alpha1.FeatureLevelAutomatic)
		start(w, "h1", mesh)
		time.Sleep(8 * time.Minute)
		mesh.set("h2", 1, true)
		time.Sleep(2 * time.Minute)
		mesh.set("h2", 2, true)
		time.Sleep(8 * time.Minute)
		if n := mesh.requests(); n != 0 {
			t.Fatalf("%d raises eight minutes after a host came back from the old version", n)
		}
		w.Host("h1").Kill()
		start(w, "h2", mesh)
		time.Sleep(9 * time.Minute)
		if n := mesh.requests(); n != 0 {
			t.Fatalf("%d raises by a steward that has watched for nine minutes", n)
		}
		time.Sleep(3 * time.Minute)
		if got := mesh.FeatureLevel(); got != 2 {
			t.Errorf("level %d, want 2", got)
		}
	})
}

// A dead host could come back with any version: nobody is asked while there is one. Hosts
// that refuse are not asked often.
func TestARaiseThatCannotBeIsNotAskedForOften(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		mesh := newFakeMesh(2, "h1", "h2")
		mesh.set("h2", 2, false)
		setPolicy(w, meshv1alpha1.FeatureLevelAutomatic)
		start(w, "h1", mesh)
		time.Sleep(time.Hour)
		if n := mesh.requests(); n != 0 {
			t.Fatalf("%d raises while h2 is dead", n)
		}
		mesh.setRefusal(errors.New("h2 does not answer"))
		mesh.set("h2", 2, true)
		time.Sleep(10 * time.Hour)
		if n := mesh.requests(); n < 10 || n > 70 {
			t.Errorf("%d requests in ten hours, want one every ten minutes", n)
		}
		mesh.setRefusal(nil)
		time.Sleep(20 * time.Minute)
		if got := mesh.FeatureLevel(); got != 2 {
			t.Errorf("level %d once h2 agrees, want 2", got)
		}
	})
}

// holdups returns the texts of the events that say why the mesh is not raised, and how
// often each was told.
func holdups(w *stewardstest.World) map[string]int32 {
	told := map[string]int32{}
	for _, e := range stewardstest.List[*corev1.Event](w) {
		if e.Reason == "FeatureLevelHeldUp" && e.Type == corev1.EventTypeWarning && e.InvolvedObject.Kind == "MeshConfig" {
			told[e.Message] += e.Count
		}
	}
	return told
}

// Whoever has the mesh raise itself is told why it does not: each reason once, by what
// there is to do, and never while an upgrade is under way.
func TestAHoldupIsTold(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		mesh := newFakeMesh(2, "h1", "h2", "h3", "h4", "h5")
		for _, name := range []string{"h2", "h3", "h4", "h5"} {
			mesh.set(name, 1, true)
		}
		setPolicy(w, meshv1alpha1.FeatureLevelManual)
		start(w, "h1", mesh)
		w.Host("h1").Start(func(ctx context.Context) error { w.Host("h1").Deps.Recorder.Run(ctx); return nil })
		time.Sleep(time.Hour)
		setPolicy(w, meshv1alpha1.FeatureLevelAutomatic)
		time.Sleep(9 * time.Minute)
		want := map[string]int32{}
		check := func(when string) {
			t.Helper()
			if got := holdups(w); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		check("by hand, and in the first minutes of an upgrade")
		time.Sleep(3 * time.Minute)
		const remedy = " or take it out of the mesh with 'virtmesh node remove'"
		want["Feature level 2 waits for h2 (knows up to 1), h3 (knows up to 1), h4 (knows up to 1), 1 more host: upgrade what is behind,"+remedy] = 1
		check("four hosts are behind")
		if n := w.CommitsDuring(10 * time.Hour); n != 0 {
			t.Errorf("%d writes while the reason is the same", n)
		}
		for _, name := range []string{"h2", "h3", "h4", "h5"} {
			mesh.set(name, 2, true)
		}
		mesh.set("h5", 2, false)
		time.Sleep(30 * time.Minute)
		want["Feature level 2 waits for h5, from which nothing is heard: start what is down,"+remedy] = 1
		check("a host is down")
		mesh.setRefusal(errors.New("h5 does not answer"))
		mesh.set("h5", 2, true)
		time.Sleep(10 * time.Hour)
		want["h5 does not answer"] = 1
		check("a host refuses")
		mesh.setRefusal(nil)
		time.Sleep(20 * time.Minute)
		if n := w.CommitsDuring(time.Hour); n != 0 || mesh.FeatureLevel() != 2 {
			t.Errorf("%d writes at level %d once nothing holds it up", n, mesh.FeatureLevel())
		}
		check("the mesh was raised")
	})
}

// Reasons that change all the time make few events: a holdup must not write for ever.
func TestAHoldupThatChangesIsToldSeldom(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		mesh := newFakeMesh(2, "h1", "h2")
		setPolicy(w, meshv1alpha1.FeatureLevelAutomatic)
		start(w, "h1", mesh)
		w.Host("h1").Start(func(ctx context.Context) error { w.Host("h1").Deps.Recorder.Run(ctx); return nil })
		before := int(w.Store.Commits())
		for i := range 10 * 60 {
			mesh.set("h2", uint32(i%2), true)
			time.Sleep(time.Minute)
		}
		if n := int(w.Store.Commits()) - before; n < 10 || n > 10*6 {
			t.Errorf("%d events in ten hours, want at most one every ten minutes", n)
		}
	})
}
