package executor

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

const planEpoch = 5

var planNow = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// edit changes a situation for one line of the table.
type edit func(*situation)

// held is a scheduled instance whose claim names this host, where nothing is yet.
func held(edits ...edit) situation {
	vmi := scheduled("a")
	vmi.UID = "uid-1"
	s := situation{
		host: thisHost, now: planNow, ref: refOf(vmi), instance: vmi, claimed: true,
		claim: claims.Instance{UID: vmi.UID, Host: thisHost, Epoch: planEpoch},
	}
	for _, e := range edits {
		e(&s)
	}
	return s
}

func confirmed(s *situation) { s.confirmed = true }
func leftTraces(s *situation) {
	s.traces = true
}
func leftLogs(s *situation)  { s.logs = true }
func connected(s *situation) { s.connected = true }
func gone(s *situation)      { s.instance, s.claimed = nil, false }
func elsewhere(s *situation) { s.claim.Host = otherHost }
func unclaimed(s *situation) { s.claimed, s.claim = false, claims.Instance{} }
func reserved(s *situation)  { s.claim.Host, s.claim.Target = otherHost, thisHost }
func successor(s *situation) { s.instance.UID = "uid-2"; s.claimed = false }
func misnamed(s *situation)  { s.instance.Status.NodeName = otherHost }
func noGrace(s *situation)   { s.instance.Spec.TerminationGracePeriodSeconds = new(int64) }
func endlessGrace(s *situation) {
	seconds := int64(math.MaxInt64)
	s.instance.Spec.TerminationGracePeriodSeconds = &seconds
}

func frozenNow(s *situation)  { s.thawDue = true }
func deletedNow(s *situation) { at := metav1.NewTime(s.now); s.instance.DeletionTimestamp = &at }

func phase(p kubevirtv1.VirtualMachineInstancePhase) edit {
	return func(s *situation) { s.instance.Status.Phase = p }
}

func domainIn(state hypervisor.State, reason hypervisor.Reason) edit {
	return func(s *situation) {
		s.found = true
		s.domain = hypervisor.Domain{Owner: hypervisor.Owner{Ref: s.ref, Host: thisHost, Epoch: planEpoch}, State: state, Reason: reason}
	}
}

func running(s *situation) {
	phase(kubevirtv1.Running)(s)
	domainIn(hypervisor.StateRunning, hypervisor.ReasonBooted)(s)
}

func shutoff(reason hypervisor.Reason) edit {
	return func(s *situation) {
		phase(kubevirtv1.Running)(s)
		domainIn(hypervisor.StateShutoff, reason)(s)
	}
}

func domainEpoch(epoch uint64) edit {
	return func(s *situation) { s.domain.Owner.Epoch = epoch }
}

func preparing(w work, epoch uint64) edit {
	return func(s *situation) { s.work, s.workEpoch = w, epoch }
}

// asked is a guest that was asked to shut down so long ago.
func asked(ago time.Duration) edit {
	return func(s *situation) { s.asked = s.now.Add(-ago) }
}

func recordedEnd(p kubevirtv1.VirtualMachineInstancePhase) edit {
	return func(s *situation) { s.recorded = &end{Phase: p, Message: "as recorded"} }
}

// failed is a start that failed, with a pause of that length left.
func failed(left time.Duration, told, final bool) edit {
	return func(s *situation) {
		s.failure = &failure{reason: reasonFailedCreate, message: "no bridge", final: final, retryAt: s.now.Add(left), err: errors.New("no bridge")}
		if told {
			for _, kind := range failureConditions {
				machine.SetCondition(s.instance, machine.NewCondition(kind, false, reasonFailedCreate, "no bridge"), s.now)
			}
		}
	}
}

// withoutACPI is a guest that no power button reaches.
func withoutACPI(s *situation) {
	off := false
	s.instance.Spec.Domain.Features = &kubevirtv1.Features{ACPI: kubevirtv1.FeatureState{Enabled: &off}}
}

func TestPlans(t *testing.T) {
	const succeeded, lost = "(Succeeded)", "(Failed)"
	ending := func(how string, before ...string) string {
		return strings.Join(append(before, "release-addresses", "remove-volumes", "commit-end"+how, "undefine", "forget"), ", ")
	}
	for _, test := range []struct {
		name string
		s    situation
		want string
	}{
		// The way of a start.
		{"scheduled", held(), "prepare-volumes, await-preparation"},
		{"its volumes are being prepared", held(preparing(workUnderWay, planEpoch)), "await-preparation"},
		{"its volumes are ready", held(preparing(workReady, planEpoch)), "connect-network, ask-mesh"},
		{"its network is ready", held(preparing(workReady, planEpoch), connected), "ask-mesh"},
		{"the mesh agrees", held(preparing(workReady, planEpoch), connected, confirmed), "define-start, report"},
		{"it runs", held(running), "report"},
		{"its emulator has no limit", held(running, func(s *situation) { s.unlimited = true }), "limit-memory, report"},
		{"it runs and nobody was told", held(domainIn(hypervisor.StateRunning, hypervisor.ReasonBooted)), "report"},
		{"it is paused", held(running, domainIn(hypervisor.StatePaused, hypervisor.ReasonUser)), "report"},
		{"it sleeps", held(running, domainIn(hypervisor.StateSuspended, hypervisor.ReasonUnknown)), "report"},
		{"prepared under another claim", held(preparing(workReady, planEpoch-1)), "drop-preparation, look-again"},
		{"defined and never started", held(domainIn(hypervisor.StateShutoff, hypervisor.ReasonUnknown)), "prepare-volumes, await-preparation"},
		{"defined, and its start failed", held(domainIn(hypervisor.StateShutoff, hypervisor.ReasonFailed)), "prepare-volumes, await-preparation"},
		{"ended before it was reported", held(domainIn(hypervisor.StateShutoff, hypervisor.ReasonShutdown)), ending(succeeded, "record-end"+succeeded)},

		// Failures to start.
		{"failed", held(failed(time.Second, false, false)), "report-failure, wait(1s)"},
		{"failed and told", held(failed(time.Second, true, false)), "wait(1s)"},
		{"failed, and the pause is over", held(failed(0, true, false)), "prepare-volumes, await-preparation"},
		{"can never start", held(failed(time.Second, false, true)), "release-addresses, remove-volumes, commit-end(Failed), forget"},

		// Ends.
		{"shut down by its guest", held(shutoff(hypervisor.ReasonShutdown)), ending(succeeded, "record-end"+succeeded)},
		{"crashed", held(shutoff(hypervisor.ReasonCrashed)), ending(lost, "record-end"+lost)},
		{"nobody saw how it ended", held(shutoff(hypervisor.ReasonUnknown)), ending(lost, "record-end"+lost)},
		{"its end was recorded", held(shutoff(hypervisor.ReasonUnknown), recordedEnd(kubevirtv1.Succeeded)), ending(succeeded)},
		{"lost", held(phase(kubevirtv1.Running)), "release-addresses, remove-volumes, commit-end(Failed), forget"},
		{"final", held(running, phase(kubevirtv1.Failed)), ending(lost, "cut-power")},
		{"migrated away", held(shutoff(hypervisor.ReasonMigrated)), "ask-mesh"},
		{"migrated away, the claim has not followed", held(shutoff(hypervisor.ReasonMigrated), confirmed), "wait(5s)"},

		// Deletions.
		{"deleted before it ran", held(deletedNow), "release-addresses, remove-volumes, commit-end(Succeeded), forget"},
		{"deleted while it is prepared", held(deletedNow, preparing(workUnderWay, planEpoch)),
			"drop-preparation, release-addresses, remove-volumes, commit-end(Succeeded), forget"},
		{"deleted", held(running, deletedNow), "request-shutdown, record-shutdown, wait(5s)"},
		{"asked", held(running, deletedNow, asked(10*time.Second)), "request-shutdown, wait(5s)"},
		{"its time is nearly over", held(running, deletedNow, asked(28*time.Second)), "request-shutdown, wait(2s)"},
		{"its time is over", held(running, deletedNow, asked(30*time.Second)), ending(lost, "record-end"+lost, "cut-power")},
		{"its time is over and it could not hear", held(running, deletedNow, withoutACPI, asked(30*time.Second)),
			ending(succeeded, "record-end"+succeeded, "cut-power")},
		{"the clock was set back", held(running, deletedNow, asked(-time.Hour)), "request-shutdown, record-shutdown, wait(5s)"},
		{"it has no grace period", held(running, deletedNow, noGrace), ending(succeeded, "record-end"+succeeded, "cut-power")},
		{"its grace period is longer than a clock can count", held(running, deletedNow, endlessGrace, asked(time.Hour)), "request-shutdown, wait(5s)"},
		{"deleted while paused", held(running, domainIn(hypervisor.StatePaused, hypervisor.ReasonUser), deletedNow),
			"resume, request-shutdown, record-shutdown, wait(5s)"},
		{"deleted while frozen", held(running, frozenNow, deletedNow), "thaw, record-shutdown, wait(5s)"},
		{"deleted while frozen and paused", held(running, domainIn(hypervisor.StatePaused, hypervisor.ReasonUser), frozenNow, deletedNow),
			"resume, thaw, record-shutdown, wait(5s)"},
		{"asked, and frozen still", held(running, frozenNow, deletedNow, asked(10*time.Second)), "thaw, request-shutdown, wait(5s)"},
		{"it shut down when asked", held(shutoff(hypervisor.ReasonShutdown), deletedNow, asked(time.Second)), ending(succeeded, "record-end"+succeeded)},
		{"its power was to be cut", held(running, deletedNow, recordedEnd(kubevirtv1.Succeeded)), ending(succeeded, "cut-power")},

		// Whose it is.
		{"gone, and nothing is here", held(gone), "nothing"},
		{"gone", held(running, gone), "ask-mesh"},
		{"gone for certain", held(running, gone, confirmed), "cut-power, release-addresses, remove-volumes, undefine, forget"},
		{"gone, its disks are here", held(gone, leftTraces, confirmed), "release-addresses, remove-volumes, forget"},
		{"gone, its logs are here", held(gone, leftLogs), "ask-mesh"},
		{"gone for certain, its logs are here", held(gone, leftLogs, confirmed), "remove-logs"},
		{"gone while it is prepared", held(preparing(workUnderWay, planEpoch), gone), "drop-preparation, ask-mesh"},
		{"a successor has its name", held(running, successor, leftLogs, confirmed), "cut-power, release-addresses, remove-volumes, undefine, forget"},
		{"elsewhere", held(running, elsewhere), "ask-mesh"},
		{"elsewhere for certain", held(running, elsewhere, leftLogs, confirmed), "cut-power, release-addresses, remove-volumes, undefine, forget, remove-logs"},
		{"coming by a migration", held(reserved), "nothing"},
		{"arriving by a migration", held(running, reserved), "nothing"},
		{"arriving, and deleted", held(running, reserved, deletedNow), "nothing"},
		{"the status names another host", held(running, misnamed), "ask-mesh"},
		{"the status names another host, the claim this one", held(running, misnamed, confirmed), "report"},
		{"without a claim", held(unclaimed), "ask-mesh"},
		{"without a claim for certain", held(running, unclaimed, confirmed), "cut-power, release-addresses, remove-volumes, undefine, forget, refuse"},
		{"without a claim, and ended", held(unclaimed, phase(kubevirtv1.Succeeded)), "nothing"},
		{"without a claim, its logs", held(unclaimed, leftLogs, confirmed, phase(kubevirtv1.Succeeded)), "nothing"},
		{"its domain has an older epoch", held(running, domainEpoch(planEpoch-1)), "cut-power, undefine, look-again"},
		{"its ended domain has an older epoch", held(shutoff(hypervisor.ReasonMigrated), domainEpoch(planEpoch-1)), "undefine, look-again"},
		{"its domain has a newer epoch", held(running, domainEpoch(planEpoch+1)), "ask-mesh"},
		{"its domain has a newer epoch for certain", held(running, domainEpoch(planEpoch+1), confirmed), "refuse"},
		{"its domain has a newer epoch, and it is deleted", held(running, domainEpoch(planEpoch+1), deletedNow, confirmed), "refuse"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := plan(test.s).String(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// A longer grace period never gives the guest less time, however long it is.
func TestGracePeriodGrowsWithItsSeconds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.OneOf(rapid.Int64Min(0), rapid.Int64Range(math.MaxInt64/int64(time.Second)-2, math.MaxInt64/int64(time.Second)+2))
		a, b := seconds.Draw(t, "a"), seconds.Draw(t, "b")
		less, more := min(a, b), max(a, b)
		grace := func(seconds int64) time.Duration {
			return machine.GracePeriod(&kubevirtv1.VirtualMachineInstanceSpec{TerminationGracePeriodSeconds: &seconds})
		}
		if grace(less) > grace(more) || grace(less) < min(time.Duration(less), time.Hour) {
			t.Errorf("%d seconds give %s, and %d give %s", less, grace(less), more, grace(more))
		}
	})
}
