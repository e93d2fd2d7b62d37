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

// The acts. Each may be repeated, and has no further effect when it has been done.
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
	// ActLimitMemory limits the memory of the emulator of a guest that runs without a limit.
	ActLimitMemory Act = "limit-memory"
	// ActReport writes the status of a guest that exists.
	ActReport Act = "report"
	// ActReportFailure writes why the guest does not start yet.
	ActReportFailure Act = "report-failure"
	// ActResume lets the CPUs of a paused guest go on, so that it can shut down.
	ActResume Act = "resume"
	// ActThaw begins to thaw the file systems of a guest, which goes on by itself: a guest that
	// cannot write cannot shut down.
	ActThaw Act = "thaw"
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
	// ActForget drops what this process keeps in memory about the instance.
	ActForget Act = "forget"
	// ActRemoveLogs removes what the guest and its emulator have logged.
	ActRemoveLogs Act = "remove-logs"
	// ActWait looks again after a time.
	ActWait Act = "wait"
	// ActRefuse ends the plan with an error: the situation must not occur.
	ActRefuse Act = "refuse"
)

// needsCertainty reports whether the act cannot be undone, so that it must not follow from a
// state of the mesh that may not be the mesh's. What is committed to the store is not among
// them: the mesh judges it by its own state.
func (a Act) needsCertainty() bool {
	switch a {
	case ActDefineStart, ActResume, ActThaw, ActRequestShutdown, ActCutPower, ActUndefine, ActRemoveVolumes, ActReleaseAddresses, ActRemoveLogs:
		return true
	}
	return false
}

// Step is one act of a Plan with its arguments.
type Step struct {
	Act Act
	// End is how the guest ended, for record-end and commit-end.
	End end
	// After is the time after which to look again, for wait.
	After time.Duration
	// Why says in a sentence why the act is needed, where its name does not.
	Why string
	// BestEffort says that the plan goes on when the step fails, unless the
	// hypervisor cannot be reached.
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

// Plan is the ordered list of steps for one instance on this host. It is valid only
// for the situation it was made for. A plan that is interrupted is not resumed:
// the next plan is made from the situation that is found then.
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
	// PowerCut says that the guest did not shut down within its grace period.
	PowerCut bool `json:"powerCut,omitempty"`
	// WithHost says that the guest was ended because its host was shut down.
	WithHost bool `json:"withHost,omitempty"`
}

// work is the progress of the preparation of the volumes.
type work string

const (
	workNone     work = ""
	workUnderWay work = "under way"
	workReady    work = "ready"
)

// situation holds everything that a plan depends on. It is about one incarnation of
// an instance, which ref names by its UID.
type situation struct {
	// host is this host's name, now the time of its clock.
	host string
	now  time.Time
	ref  hypervisor.Ref

	// instance is the object with ref's name; nil when there is none. It may be a
	// successor with another UID.
	instance *kubevirtv1.VirtualMachineInstance
	// claim is the claim on the instance with ref's UID; valid if claimed is true.
	claim   claims.Instance
	claimed bool
	// confirmed says that instance and claim were read linearizably. Otherwise
	// they are what the local replica shows, which may be old.
	confirmed bool

	// domain is the instance's domain; valid if found is true.
	domain hypervisor.Domain
	found  bool
	// asked is when the guest was first asked to shut down; zero when it was not.
	// recorded is how the guest ended according to the domain's records, or nil.
	asked    time.Time
	recorded *end

	// work is the preparation of the volumes, begun under workEpoch. connected
	// says that the network cards were made in this reconciliation.
	work      work
	workEpoch uint64
	connected bool
	// withheld says that the claim is older than a recovery of the mesh, and another
	// host may still run what the instance has become since.
	withheld bool
	// busy says that MaxStarts starts are under way.
	busy bool
	// failure is the last failure to start, or nil.
	failure *failure

	// thawDue says that the guest's file systems are frozen, and that nobody is thawing them or
	// has tried to a moment ago.
	thawDue bool

	// unlimited says that the guest's emulator has no limit of memory, and that this process
	// has not tried to set one.
	unlimited bool

	// traces says that disks or addresses of the instance may be on this host, logs
	// that its logs are.
	traces, logs bool
}

// right is what the claim allows this host to do with the instance.
type right string

const (
	// rightNone: the instance is gone, or belongs to another host.
	rightNone right = "none"
	// rightLapsed: the status names this host, but no claim does.
	rightLapsed right = "lapsed"
	// rightReserved: this host is the target of a migration of the instance.
	rightReserved right = "reserved"
	// rightHeld: the claim names this host.
	rightHeld right = "held"
)

// right derives the right from the claim. The status gives no right: every client that
// may write instances may write it, and after a migration it changes later than the
// claim.
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

// exists reports whether the instance with ref's UID exists, and not only another one
// of the same name.
func (s situation) exists() bool {
	return s.instance != nil && string(s.instance.UID) == s.ref.UID
}

func (s situation) deleted() bool { return s.instance.DeletionTimestamp != nil }

// active reports whether the guest has a process.
func (s situation) active() bool { return s.found && s.domain.State.Active() }

// anything reports whether the instance has a domain, possible disks or addresses, or
// a preparation on this host.
func (s situation) anything() bool {
	return s.found || s.traces || s.work != workNone
}
