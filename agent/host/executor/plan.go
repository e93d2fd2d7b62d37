package executor

import (
	"fmt"
	"strings"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/hypervisor"
)

// Act is one kind of step.
type Act string

// The acts. Each may be repeated, and does nothing when it has been done.
const (
	// ActAskMesh reads instance and claim linearizably, and plans again.
	ActAskMesh Act = "ask-mesh"
	// ActLookAgain looks at domain, claim and preparation again, and plans again.
	ActLookAgain Act = "look-again"
	// ActDropPreparation ends the preparation of the volumes and waits for its end.
	ActDropPreparation Act = "drop-preparation"
	// ActPrepareVolumes begins to prepare the volumes, which goes on by itself.
	ActPrepareVolumes Act = "prepare-volumes"
	// ActAwaitPreparation waits, without a worker, until the volumes are prepared.
	ActAwaitPreparation Act = "await-preparation"
	// ActConnectNetwork makes the network cards.
	ActConnectNetwork Act = "connect-network"
	// ActDefineStart defines the domain and starts the guest.
	ActDefineStart Act = "define-start"
	// ActReport writes the status of a guest that exists.
	ActReport Act = "report"
	// ActReportFailure writes why the guest does not start yet.
	ActReportFailure Act = "report-failure"
	// ActResume lets the CPUs of a paused guest go on, so that it can shut down.
	ActResume Act = "resume"
	// ActRequestShutdown asks the guest to shut down.
	ActRequestShutdown Act = "request-shutdown"
	// ActRecordShutdown records with the domain when the guest was first asked.
	ActRecordShutdown Act = "record-shutdown"
	// ActRecordEnd records with the domain how the guest ended, or is about to.
	ActRecordEnd Act = "record-end"
	// ActCutPower ends the guest's process.
	ActCutPower Act = "cut-power"
	// ActReleaseAddresses gives the instance's addresses back.
	ActReleaseAddresses Act = "release-addresses"
	// ActRemoveVolumes removes the disks that live as long as the instance.
	ActRemoveVolumes Act = "remove-volumes"
	// ActCommitEnd writes the final phase and gives up claim and finalizer, in one
	// transaction.
	ActCommitEnd Act = "commit-end"
	// ActUndefine removes the domain, and with it what was recorded there.
	ActUndefine Act = "undefine"
	// ActForget drops what this process remembers of the instance.
	ActForget Act = "forget"
	// ActRemoveLogs removes what the guest and its emulator have logged.
	ActRemoveLogs Act = "remove-logs"
	// ActWait looks again after a time.
	ActWait Act = "wait"
	// ActRefuse ends in an error: what is seen should not be so.
	ActRefuse Act = "refuse"
)

// Step is one act of a Plan with what it needs to know.
type Step struct {
	Act Act
	// End is how the guest ended, for record-end and commit-end.
	End end
	// After is when to look again, for wait.
	After time.Duration
	// Why says in a sentence why the act is needed, where its name does not.
	Why string
	// BestEffort steps may fail: the plan goes on without them, unless the
	// hypervisor cannot be reached at all.
	BestEffort bool
}

// String returns the step as plans are printed in logs and tests.
func (s Step) String() string {
	switch s.Act {
	case ActWait:
		return fmt.Sprintf("%s(%s)", s.Act, s.After)
	case ActRecordEnd, ActCommitEnd:
		return fmt.Sprintf("%s(%s)", s.Act, s.End.Phase)
	}
	return string(s.Act)
}

// Plan is what is to be done about one instance on this host, in order. It holds
// for the situation it was made for. A plan that is interrupted is not resumed:
// the next one starts from what is found then.
type Plan []Step

// String returns the steps in order, or "nothing".
func (p Plan) String() string {
	if len(p) == 0 {
		return "nothing"
	}
	words := make([]string, len(p))
	for i, step := range p {
		words[i] = step.String()
	}
	return strings.Join(words, ", ")
}

// end is how a guest ended. It is recorded with the domain as JSON.
type end struct {
	Phase   kubevirtv1.VirtualMachineInstancePhase `json:"phase"`
	Message string                                 `json:"message"`
	// PowerCut says that the guest had its time to shut down and did not use it.
	PowerCut bool `json:"powerCut,omitempty"`
}

// work is how far the preparation of the volumes is.
type work string

const (
	workNone     work = ""
	workUnderWay work = "under way"
	workReady    work = "ready"
)

// situation is all that a plan depends on. It is about one incarnation of an
// instance: Ref names it by its UID.
type situation struct {
	// host is this host's name, now its time.
	host string
	now  time.Time
	ref  hypervisor.Ref

	// instance bears ref's name; nil when there is none. It may be a successor
	// with another UID.
	instance *kubevirtv1.VirtualMachineInstance
	// claim is that of ref's UID, if claimed.
	claim   claims.Instance
	claimed bool
	// confirmed says that instance and claim were read linearizably. Otherwise
	// they are what the local replica shows, which may be old.
	confirmed bool

	// domain is the hypervisor's, if found.
	domain hypervisor.Domain
	found  bool
	// asked is when the guest was first asked to shut down, by the domain's
	// records; zero when it was not. recorded is how it ended by them, or nil.
	asked    time.Time
	recorded *end

	// work is the preparation of the volumes, begun under workEpoch. connected
	// says that the network cards were made in this reconciliation.
	work      work
	workEpoch uint64
	connected bool
	// busy says that as many starts are under way as may be.
	busy bool
	// failure is the last failure to start, or nil.
	failure *failure

	// traces says that disks or addresses of the instance may be here, logs that
	// its logs are.
	traces, logs bool
}

// right is what the claim lets this host do with the instance.
type right string

const (
	// rightNone: the instance is gone, or is another host's.
	rightNone right = "none"
	// rightLapsed: the status names this host, but no claim does.
	rightLapsed right = "lapsed"
	// rightReserved: the instance may come here by a migration.
	rightReserved right = "reserved"
	// rightHeld: the claim names this host.
	rightHeld right = "held"
)

// right judges by the claim. The status is not a right: it may be written by
// whoever may write instances, and follows a migration's claim late.
func (s situation) right() right {
	switch {
	case !s.exists():
		return rightNone
	case s.claimed && s.claim.Host == s.host:
		return rightHeld
	case s.claimed && s.claim.Target == s.host:
		return rightReserved
	case !s.claimed && s.instance.Status.NodeName == s.host:
		return rightLapsed
	}
	return rightNone
}

// exists says that the instance itself is there, and not only its name.
func (s situation) exists() bool {
	return s.instance != nil && string(s.instance.UID) == s.ref.UID
}

func (s situation) deleted() bool { return s.instance.DeletionTimestamp != nil }

// active says that the guest has a process.
func (s situation) active() bool { return s.found && s.domain.State.Active() }

// anything says that something of the instance is on this host.
func (s situation) anything() bool {
	return s.found || s.traces || s.work != workNone
}
