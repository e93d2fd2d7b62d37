package executor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

const (
	thisHost  = "host1"
	testMAC   = "02:00:00:00:00:01"
	otherHost = "host2"
	testUser  = 64055
	ownUser   = 1_900_000_001
	// testEpoch is the first that a name gets.
	testEpoch = 1
)

// claimKey is where the instance's claim is kept.
func claimKey(vmi *kubevirtv1.VirtualMachineInstance) string {
	return "/claims/vmi/" + string(vmi.UID)
}

// world is one host with its executor, and the mesh around it.
type world struct {
	t        *testing.T
	store    *unreadable
	vmis     *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	hv       *hypervisortest.Fake
	machine  domain.HostInfo
	volumes  *fakeVolumes
	network  *fakeNetwork
	firmware *keptFirmware
	config   Config
	executor *Executor
	// unconfirmed is why this host's copy of the mesh's state is not certain.
	unconfirmed error
	// passed is how far the executor's clock is ahead.
	passed time.Duration
	// set is how far the wall clock was set meanwhile.
	set time.Duration
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: &unreadable{Store: objectstest.New(claims.Rules()...)}, hv: hypervisortest.NewFake(), volumes: &fakeVolumes{}, network: &fakeNetwork{},
		firmware: &keptFirmware{dir: "/kept", started: map[string]bool{}}}
	t.Cleanup(func() { _ = w.hv.Close() })
	quiet := slog.New(slog.DiscardHandler)
	cacheConfig := objects.DefaultCacheConfig()
	cacheConfig.Store, cacheConfig.Logger = w.store, quiet
	cache, err := objects.NewCache(cacheConfig)
	if err != nil {
		t.Fatal(err)
	}
	w.vmis = objects.For[*kubevirtv1.VirtualMachineInstance](cache)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); cache.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := w.vmis.WaitForSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	recorder := objects.DefaultRecorderConfig()
	recorder.Store, recorder.Logger, recorder.Component, recorder.Host = w.store, quiet, "test", thisHost
	events, err := objects.NewRecorder(recorder)
	if err != nil {
		t.Fatal(err)
	}
	w.machine = domain.HostInfo{KVM: true, Arch: "x86_64"}
	w.config = Config{
		Host: thisHost, Store: w.store, Confirm: func(context.Context) error { return w.unconfirmed }, Instances: w.vmis, Hypervisor: w.hv, Volumes: w.volumes, Network: w.network, Firmware: w.firmware,
		Events: events, Machine: func() (domain.HostInfo, error) { return w.machine, nil },
		GuestDevice: "lo", LogDir: t.TempDir(), Logger: quiet, RuntimeUser: testUser,
	}
	began := time.Now()
	w.config.Clock = func() time.Time { return time.Now().Add(w.passed + w.set) }
	w.config.BootTime = func() time.Duration { return time.Hour + time.Since(began) + w.passed }
	for _, host := range []string{thisHost, otherHost} {
		w.commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: host}) })
	}
	w.restart()
	return w
}

// restart replaces the executor as a restart of the agent does.
func (w *world) restart() {
	w.t.Helper()
	if w.executor != nil {
		w.executor.Close()
	}
	executor, err := New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.executor = executor
	w.t.Cleanup(executor.Close)
}

// scheduled returns an instance as placement leaves it on this host.
func scheduled(name string) *kubevirtv1.VirtualMachineInstance {
	memory := resource.MustParse("64Mi")
	vmi := &kubevirtv1.VirtualMachineInstance{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, Finalizers: []string{kubevirtv1.VirtualMachineInstanceFinalizer},
		},
		Spec: kubevirtv1.VirtualMachineInstanceSpec{
			Domain: kubevirtv1.DomainSpec{
				CPU:     &kubevirtv1.CPU{Cores: 1, Sockets: 1, Threads: 1, Model: kubevirtv1.CPUModeHostModel},
				Memory:  &kubevirtv1.Memory{Guest: &memory},
				Machine: &kubevirtv1.Machine{Type: "q35"},
				Devices: kubevirtv1.Devices{
					Disks: []kubevirtv1.Disk{{Name: "root", DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: "virtio"}}}},
					Interfaces: []kubevirtv1.Interface{{
						Name: "default", Model: "virtio",
						InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{Masquerade: &kubevirtv1.InterfaceMasquerade{}},
					}},
				},
			},
			Networks: []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()},
			Volumes: []kubevirtv1.Volume{{Name: "root", VolumeSource: kubevirtv1.VolumeSource{
				ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}}}},
		},
		Status: kubevirtv1.VirtualMachineInstanceStatus{Phase: kubevirtv1.Scheduled, NodeName: thisHost},
	}
	return vmi
}

func (w *world) commit(build func(tx *objects.Tx)) {
	w.t.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(w.t.Context(), w.store); err != nil {
		w.t.Fatal(err)
	}
}

// place creates the instance with its claim on this host.
func (w *world) place(vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	w.commit(func(tx *objects.Tx) { tx.Create(vmi) })
	w.claimFor(vmi, thisHost)
	return vmi
}

// claimFor gives the instance a claim on a host, in place of the one it has.
func (w *world) claimFor(vmi *kubevirtv1.VirtualMachineInstance, host string) {
	w.t.Helper()
	w.unclaim(vmi)
	last, err := claims.GetEpoch(context.Background(), w.store.Store, objects.KeyOf(vmi), raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.commit(func(tx *objects.Tx) {
		claims.Place(tx, claims.Instance{UID: vmi.UID, Namespace: vmi.Namespace, Name: vmi.Name, Host: host}, last)
	})
}

// claim reads the instance's claim.
func (w *world) claim(vmi *kubevirtv1.VirtualMachineInstance) (claims.Instance, bool) {
	w.t.Helper()
	claim, ok, err := claims.GetInstance(context.Background(), w.store.Store, vmi.UID, raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return claim, ok
}

// unclaim takes the instance's claim away.
func (w *world) unclaim(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	if claim, ok := w.claim(vmi); ok {
		w.commit(func(tx *objects.Tx) { claims.Release(tx, claim) })
	}
}

// move gives the instance to the other host, as a migration that arrived does.
func (w *world) move(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	w.claimFor(vmi, otherHost)
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.NodeName = otherHost })
}

// running places an instance and starts it.
func (w *world) running(name string) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	vmi := w.place(scheduled(name))
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running {
		w.t.Fatalf("the instance is %s, with %+v", got.Status.Phase, got.Status.Conditions)
	}
	w.sync(vmi)
	return vmi
}

// change edits the stored instance.
func (w *world) change(vmi *kubevirtv1.VirtualMachineInstance, edit func(*kubevirtv1.VirtualMachineInstance)) {
	w.t.Helper()
	old := w.get(vmi)
	changed := old.DeepCopy()
	edit(changed)
	w.commit(func(tx *objects.Tx) { tx.Update(old, changed) })
}

// get reads the instance from the store; nil when it is gone.
func (w *world) get(vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	got, err := objects.Get[*kubevirtv1.VirtualMachineInstance](context.Background(), w.store.Store, objects.KeyOf(vmi), raftstore.ReadOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// sync waits until the informer shows what the store holds of the instance.
func (w *world) sync(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	want, deadline := w.get(vmi), time.Now().Add(time.Minute)
	for {
		have, ok := w.vmis.Get(objects.KeyOf(vmi))
		if (want == nil && !ok) || (want != nil && ok && have.ResourceVersion == want.ResourceVersion) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the informer does not show %s", objects.KeyOf(vmi))
		}
		time.Sleep(time.Millisecond)
	}
}

// once reconciles what the store holds now.
func (w *world) once(vmi *kubevirtv1.VirtualMachineInstance) (stewards.Result, error) {
	w.t.Helper()
	w.sync(vmi)
	return w.executor.Reconcile(w.t.Context(), objects.KeyOf(vmi))
}

// try reconciles as the engine does: again when what goes on outside of the
// workers has ended.
func (w *world) try(vmi *kubevirtv1.VirtualMachineInstance) (stewards.Result, error) {
	w.t.Helper()
	for {
		result, err := w.once(vmi)
		if !result.Pending || err != nil {
			return result, err
		}
		w.settle(vmi)
	}
}

// settle waits for what goes on outside of the workers for the instance.
func (w *world) settle(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	if work := w.executor.preparations.of(string(vmi.UID)); work != nil {
		<-work.done
	}
	w.executor.agents.mu.Lock()
	guest := w.executor.agents.guests[string(vmi.UID)]
	var asking chan struct{}
	if guest != nil {
		asking = guest.asking
	}
	w.executor.agents.mu.Unlock()
	if asking != nil {
		<-asking
	}
}

// hear reconciles, and again when the guest's agent has answered.
func (w *world) hear(vmi *kubevirtv1.VirtualMachineInstance) stewards.Result {
	w.t.Helper()
	w.reconcile(vmi)
	w.settle(vmi)
	return w.reconcile(vmi)
}

// pass makes the executor believe that time has passed.
func (w *world) pass(d time.Duration) { w.passed += d }

func (w *world) reconcile(vmi *kubevirtv1.VirtualMachineInstance) stewards.Result {
	w.t.Helper()
	result, err := w.try(vmi)
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}

// domain returns the instance's domain; ok is false when there is none.
func (w *world) domain(vmi *kubevirtv1.VirtualMachineInstance) (hypervisor.Domain, bool) {
	w.t.Helper()
	domain, err := w.hv.Get(context.Background(), refOf(vmi))
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		w.t.Fatal(err)
	}
	return domain, err == nil
}

func (w *world) act(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func condition(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType) *kubevirtv1.VirtualMachineInstanceCondition {
	for i := range vmi.Status.Conditions {
		if vmi.Status.Conditions[i].Type == kind {
			return &vmi.Status.Conditions[i]
		}
	}
	return nil
}

// expectCondition checks status and reason of a condition.
func (w *world) expectCondition(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType, status corev1.ConditionStatus, reason string) {
	w.t.Helper()
	got := condition(vmi, kind)
	if got == nil || got.Status != status || got.Reason != reason {
		w.t.Errorf("condition %s is %+v, want %s with reason %q", kind, got, status, reason)
	}
}

// expectEnded checks that the instance ended in phase and holds nothing here.
func (w *world) expectEnded(vmi *kubevirtv1.VirtualMachineInstance, phase kubevirtv1.VirtualMachineInstancePhase) {
	w.t.Helper()
	got := w.get(vmi)
	if got == nil {
		w.t.Fatal("the instance is gone")
	}
	if got.Status.Phase != phase {
		w.t.Errorf("phase %s, want %s", got.Status.Phase, phase)
	}
	if slices.Contains(got.Finalizers, kubevirtv1.VirtualMachineInstanceFinalizer) {
		w.t.Errorf("the finalizer is still there: %v", got.Finalizers)
	}
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, "GuestNotRunning")
	w.expectNothingLeft(vmi)
}

// expectNothingLeft checks that host and claims know nothing of the instance.
func (w *world) expectNothingLeft(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	if _, found := w.domain(vmi); found {
		w.t.Error("its domain is still defined")
	}
	if keys := w.store.Keys(claimKey(vmi)); len(keys) > 0 {
		w.t.Errorf("its claim is still there: %v", keys)
	}
	if !slices.Contains(w.volumes.removed, refOf(vmi)) {
		w.t.Error("its volumes were not removed")
	}
	if !slices.Contains(w.network.released, refOf(vmi)) {
		w.t.Error("its addresses were not released")
	}
}

var refOf = domain.Ref
