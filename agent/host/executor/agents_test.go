package executor

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
)

var guestAnswer = hypervisor.GuestInfo{
	Hostname:   "guest",
	OS:         hypervisor.GuestOS{ID: "debian", Name: "Debian GNU/Linux", VersionID: "12"},
	Interfaces: []hypervisor.GuestInterface{{Name: "enp1s0", MAC: testMAC, Addresses: []string{"10.0.0.5/24", "fe80::1/64"}}},
}

// questions counts them, and lets them wait.
type questions struct {
	hypervisor.Hypervisor
	count atomic.Int64
	wait  chan struct{} // nil: none waits
}

func (q *questions) GuestInfo(ctx context.Context, ref hypervisor.Ref) (hypervisor.GuestInfo, error) {
	q.count.Add(1)
	if q.wait != nil {
		select {
		case <-q.wait:
		case <-ctx.Done():
			return hypervisor.GuestInfo{}, ctx.Err()
		}
	}
	return q.Hypervisor.GuestInfo(ctx, ref)
}

// counted replaces the executor by one whose questions are counted.
func (w *world) counted(wait chan struct{}) *questions {
	w.t.Helper()
	q := &questions{Hypervisor: w.hv, wait: wait}
	w.config.Hypervisor = q
	w.restart()
	return q
}

func TestGuestAgentInfo(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	if result := w.hear(vmi); result.RequeueAfter <= guestInfoPause || result.RequeueAfter > guestInfoInterval {
		t.Errorf("asks again after %v", result.RequeueAfter)
	}
	got := w.get(vmi)
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceAgentConnected, corev1.ConditionTrue, "")
	if os := got.Status.GuestOSInfo; os.ID != "debian" || os.Name != "Debian GNU/Linux" || os.VersionID != "12" {
		t.Errorf("guest OS: %+v", os)
	}
	if nic := got.Status.Interfaces[0]; nic.InterfaceName != "enp1s0" || nic.IP != "10.0.0.5" || len(nic.IPs) != 2 {
		t.Errorf("interface: %+v", nic)
	}
	w.pass(minFlipPause)
	w.act(w.hv.Machine().SetAgent(refOf(vmi), nil))
	w.reconcile(vmi)
	got = w.get(vmi)
	if condition(got, kubevirtv1.VirtualMachineInstanceAgentConnected) != nil || got.Status.GuestOSInfo.ID != "" {
		t.Errorf("without an agent: %+v, %+v", got.Status.Conditions, got.Status.GuestOSInfo)
	}
}

// A busy guest that does not answer once has not lost its addresses.
func TestSilentGuestAgentKeepsItsLastAnswer(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hear(vmi)
	before := w.get(vmi)
	w.pass(time.Hour)
	w.hv.Machine().Fail("GuestInfo", errors.New("timeout"))
	w.hear(vmi)
	if got := w.get(vmi); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("interfaces %+v, were %+v", got.Status.Interfaces, before.Status.Interfaces)
	}
}

// A guest that delays its answers must not delay others, nor its own end.
func TestNoWorkerWaitsForAGuestAgent(t *testing.T) {
	w := newWorld(t)
	answer := make(chan struct{})
	q := w.counted(answer)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	for range 3 {
		w.reconcile(vmi)
	}
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceAgentConnected, corev1.ConditionTrue, "")
	close(answer)
	w.settle(vmi)
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.GuestOSInfo.ID != "debian" {
		t.Errorf("the answer is not shown: %+v", got.Status.GuestOSInfo)
	}
	if n := q.count.Load(); n != 1 {
		t.Errorf("asked %d times at once", n)
	}
}

// How often a guest is asked is not for the guest to choose: neither failures nor
// its agent's comings and goings shorten the pause.
func TestAGuestIsNotAskedMoreOftenForItsBehaviour(t *testing.T) {
	w := newWorld(t)
	q := w.counted(nil)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hv.Machine().Fail("GuestInfo", errors.New("timeout"))
	w.hear(vmi)
	for range 5 {
		w.executor.agents.markStale(string(vmi.UID))
		result := w.hear(vmi)
		if result.RequeueAfter <= 0 || result.RequeueAfter > guestInfoPause {
			t.Errorf("asks again after %v", result.RequeueAfter)
		}
	}
	if _, err := w.executor.Guests().GuestOSInfo(t.Context(), "ns", "a"); err == nil {
		t.Error("the failure is forgotten")
	}
	if n := q.count.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	w.pass(guestInfoPause)
	if info, err := w.executor.Guests().GuestOSInfo(t.Context(), "ns", "a"); err != nil || info.Hostname != "guest" {
		t.Errorf("after the pause: %+v, %v", info, err)
	}
	if n := q.count.Load(); n != 2 {
		t.Errorf("asked %d times after the pause", n)
	}
}

// Each change of the condition is a write for the whole mesh.
func TestAnAgentThatFlapsIsWrittenSeldom(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hear(vmi)
	before := w.store.Commits()
	for range 10 {
		w.act(w.hv.Machine().SetAgent(refOf(vmi), nil))
		if result := w.reconcile(vmi); result.RequeueAfter <= 0 || result.RequeueAfter > minFlipPause {
			t.Errorf("looks again after %v", result.RequeueAfter)
		}
		w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
		w.reconcile(vmi)
	}
	if n := w.store.Commits() - before; n != 0 {
		t.Errorf("%d writes", n)
	}
	w.act(w.hv.Machine().SetAgent(refOf(vmi), nil))
	w.pass(minFlipPause)
	w.reconcile(vmi)
	if condition(w.get(vmi), kubevirtv1.VirtualMachineInstanceAgentConnected) != nil {
		t.Error("an agent that stayed away is still shown")
	}
}

func TestNoAgentIsToldWithoutAsking(t *testing.T) {
	w := newWorld(t)
	q := w.counted(nil)
	w.running("a")
	if _, err := w.executor.Guests().Users(t.Context(), "ns", "a"); !errors.Is(err, fault.NoGuestAgent) {
		t.Errorf("got %v", err)
	}
	if n := q.count.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// A new agent of the host has not heard the guest yet: what it said before stays.
func TestARestartKeepsWhatTheGuestSaid(t *testing.T) {
	w := newWorld(t)
	w.network.address = "10.0.0.5"
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hear(vmi)
	before := w.get(vmi)
	answer := make(chan struct{})
	w.counted(answer)
	w.reconcile(vmi)
	if got := w.get(vmi); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("interfaces %+v, were %+v", got.Status.Interfaces, before.Status.Interfaces)
	}
	close(answer)
	w.hear(vmi)
	if got := w.get(vmi); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("heard again: interfaces %+v, were %+v", got.Status.Interfaces, before.Status.Interfaces)
	}
}

// The guest has a bridge and a VLAN on its card, with the card's MAC, and a bridge
// of its own.
func TestTheLeaseAndTheCardsOwnNameComeFirst(t *testing.T) {
	w := newWorld(t)
	w.network.address = "10.0.0.5"
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &hypervisor.GuestInfo{Interfaces: []hypervisor.GuestInterface{
		{Name: "lo", Addresses: []string{"127.0.0.1/8"}},
		{Name: "enp1s0", MAC: testMAC},
		{Name: "docker0", MAC: "02:42:00:00:00:01", Addresses: []string{"172.17.0.1/16"}},
		{Name: "enp1s0.9", MAC: testMAC, Addresses: []string{"192.0.2.9/24"}},
		{Name: "br7", MAC: strings.ToUpper(testMAC), Addresses: []string{"fe80::1/64", "10.0.0.5/24", "192.0.2.9/24"}},
	}}))
	w.hear(vmi)
	nic := w.get(vmi).Status.Interfaces[0]
	if nic.InterfaceName != "enp1s0" || nic.IP != "10.0.0.5" || !slices.Equal(nic.IPs, []string{"10.0.0.5", "192.0.2.9", "fe80::1"}) {
		t.Errorf("%+v", nic)
	}
}

// What happened to a guest since it was asked is asked for sooner than at the next
// regular time, though not at once.
func TestAGuestInDoubtIsAskedSooner(t *testing.T) {
	w := newWorld(t)
	q := w.counted(nil)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hear(vmi)
	w.executor.handleEvent(hypervisor.Event{Kind: hypervisor.EventReboot, Ref: refOf(vmi)})
	if result := w.reconcile(vmi); result.RequeueAfter <= 0 || result.RequeueAfter > guestInfoPause {
		t.Errorf("asks again after %v", result.RequeueAfter)
	}
	w.pass(guestInfoPause)
	if result := w.hear(vmi); result.RequeueAfter <= guestInfoPause {
		t.Errorf("in doubt although it has answered: asks again after %v", result.RequeueAfter)
	}
	if n := q.count.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// Other hosts and users get a code for each error of the hypervisor, and its remedy.
func TestHypervisorsErrorsHaveCodes(t *testing.T) {
	key := objects.Key{Namespace: "ns", Name: "a"}
	for err, want := range map[error]fault.Code{
		hypervisor.ErrNotFound: fault.NotRunning, hypervisor.ErrNotRunning: fault.NotRunning, hypervisor.ErrNoAgent: fault.NoGuestAgent,
		hypervisor.ErrNoDevice: fault.Invalid, hypervisor.ErrInvalid: fault.Invalid, hypervisor.ErrUnsupported: fault.Conflict,
		hypervisor.ErrRefused: fault.Conflict, hypervisor.ErrConflict: fault.Conflict, hypervisor.ErrRunning: fault.Conflict,
		hypervisor.ErrMigrationLost: fault.Internal, hypervisor.ErrUnavailable: fault.Unavailable,
		context.DeadlineExceeded: fault.Unavailable, errors.New("other"): fault.Internal,
	} {
		said := &hypervisor.Fault{Sentence: "it is so", Remedy: "do this", Sentinel: err}
		for _, err := range []error{fmt.Errorf("act: %w", err), said} {
			recorder := httptest.NewRecorder()
			fault.Write(recorder, translate(key, err))
			got := fault.Read(recorder.Result())
			if got.Code != want || got.Object != "ns/a" || !strings.HasPrefix(got.Sentence, "instance ns/a: ") {
				t.Errorf("%v becomes %s %q, want %s", err, got.Code, got, want)
			}
			if stopped := want == fault.NotRunning || want == fault.NoGuestAgent; err == error(said) && !stopped && got.Error() != "instance ns/a: it is so; do this" {
				t.Errorf("%v is told as %q", err, got)
			}
		}
	}
}
