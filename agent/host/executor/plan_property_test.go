package executor

import (
	"slices"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// anySituation draws one, also such as should never be.
func anySituation(t *rapid.T) situation {
	chance := func(label string) bool { return rapid.Bool().Draw(t, label) }
	s := held()
	s.instance.Status.Phase = rapid.SampledFrom([]kubevirtv1.VirtualMachineInstancePhase{
		kubevirtv1.Pending, kubevirtv1.Scheduled, kubevirtv1.Running, kubevirtv1.Succeeded, kubevirtv1.Failed,
	}).Draw(t, "phase")
	rapid.SampledFrom([]edit{func(*situation) {}, gone, elsewhere, unclaimed, reserved, successor, misnamed}).Draw(t, "whose")(&s)
	if s.instance != nil && chance("deleted") {
		deletedNow(&s)
		seconds := rapid.Int64Range(0, 60).Draw(t, "grace")
		s.instance.Spec.TerminationGracePeriodSeconds = &seconds
	}
	if chance("has a domain") {
		state := rapid.SampledFrom([]hypervisor.State{
			hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateSuspended, hypervisor.StateShutoff, hypervisor.StateCrashed, hypervisor.StateUnknown,
		}).Draw(t, "state")
		reason := rapid.SampledFrom([]hypervisor.Reason{
			hypervisor.ReasonUnknown, hypervisor.ReasonShutdown, hypervisor.ReasonCrashed, hypervisor.ReasonDestroyed,
			hypervisor.ReasonFailed, hypervisor.ReasonMigrated, hypervisor.ReasonUser, hypervisor.ReasonMissed,
		}).Draw(t, "reason")
		domainIn(state, reason)(&s)
		s.domain.Owner.Epoch = rapid.Uint64Range(planEpoch-1, planEpoch+1).Draw(t, "epoch")
		if chance("asked") {
			s.asked = s.now.Add(-time.Duration(rapid.Int64Range(-10, 100).Draw(t, "ago")) * time.Second)
		}
		if chance("recorded") {
			recordedEnd(kubevirtv1.Succeeded)(&s)
		}
	}
	s.work = rapid.SampledFrom([]work{workNone, workUnderWay, workReady}).Draw(t, "work")
	s.workEpoch = rapid.Uint64Range(planEpoch-1, planEpoch).Draw(t, "work's epoch")
	s.confirmed, s.connected = chance("confirmed"), chance("connected")
	s.withheld = chance("withheld")
	s.thawDue = s.active() && chance("frozen")
	s.traces, s.logs = chance("traces"), chance("logs")
	if s.instance != nil && chance("failed before") {
		failed(time.Duration(rapid.Int64Range(0, 60).Draw(t, "pause"))*time.Second, chance("told"), chance("final"))(&s)
	}
	return s
}

// What must hold of every plan, whatever is found.
func TestNoPlanDoesWhatMustNotBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySituation(t)
		p := plan(s)
		at := func(act Act) int { return slices.IndexFunc(p, func(step Step) bool { return step.Act == act }) }
		has := func(act Act) bool { return at(act) >= 0 }
		must := func(holds bool, what string) {
			if !holds {
				t.Errorf("%s: %s", what, p)
			}
		}
		isHeld, orphan := s.right() == rightHeld, s.right() == rightNone || s.right() == rightLapsed
		destroys := has(ActCutPower) || has(ActUndefine) || has(ActRemoveVolumes) || has(ActReleaseAddresses)

		must(plan(s).String() == p.String(), "the same situation gives two plans")
		must(!orphan || s.confirmed || !destroys, "an orphan is removed although the mesh was not asked")
		must(s.right() != rightReserved || len(p) == 0, "a domain that may arrive is touched")
		must(!has(ActCommitEnd) || isHeld, "who has no claim ends the instance")
		must(!has(ActReport) && !has(ActReportFailure) || isHeld, "who has no claim reports")
		if has(ActDefineStart) {
			must(isHeld && s.confirmed && s.connected && s.work == workReady && s.workEpoch == s.claim.Epoch, "a start that is not ready")
			must(!s.deleted() && !s.instance.IsFinal() && !s.active(), "a start of what is not to start")
			must(!s.withheld, "a start of what may run on a host in quarantine")
			must(s.failure == nil || s.failure.pauseLeft(s.now) == 0, "a start within the pause after a failure")
		}
		if s.found && isHeld && s.domain.Owner.Epoch > s.claim.Epoch {
			must(!destroys && !has(ActRequestShutdown), "a domain of a newer claim is touched")
		}
		if s.found && isHeld && s.domain.Owner.Epoch < s.claim.Epoch {
			must(!has(ActCommitEnd) && !has(ActReport), "the domain of an older claim speaks for the instance")
		}
		if has(ActCommitEnd) && s.found {
			must(at(ActCommitEnd) < at(ActUndefine), "the domain goes before the mesh knows of its end")
			must(s.recorded != nil || s.instance.IsFinal() || at(ActRecordEnd) == 0, "an end that is not recorded first")
			must(!s.active() || has(ActCutPower) && at(ActCutPower) < at(ActCommitEnd), "an instance ends before its guest")
		}
		must(!has(ActThaw) || isHeld && s.deleted(), "a guest that is not to stop is thawed")
		if has(ActThaw) && !has(ActRequestShutdown) {
			wait := p[len(p)-1].After
			must(has(ActRecordShutdown) && wait < machine.GracePeriod(&s.instance.Spec), "a thaw takes the whole time of a guest that was not asked")
		}
		if has(ActRemoveVolumes) && s.active() {
			must(has(ActCutPower) && at(ActCutPower) < at(ActRemoveVolumes), "disks are removed below a guest")
		}
		if isHeld && s.active() && s.domain.Owner.Epoch == s.claim.Epoch && s.recorded == nil && !s.instance.IsFinal() && has(ActCutPower) {
			must(s.deleted(), "a guest's power is cut for no reason")
			grace := machine.GracePeriod(&s.instance.Spec)
			must(grace == 0 || !s.asked.IsZero() && s.now.Sub(s.asked) >= grace, "a guest's power is cut before its time is over")
		}
	})
}
