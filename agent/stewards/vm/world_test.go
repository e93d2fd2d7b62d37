package vm

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

var key = objects.Key{Namespace: "ns", Name: "web"}

// bench is one controller on a store, in a bubble of fake time. The test plays
// the user, and the host that runs the instance.
type bench struct {
	*testing.T
	store *objectstest.Store
	stop  func()
}

func setUp(t *testing.T, edit ...func(*Config)) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	b := &bench{T: t, store: objectstest.New(claims.Rules()...)}
	cacheCfg := objects.DefaultCacheConfig()
	cacheCfg.Store, cacheCfg.Logger = b.store, log
	cache, err := objects.NewCache(cacheCfg)
	if err != nil {
		t.Fatal(err)
	}
	recCfg := objects.DefaultRecorderConfig()
	recCfg.Store, recCfg.Logger, recCfg.Component, recCfg.Host = b.store, log, "virtualmachine-controller", "h1"
	rec, err := objects.NewRecorder(recCfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Store, cfg.Cache, cfg.Recorder, cfg.Logger = b.store, cache, rec, log
	for _, f := range edit {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cacheDone, done := make(chan struct{}), make(chan error, 1)
	go func() { defer close(cacheDone); cache.Run(ctx) }()
	go func() { done <- c.Run(ctx) }()
	b.stop = func() {
		cancel()
		<-cacheDone
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	return b
}

// settle lets the controller finish what it can do now.
func (b *bench) settle() { synctest.Wait() }

func (b *bench) commit(build func(tx *objects.Tx)) {
	b.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(b.Context(), b.store); err != nil {
		b.Fatal(err)
	}
	b.settle()
}

func newMachine(strategy kubevirtv1.VirtualMachineRunStrategy) *kubevirtv1.VirtualMachine {
	return &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		Spec: kubevirtv1.VirtualMachineSpec{
			RunStrategy: &strategy,
			Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": "kept"}},
			},
		},
	}
}

func (b *bench) create(strategy kubevirtv1.VirtualMachineRunStrategy, edit ...func(*kubevirtv1.VirtualMachine)) {
	b.Helper()
	vm := newMachine(strategy)
	for _, f := range edit {
		f(vm)
	}
	b.commit(func(tx *objects.Tx) { tx.Create(vm) })
}

func find[T objects.Object](b *bench, key objects.Key) T {
	b.Helper()
	o, err := objects.Get[T](b.Context(), b.store, key, raftstore.ReadOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
	return o
}

func (b *bench) vm() *kubevirtv1.VirtualMachine { return find[*kubevirtv1.VirtualMachine](b, key) }
func (b *bench) vmi() *kubevirtv1.VirtualMachineInstance {
	return find[*kubevirtv1.VirtualMachineInstance](b, key)
}

// must returns the instance, which has to exist.
func (b *bench) must() *kubevirtv1.VirtualMachineInstance {
	b.Helper()
	vmi := b.vmi()
	if vmi == nil {
		b.Fatal("there is no instance")
	}
	return vmi
}

func (b *bench) edit(f func(*kubevirtv1.VirtualMachine)) {
	b.Helper()
	old := b.vm()
	next := old.DeepCopy()
	f(next)
	b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
}

// phase lets the host report a phase; a final one lets go of the instance.
func (b *bench) phase(p kubevirtv1.VirtualMachineInstancePhase, edit ...func(*kubevirtv1.VirtualMachineInstance)) {
	b.Helper()
	old := b.must()
	next := old.DeepCopy()
	machine.SetPhase(next, p, time.Now())
	if p == kubevirtv1.Running {
		next.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceReady, Status: corev1.ConditionTrue}}
	}
	if next.IsFinal() {
		objects.RemoveFinalizer(next, kubevirtv1.VirtualMachineInstanceFinalizer)
	}
	for _, f := range edit {
		f(next)
	}
	b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
}

// ask lets the API add requests.
func (b *bench) ask(reqs ...kubevirtv1.VirtualMachineStateChangeRequest) {
	b.Helper()
	b.edit(func(vm *kubevirtv1.VirtualMachine) {
		vm.Status.StateChangeRequests = append(vm.Status.StateChangeRequests, reqs...)
	})
}

func startReq(data map[string]string) kubevirtv1.VirtualMachineStateChangeRequest {
	return kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest, Data: data}
}

func stopReq(uid types.UID) kubevirtv1.VirtualMachineStateChangeRequest {
	return kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StopRequest, UID: &uid}
}

func (b *bench) expect(want kubevirtv1.VirtualMachinePrintableStatus) {
	b.Helper()
	if got := b.vm().Status.PrintableStatus; got != want {
		b.Errorf("status %q, want %q", got, want)
	}
}

func condition(vm *kubevirtv1.VirtualMachine, kind kubevirtv1.VirtualMachineConditionType) *kubevirtv1.VirtualMachineCondition {
	for i := range vm.Status.Conditions {
		if vm.Status.Conditions[i].Type == kind {
			return &vm.Status.Conditions[i]
		}
	}
	return nil
}

// run is a test in a bubble.
func run(t *testing.T, test func(b *bench), edit ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := setUp(t, edit...)
		defer b.stop()
		b.settle()
		test(b)
	})
}
