package volumes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// states is what one host keeps: machines by the UID of their claim.
type states struct {
	kept map[types.UID]string
	// lost are the machines whose TPM has run and left nothing.
	lost map[string]bool
	// fail is why nothing can be removed.
	fail error
}

func newStates() *states { return &states{kept: map[types.UID]string{}, lost: map[string]bool{}} }

func (s *states) Keep(machine string, claim types.UID) error {
	s.kept[claim] = machine
	return nil
}

func (s *states) KeptFor(claim types.UID) (string, error) { return s.kept[claim], nil }

func (s *states) LostTPM(_ context.Context, machine string) (bool, error) {
	return s.lost[machine], nil
}

func (s *states) Remove(_ context.Context, claim types.UID) error {
	if s.fail == nil {
		delete(s.kept, claim)
	}
	return s.fail
}

const stateClaim = "persistent-state-for-web"

// keeper returns an instance of the VirtualMachine "web" with that UID, whose TPM keeps
// its state.
func keeper(machine types.UID) *kubevirtv1.VirtualMachineInstance {
	vmi, yes := vmiWith("web"), true
	vmi.Spec.Domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: &yes}
	owner := &metav1.ObjectMeta{Name: "web", UID: machine}
	vmi.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, kubevirtv1.VirtualMachineGroupVersionKind)}
	return vmi
}

// next ends the instance and creates one of the machine with that UID.
func (w *world) next(vmi *kubevirtv1.VirtualMachineInstance, machine types.UID) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	return w.nextAs(vmi, machine, func(*kubevirtv1.VirtualMachineInstance) {})
}

// nextAs is next with a changed specification.
func (w *world) nextAs(vmi *kubevirtv1.VirtualMachineInstance, machine types.UID, edit func(*kubevirtv1.VirtualMachineInstance)) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	w.end(vmi)
	ended, _ := w.claims.vmis.Get(objects.KeyOf(vmi))
	w.Commit(func(tx *objects.Tx) { tx.Delete(ended, objects.DeleteOptions{}) })
	claim, _, err := claims.GetInstance(w.t.Context(), w.Store, vmi.UID, raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Commit(func(tx *objects.Tx) { claims.Release(tx, claim) })
	w.AwaitShown(func() bool { _, ok := w.claims.vmis.Get(objects.KeyOf(vmi)); return !ok })
	created := keeper(machine)
	edit(created)
	w.Commit(func(tx *objects.Tx) { tx.Create(created) })
	last, err := claims.GetEpoch(w.t.Context(), w.Store, objects.KeyOf(created), raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Commit(func(tx *objects.Tx) {
		claims.Place(tx, claims.Instance{UID: created.UID, Namespace: created.Namespace, Name: created.Name, Host: "host1"}, last)
	})
	w.AwaitShown(func() bool {
		got, ok := w.claims.vmis.Get(objects.KeyOf(created))
		return ok && got.UID == created.UID
	})
	return created
}

// The state of a machine's TPM has its home where the first instance ran.
func TestStateHasAHome(t *testing.T) {
	w := newWorld(t)
	vmi := w.create(keeper("m1"))
	if got := w.refusal(vmi); got.Reason != reasonPVCNotFound {
		t.Errorf("without a claim: %v", got)
	}
	claim := w.claim(stateClaim, "", nil)
	w.prepare(vmi)
	bound := w.stored(stateClaim)
	if bound.Status.Phase != corev1.ClaimBound || bound.Annotations[SelectedNode] != "host1" || !objects.HasFinalizer(bound, claimFinalizer) || bound.Spec.VolumeName != "" {
		t.Errorf("%+v, %+v", bound.ObjectMeta, bound.Status)
	}
	kept := w.states.kept[claim.UID]
	if kept == "" {
		t.Error("nothing is kept for it")
	}
	if err := w.other.holdState(t.Context(), vmi); err == nil || !strings.Contains(err.Error(), "host1") {
		t.Errorf("another host: %v", err)
	}
	second := w.next(vmi, "m1")
	w.prepare(second)
	if w.states.kept[claim.UID] != kept {
		t.Errorf("for the next instance machine %s is kept, was %s", w.states.kept[claim.UID], kept)
	}
}

// State that should be here and is not is never replaced by a new TPM.
func TestLostStateIsNotReplaced(t *testing.T) {
	w := newWorld(t)
	claim := w.claim(stateClaim, "", nil)
	vmi := w.create(keeper("m1"))
	w.prepare(vmi)
	kept := w.states.kept[claim.UID]
	delete(w.states.kept, claim.UID)
	second := w.next(vmi, "m1")
	if got := w.refusal(second); !strings.Contains(got.Error(), "does not hold the state") || len(w.states.kept) != 0 {
		t.Errorf("%v; kept %v", got, w.states.kept)
	}
	// The folder is back, without what the hypervisor kept.
	w.states.kept[claim.UID], w.states.lost[kept] = kept, true
	got := w.refusal(second)
	for _, want := range []string{stateClaim, "host1 has lost the state of the TPM", "delete the claim"} {
		if got.Volume != stateClaim || got.Reason != reasonVolume || !strings.Contains(got.Error(), want) {
			t.Errorf("volume %s, reason %s: %v, want %q", got.Volume, got.Reason, got, want)
		}
	}
	delete(w.states.lost, kept)
	w.prepare(second)
	// The claim of a machine that was deleted and made again stands for the first one's.
	w.states.kept[claim.UID] = kept
	third := w.next(second, "m2")
	if got := w.refusal(third); !strings.Contains(got.Error(), "of another machine") || w.states.kept[claim.UID] != kept {
		t.Errorf("%v; kept %v", got, w.states.kept)
	}
}

// Firmware goes on without the TPM that its machine no longer keeps.
func TestATPMThatIsNotKeptCannotBeLost(t *testing.T) {
	w := newWorld(t)
	claim := w.claim(stateClaim, "", nil)
	first := w.create(keeper("m1"))
	w.prepare(first)
	w.states.lost[w.states.kept[claim.UID]] = true
	yes := true
	w.prepare(w.nextAs(first, "m1", func(vmi *kubevirtv1.VirtualMachineInstance) {
		vmi.Spec.Domain.Devices.TPM = nil
		vmi.Spec.Domain.Firmware = &kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{EFI: &kubevirtv1.EFI{Persistent: &yes}}}
	}))
}

// A claim that somebody has used for a volume says nothing about state.
func TestAClaimWithAVolumeIsNoHomeForState(t *testing.T) {
	w := newWorld(t)
	w.claim(stateClaim, "local", nil)
	user := w.create(vmiWith("user", usesClaim(stateClaim)))
	w.prepare(user)
	w.end(user)
	if got := w.refusal(w.create(keeper("m1"))); !strings.Contains(got.Error(), "has a volume") {
		t.Error(got)
	}
}

func TestStateIsRemovedWithItsClaimOnceUnused(t *testing.T) {
	w := newWorld(t)
	claim := w.claim(stateClaim, "", nil)
	vmi := w.create(keeper("m1"))
	w.prepare(vmi)
	w.remove(stateClaim)
	expectThere := func(when string, result, want any) {
		t.Helper()
		if w.stored(stateClaim) == nil || w.states.kept[claim.UID] == "" || fmt.Sprint(result) != fmt.Sprint(want) {
			t.Errorf("%s: claim %v, kept %v, again after %v", when, w.stored(stateClaim), w.states.kept, result)
		}
	}
	expectThere("in use", w.reconcile(w.claims, stateClaim).RequeueAfter, instanceGoneInterval)
	w.end(vmi)
	expectThere("on another host", w.reconcile(w.other, stateClaim).RequeueAfter, hostGoneInterval)
	w.unconfirmed = raftstore.ErrUnconfirmed
	if _, err := w.claims.Reconcile(t.Context(), objects.KeyOf(claim)); !errors.Is(err, raftstore.ErrUnconfirmed) {
		t.Errorf("unconfirmed: %v", err)
	}
	expectThere("unconfirmed", nil, nil)
	w.unconfirmed = nil
	w.states.fail = fmt.Errorf("remove: %w", hypervisor.ErrConflict)
	expectThere("its domain is defined", w.reconcile(w.claims, stateClaim).RequeueAfter, instanceGoneInterval)
	w.states.fail = errors.New("the daemon is away")
	if _, err := w.claims.Reconcile(t.Context(), objects.KeyOf(claim)); !errors.Is(err, w.states.fail) {
		t.Errorf("error %v", err)
	}
	w.told(reasonFailedDelete, "the daemon is away")
	w.states.fail = nil
	w.reconcile(w.claims, stateClaim)
	if w.stored(stateClaim) != nil || len(w.states.kept) != 0 {
		t.Errorf("left: claim %v, kept %v", w.stored(stateClaim), w.states.kept)
	}
}

// Whoever deletes the claim of a machine that waits for it wants it to start without the
// state: the instance that waits does not keep the claim.
func TestAnInstanceThatWaitsForItsStateDoesNotKeepTheClaim(t *testing.T) {
	w := newWorld(t)
	claim := w.claim(stateClaim, "", nil)
	first := w.create(keeper("m1"))
	w.prepare(first)
	delete(w.states.kept, claim.UID)
	waiting := w.next(first, "m1")
	w.refusal(waiting)
	w.remove(stateClaim)
	if got := w.refusal(waiting); !strings.Contains(got.Error(), "being deleted") {
		t.Error(got)
	}
	w.reconcile(w.claims, stateClaim)
	if w.stored(stateClaim) != nil {
		t.Fatal("the claim is still there")
	}
	again := w.claim(stateClaim, "", nil)
	w.prepare(waiting)
	if w.states.kept[again.UID] == "" {
		t.Error("the instance did not get a new TPM")
	}
}

// A manifest without the annotation may replace the claim.
func TestTheHomeOfStateIsRecordedAgain(t *testing.T) {
	w := newWorld(t)
	w.claim(stateClaim, "", nil)
	w.prepare(w.create(keeper("m1")))
	w.AwaitShown(func() bool {
		got, ok := w.claims.claims.Get(objects.Key{Namespace: "ns", Name: stateClaim})
		return ok && got.Status.Phase == corev1.ClaimBound
	})
	w.edit(stateClaim, func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = nil })
	w.reconcile(w.other, stateClaim)
	if home := w.stored(stateClaim).Annotations[SelectedNode]; home != "" {
		t.Errorf("a host without the state says it is on %s", home)
	}
	w.reconcile(w.claims, stateClaim)
	if home := w.stored(stateClaim).Annotations[SelectedNode]; home != "host1" {
		t.Errorf("the state is on %q", home)
	}
}

// The state of a host that is gone for good keeps no claim from being deleted.
func TestStateOfARemovedHostIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.claim(stateClaim, "", nil)
	vmi := w.create(keeper("m1"))
	w.prepare(vmi)
	w.end(vmi)
	w.remove(stateClaim)
	w.removed["host1"] = true
	w.reconcile(w.other, stateClaim)
	if w.stored(stateClaim) != nil {
		t.Error("the claim is still there")
	}
	w.told(reasonLost, "host1")
}
