package executor

import (
	"fmt"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

const (
	// shutdownInterval is how often the shutdown request is repeated: a guest that
	// had not finished booting ignores the first request.
	shutdownInterval = 5 * time.Second
	// startInterval is how often an instance that waits because MaxStarts starts are
	// under way tries again.
	startInterval = 500 * time.Millisecond
	// quarantineInterval is how often an instance that waits for hosts in quarantine
	// tries again.
	quarantineInterval = 5 * time.Second
	// arrivalInterval is how often the source host of a migration checks whether the
	// claim has moved to the target host.
	arrivalInterval = 5 * time.Second
)

// plan decides what is to be done about an instance. It is a pure function: the
// same situation gives the same plan.
func plan(s situation) Plan {
	switch s.right() {
	case rightReserved:
		// The domain may be an incoming one: the migration makes it and removes it.
		return nil
	case rightHeld:
		return planHeld(s)
	}
	return planRemoval(s)
}

// planRemoval removes what this host has of an instance that is gone or has no
// claim on this host. The plan first reads instance and claim linearizably, so that
// a local replica that lags cannot make this host kill a guest that has a claim.
func planRemoval(s situation) Plan {
	var p Plan
	if s.work != workNone {
		// Without a claim on this host, no start will use this preparation.
		p = append(p, Step{Act: ActDropPreparation})
	}
	refused := s.right() == rightLapsed && !s.deleted() && !s.instance.IsFinal()
	// Like a pod's logs, logs stay while the instance exists and its status names
	// this host.
	logs := s.logs && s.right() != rightLapsed && (s.instance == nil || s.exists())
	if !s.confirmed {
		if s.anything() || logs || refused {
			p = append(p, Step{Act: ActAskMesh, Why: "whether this host has a claim on the instance"})
		}
		return p
	}
	if s.anything() {
		p = append(p, planCleaning(s)...)
		p = append(p, planUndefine(s)...)
	}
	if logs {
		p = append(p, Step{Act: ActRemoveLogs})
	}
	if refused {
		p = append(p, Step{Act: ActRefuse, Why: "no claim lets this host run the instance"})
	}
	return p
}

// planCleaning ends the guest and releases everything that the host holds for it,
// except the domain. While the domain is defined, a restarted agent finds the
// instance and the record of how its guest ended.
func planCleaning(s situation) Plan {
	var p Plan
	if s.active() {
		p = append(p, Step{Act: ActCutPower})
	}
	return append(p, Step{Act: ActReleaseAddresses}, Step{Act: ActRemoveVolumes})
}

// planUndefine removes the domain and what this process remembers of the instance.
func planUndefine(s situation) Plan {
	if !s.found {
		return Plan{{Act: ActForget}}
	}
	return Plan{{Act: ActUndefine}, {Act: ActForget}}
}

// planHeld is for an instance whose claim names this host.
func planHeld(s situation) Plan {
	switch {
	case s.instance.Status.NodeName != s.host && !s.confirmed:
		return Plan{{Act: ActAskMesh, Why: "claim and status name different hosts"}}
	case s.found && s.domain.Owner.Epoch != s.claim.Epoch:
		return planOtherEpoch(s)
	case s.work != workNone && s.workEpoch != s.claim.Epoch:
		return Plan{{Act: ActDropPreparation}, {Act: ActLookAgain, Why: "the preparation began under another claim"}}
	case s.instance.IsFinal():
		return planEnd(s, end{Phase: s.instance.Status.Phase})
	case s.deleted():
		return planStop(s)
	case s.recorded != nil:
		return planEnd(s, *s.recorded)
	case !s.found && s.instance.Status.Phase == kubevirtv1.Running:
		return planEnd(s, end{Phase: kubevirtv1.Failed, Message: "the guest is gone: its host was switched off or its process was lost"})
	case (!s.found || s.neverStarted()) && s.withheld:
		return Plan{{Act: ActWait, After: quarantineInterval}}
	case !s.found || s.neverStarted():
		return planStart(s)
	case !s.active():
		return planEnded(s)
	}
	if s.unlimited {
		return Plan{{Act: ActLimitMemory, BestEffort: true}, {Act: ActReport}}
	}
	return Plan{{Act: ActReport}}
}

// planOtherEpoch is for a domain that was started under another epoch than the
// claim's. Epochs only grow. A claim with a newer epoch fences the domain, which is
// stopped. A domain with a newer epoch means that this host's copy of the claim is
// old.
func planOtherEpoch(s situation) Plan {
	switch {
	case s.domain.Owner.Epoch < s.claim.Epoch:
		var p Plan
		if s.active() {
			p = append(p, Step{Act: ActCutPower, Why: "the domain was started under an older claim"})
		}
		return append(p, Step{Act: ActUndefine}, Step{Act: ActLookAgain})
	case !s.confirmed:
		return Plan{{Act: ActAskMesh, Why: "the domain was started under a newer claim"}}
	}
	return Plan{{Act: ActRefuse, Why: fmt.Sprintf("the domain was started under epoch %d, the claim has epoch %d: the guest is left alone",
		s.domain.Owner.Epoch, s.claim.Epoch)}}
}

// neverStarted reports whether the domain was defined but its guest not started: the
// agent or the host ended in between. The status never said that the guest ran.
func (s situation) neverStarted() bool {
	return s.found && s.domain.State == hypervisor.StateShutoff && s.instance.Status.Phase != kubevirtv1.Running &&
		(s.domain.Reason == hypervisor.ReasonUnknown || s.domain.Reason == hypervisor.ReasonFailed)
}

// planStart prepares volumes and network and starts the guest. The linearizable read
// of the claim comes last before the start, because a pull may have taken an hour.
func planStart(s situation) Plan {
	if f := s.failure; f != nil {
		switch {
		case f.final:
			return planEnd(s, end{Phase: kubevirtv1.Failed, Message: f.message})
		case f.isNews(s.instance, s.now):
			return Plan{{Act: ActReportFailure}, {Act: ActWait, After: max(f.pauseLeft(s.now), minStartPause)}}
		case f.pauseLeft(s.now) > 0:
			return Plan{{Act: ActWait, After: f.pauseLeft(s.now)}}
		}
	}
	switch {
	case s.work == workNone:
		return Plan{{Act: ActPrepareVolumes}, {Act: ActAwaitPreparation}}
	case s.work == workUnderWay:
		return Plan{{Act: ActAwaitPreparation}}
	case s.busy:
		return Plan{{Act: ActWait, After: startInterval}}
	case !s.connected:
		return Plan{{Act: ActConnectNetwork}, {Act: ActAskMesh, Why: "whether the guest may still start here"}}
	case !s.confirmed:
		return Plan{{Act: ActAskMesh, Why: "whether the guest may still start here"}}
	}
	return Plan{{Act: ActDefineStart}, {Act: ActReport}}
}

// planStop asks a guest to shut down, and cuts its power when its grace period is
// over. The grace period starts when this host first asks the guest, or begins to thaw
// it for that, by its own clock. So the guest is always asked first, however long the
// agent was down and whatever the clocks of other hosts show.
func planStop(s situation) Plan {
	grace := machine.GracePeriod(&s.instance.Spec)
	switch {
	case s.recorded != nil:
		return planEnd(s, *s.recorded)
	case !s.found:
		return planEnd(s, end{Phase: kubevirtv1.Succeeded, Message: "stopped before its guest ran"})
	case !s.active():
		return planEnd(s, end{Phase: kubevirtv1.Succeeded, Message: "the guest was stopped"})
	case grace <= 0:
		return planEnd(s, end{Phase: kubevirtv1.Succeeded, Message: "the guest's power was cut: it has no grace period"})
	}
	var p Plan
	// A clock that was set back would give the guest more time than it has.
	first := s.asked.IsZero() || s.asked.After(s.now)
	left := grace
	if !first {
		left = s.asked.Add(grace).Sub(s.now)
	}
	if left <= 0 {
		return planEnd(s, end{Phase: phaseOfPowerCut(s.instance), PowerCut: true,
			Message: "the guest did not shut down in its grace period, so its power was cut"})
	}
	if s.domain.State == hypervisor.StatePaused && s.domain.Reason != hypervisor.ReasonMigration {
		// A paused guest cannot handle the request.
		p = append(p, Step{Act: ActResume, BestEffort: true})
	}
	if s.thawDue {
		p = append(p, Step{Act: ActThaw, BestEffort: true})
	}
	wait := min(left, shutdownInterval)
	if first && s.thawDue {
		// An agent takes no request to shut down while it holds file systems frozen. One that
		// hangs must not use up the grace period, so the guest is asked after a while anyhow.
		wait = min(left/2, shutdownInterval)
	} else {
		p = append(p, Step{Act: ActRequestShutdown, BestEffort: true})
	}
	if first {
		p = append(p, Step{Act: ActRecordShutdown, BestEffort: true})
	}
	return append(p, Step{Act: ActWait, After: wait})
}

// phaseOfPowerCut is the final phase of a guest that did not shut down within its
// grace period: Failed, or Succeeded if it has no ACPI and so could not receive the
// request. A user asked for the stop, so Failed does not start the guest again.
func phaseOfPowerCut(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachineInstancePhase {
	features := vmi.Spec.Domain.Features
	if features != nil && features.ACPI.Enabled != nil && !*features.ACPI.Enabled {
		return kubevirtv1.Succeeded
	}
	return kubevirtv1.Failed
}

// planEnded handles a guest that is not running any more. Only one that shut down
// by itself has succeeded: RerunOnFailure brings the others back.
func planEnded(s situation) Plan {
	switch {
	case s.domain.Reason == hypervisor.ReasonMigrated && !s.confirmed:
		return Plan{{Act: ActAskMesh, Why: "whether the claim has followed the guest"}}
	case s.domain.Reason == hypervisor.ReasonMigrated:
		return Plan{{Act: ActWait, After: arrivalInterval}}
	case s.domain.Reason.Success():
		return planEnd(s, end{Phase: kubevirtv1.Succeeded, Message: "the guest shut down"})
	case s.domain.Reason == hypervisor.ReasonUnknown:
		return planEnd(s, end{Phase: kubevirtv1.Failed, Message: "the guest ended: its host was switched off or restarted"})
	}
	return planEnd(s, end{Phase: kubevirtv1.Failed, Message: fmt.Sprintf("the guest ended: %s", s.domain.Reason)})
}

// planEnd cleans up and then writes the final phase, which also says that the
// instance holds nothing on this host any more. How the guest ended is recorded with
// the domain first, and the domain is removed last. So wherever the agent is
// interrupted, the first record of the end is the one that counts.
func planEnd(s situation, how end) Plan {
	var p Plan
	if s.found && s.recorded == nil && !s.instance.IsFinal() {
		p = append(p, Step{Act: ActRecordEnd, End: how, BestEffort: true})
	}
	if s.work != workNone {
		p = append(p, Step{Act: ActDropPreparation})
	}
	p = append(p, planCleaning(s)...)
	p = append(p, Step{Act: ActCommitEnd, End: how})
	return append(p, planUndefine(s)...)
}
