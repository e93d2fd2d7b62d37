package executor

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// losing takes the claim of an instance away right before a step.
func (w *world) losing(vmi *kubevirtv1.VirtualMachineInstance, before Act) {
	w.executor.interrupt = func(step Step) error {
		if step.Act == before {
			w.executor.interrupt = nil
			w.claimFor(vmi, otherHost)
		}
		return nil
	}
}

func TestWhoLostTheClaimDoesNotReport(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Suspend(t.Context(), refOf(vmi)))
	before := w.get(vmi)
	w.losing(vmi, ActReport)
	if _, err := w.once(vmi); err == nil {
		t.Error("no error, so nobody tries again")
	}
	if got := w.get(vmi); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("written: %+v", got.Status.Conditions)
	}
}

func TestWhoLostTheClaimDoesNotReportAFailure(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	w.network.fail = fmt.Errorf("no bridge")
	before := w.get(vmi)
	w.losing(vmi, ActReportFailure)
	if _, err := w.try(vmi); err == nil {
		t.Error("no error, so nobody tries again")
	}
	if got := w.get(vmi); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("written: %+v", got.Status.Conditions)
	}
}

func TestWhoLostTheClaimDoesNotEndTheInstance(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.losing(vmi, ActCommitEnd)
	if _, err := w.once(vmi); err == nil {
		t.Error("no error, so nobody tries again")
	}
	got := w.get(vmi)
	claim, ok := w.claim(vmi)
	if got.Status.Phase != kubevirtv1.Running || len(got.Finalizers) != 1 || !ok || claim.Host != otherHost {
		t.Errorf("phase %s, finalizers %v, claim %+v", got.Status.Phase, got.Finalizers, claim)
	}
	// What is here of it goes all the same.
	w.reconcile(vmi)
	if _, found := w.domain(vmi); found {
		t.Error("the domain is still here")
	}
}

// arrive puts a domain on this host, as a migration does.
func (w *world) arrive(vmi *kubevirtv1.VirtualMachineInstance, epoch uint64) {
	w.t.Helper()
	owner := hypervisor.Owner{Ref: refOf(vmi), Host: thisHost, Epoch: epoch}
	xml := fmt.Sprintf("<domain type='qemu'><name>%s</name><metadata>%s</metadata><memory unit='MiB'>32</memory><vcpu>1</vcpu></domain>",
		owner.DomainName(), owner.Metadata())
	if _, err := w.hv.Start(w.t.Context(), xml, hypervisor.StartOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// A guest that arrives by a migration is nobody's orphan: room is reserved for it.
// It is this host's when the claim has followed, also before the status says so.
func TestAGuestThatArrivesIsLeftAloneUntilItsClaimFollows(t *testing.T) {
	w := newWorld(t)
	vmi := scheduled("a")
	vmi.Status.NodeName, vmi.Status.Phase = otherHost, kubevirtv1.Running
	w.commit(func(tx *objects.Tx) { tx.Create(vmi) })
	w.claimFor(vmi, otherHost)
	claim, _ := w.claim(vmi)
	last, err := claims.GetEpoch(t.Context(), w.store, objects.KeyOf(vmi), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.commit(func(tx *objects.Tx) { claims.Reserve(tx, claim, thisHost, last) })
	w.arrive(vmi, testEpoch+1)
	before := w.get(vmi)
	w.restart()
	w.adopt()
	domain, found := w.domain(vmi)
	if got := w.get(vmi); !found || domain.State != hypervisor.StateRunning || got.ResourceVersion != before.ResourceVersion {
		t.Fatalf("domain %+v, found %v, status %+v", domain, found, got.Status)
	}
	claim, _ = w.claim(vmi)
	w.commit(func(tx *objects.Tx) { claims.Switch(tx, claim) })
	w.reconcile(vmi)
	got := w.get(vmi)
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning {
		t.Errorf("the guest is %s", domain.State)
	}
}

// The source keeps its ended domain until the claim has followed the guest, and then
// removes it without a word about the instance.
func TestTheSourceOfAMigrationWaitsForTheClaim(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().End(refOf(vmi), hypervisor.ReasonMigrated))
	before := w.get(vmi)
	if result := w.reconcile(vmi); result.RequeueAfter <= 0 {
		t.Error("it does not look again")
	}
	if _, found := w.domain(vmi); !found {
		t.Error("the domain is gone before the claim followed")
	}
	w.claimFor(vmi, otherHost)
	w.reconcile(vmi)
	if _, found := w.domain(vmi); found {
		t.Error("the domain is still here")
	}
	if got := w.get(vmi); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("this host spoke for another one: %+v", got.Status)
	}
}

// A mesh that was restored from a backup may know an older claim than the domain's.
func TestADomainOfANewerClaimIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	domain, _ := w.domain(vmi)
	domain.Owner.Epoch = testEpoch + 3
	w.act(w.hv.SetOwner(t.Context(), domain.Owner))
	for range 2 {
		if _, err := w.try(vmi); err == nil {
			t.Error("no error, so nobody looks again")
		}
	}
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning {
		t.Errorf("the guest is %s", domain.State)
	}
}

// TestOldClaimWaitsForQuarantine: after a recovery of the mesh, a host does not start an
// instance by a claim of before while another host may run what the instance has become
// since. A guest that runs goes on, and a claim made since is as good as any.
func TestOldClaimWaitsForQuarantine(t *testing.T) {
	w := newWorld(t)
	runs, old := w.running("runs"), w.place(scheduled("old"))
	_, now, _ := w.store.Get(t.Context(), "/nothing", raftstore.ReadOptions{})
	recovery := raftstore.Txn{RequestID: "recovery", Ops: claims.BeginTimeline(noRecords{}, now, []string{thisHost, otherHost})}
	if _, err := w.store.Commit(t.Context(), recovery); err != nil {
		t.Fatal(err)
	}
	placed := w.place(scheduled("placed"))
	for _, vmi := range []*kubevirtv1.VirtualMachineInstance{runs, placed} {
		w.reconcile(vmi)
		if domain, found := w.domain(vmi); !found || domain.State != hypervisor.StateRunning {
			t.Errorf("%s: domain %+v, found %v", vmi.Name, domain, found)
		}
	}
	if result := w.reconcile(old); result.RequeueAfter == 0 {
		t.Error("the instance is not tried again")
	}
	if _, found := w.domain(old); found || w.volumes.prepared != 2 {
		t.Errorf("domain %v, volumes prepared %d times: it may run on %s", found, w.volumes.prepared, otherHost)
	}
	list, err := claims.ListQuarantine(t.Context(), w.store, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range list {
		if q.Host == otherHost {
			w.commit(func(tx *objects.Tx) { claims.EndQuarantine(tx, q) })
		}
	}
	w.reconcile(old)
	if domain, found := w.domain(old); !found || domain.State != hypervisor.StateRunning {
		t.Errorf("after the quarantine: domain %+v, found %v", domain, found)
	}
}

// noRecords is a state without hosts in quarantine.
type noRecords struct{}

func (noRecords) Get(string) (raftstore.Record, bool)        { return raftstore.Record{}, false }
func (noRecords) Ascend(string, func(raftstore.Record) bool) {}
