package robustness

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/tests/robustness/mesh"
)

// trouble is a way in which machines can never be as they should. The machines that
// have it begin with its name.
type trouble struct {
	name string
	// status is what its machines show, at some time at least.
	status kubevirtv1.VirtualMachinePrintableStatus
	// change makes the machine have the trouble, if its specification is the cause.
	change func(vm *kubevirtv1.VirtualMachine)
	// play is what a running guest does by itself; it is called every two seconds with how
	// often it was called before. The error is ignored.
	play func(host *mesh.Host, guest hypervisor.Ref, turn int) error
}

// The names of troubles that the hosts have with starting guests.
const missingImage, failingStart = "image", "start"

func troubles() []trouble {
	return []trouble{
		{name: "room", status: kubevirtv1.VirtualMachineStatusUnschedulable, change: func(vm *kubevirtv1.VirtualMachine) {
			memory := resource.MustParse("100Gi")
			vm.Spec.Template.Spec.Domain.Memory.Guest = &memory
		}},
		{name: missingImage, status: kubevirtv1.VirtualMachineStatusErrImagePull},
		{name: failingStart, status: kubevirtv1.VirtualMachineStatusStarting},
		{name: "sleep", status: kubevirtv1.VirtualMachineStatusRunning, play: func(host *mesh.Host, guest hypervisor.Ref, turn int) error {
			if turn%2 == 0 {
				return host.Machine().Sleep(guest)
			}
			return host.Machine().Wake(guest)
		}},
		{name: "pause", status: kubevirtv1.VirtualMachineStatusPaused, play: func(host *mesh.Host, guest hypervisor.Ref, turn int) error {
			if (turn+int(guest.Name[len(guest.Name)-1]))%3 > 0 {
				return host.Machine().Pause(guest, hypervisor.ReasonIOError)
			}
			return host.Machine().Wake(guest)
		}},
		{name: "poweroff", status: kubevirtv1.VirtualMachineStatusCrashLoopBackOff, play: func(host *mesh.Host, guest hypervisor.Ref, turn int) error {
			if turn < 3 {
				return nil // it boots
			}
			return host.Machine().PowerOff(guest)
		}},
	}
}

// troubled is a configuration of a mesh that has no image for some machines, and whose
// emulator does not start others. The texts have the time in them, as QEMU's do.
func troubled() mesh.Config {
	config := mesh.DefaultConfig()
	config.Allocatable = machine.Resources{CPUMilli: 64000, MemoryBytes: 64 << 30, EphemeralBytes: 100 << 30}
	config.Faults.Prepare = func(vmi *kubevirtv1.VirtualMachineInstance) error {
		if !strings.HasPrefix(vmi.Name, missingImage) {
			return nil
		}
		return &executor.VolumeError{Volume: "root", Reason: "ErrImagePull", Err: fmt.Errorf("not found at %s", time.Now())}
	}
	config.Faults.Start = func(xml string) error {
		if !strings.Contains(xml, ">default_"+failingStart) {
			return nil
		}
		return fmt.Errorf("%s qemu-system-x86_64: cannot allocate %d bytes", time.Now().Format(time.RFC3339Nano), time.Now().UnixNano())
	}
	return config
}

// playGuests lets guests do what they do by themselves, until d has passed.
func (s story) playGuests(all []trouble, d time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Second) {
		for _, host := range s.Hosts() {
			for _, guest := range host.Guests() {
				ref := guest.Owner.Ref
				for _, trouble := range all {
					if trouble.play != nil && strings.HasPrefix(ref.Name, trouble.name) {
						_ = trouble.play(host, ref, s.turns[ref.UID])
						s.turns[ref.UID]++
					}
				}
			}
		}
	}
}

// byWriter lists who wrote what how often, the most frequent first.
func byWriter(writes []mesh.Write) string {
	counts := map[string]int{}
	for _, w := range writes {
		line := w.Writer + ": " + w.Kinds
		if w.Err != nil {
			line += ", refused"
		}
		counts[line]++
	}
	lines := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "\n  %5d %s", counts[line], line)
	}
	return b.String()
}

// expectRate lets guests play, and checks how much the mesh writes meanwhile.
func (s story) expectRate(all []trouble, d time.Duration, perSecond float64) {
	s.t.Helper()
	before := len(s.History.Writes())
	s.playGuests(all, d)
	writes := s.History.Writes()[before:]
	if rate := float64(len(writes)) / d.Seconds(); rate > perSecond {
		s.t.Errorf("the mesh writes %.2f entries a second, want at most %.2f:%s", rate, perSecond, byWriter(writes))
	} else {
		s.t.Logf("%.2f entries a second:%s", rate, byWriter(writes))
	}
}

// expectRest checks that nothing is written while d passes, besides the deletion of old
// events.
func (s story) expectRest(d time.Duration) {
	s.t.Helper()
	before := len(s.History.Writes())
	time.Sleep(d)
	writes := slices.DeleteFunc(s.History.Writes()[before:], func(w mesh.Write) bool { return w.Writer == "old-events" })
	if len(writes) > 0 {
		s.t.Errorf("a mesh at rest writes:%s", byWriter(writes))
	}
}

// expectTroubles lets guests play for some minutes, and checks that in that time
// machines of each kind have the trouble that they are to have.
func (s story) expectTroubles(all []trouble, minutes int) {
	s.t.Helper()
	seen := map[string]map[kubevirtv1.VirtualMachinePrintableStatus]bool{}
	for range minutes {
		s.playGuests(all, time.Minute)
		for _, trouble := range all {
			if seen[trouble.name] == nil {
				seen[trouble.name] = map[kubevirtv1.VirtualMachinePrintableStatus]bool{}
			}
			seen[trouble.name][get[*kubevirtv1.VirtualMachine](s, trouble.name+"0").Status.PrintableStatus] = true
		}
	}
	for _, trouble := range all {
		if !seen[trouble.name][trouble.status] {
			s.t.Errorf("machines with trouble %s were %v, want them to be %s", trouble.name, slices.Collect(maps.Keys(seen[trouble.name])), trouble.status)
		}
	}
}

// Machines that can never run cost the mesh little, whatever fails, and when they are
// gone it writes nothing, though others run.
func TestMachinesThatNeverRunCostLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	scenarios := map[string][]trouble{"all": troubles()}
	for _, one := range troubles() {
		scenarios[one.name] = []trouble{one}
	}
	for name, all := range scenarios {
		each, limit := 10, .3 // machines of each trouble, entries a second
		if len(all) > 1 {
			each, limit = 40, 5
		}
		t.Run(name, func(t *testing.T) {
			// Each of them costs some entries at first.
			tellWithin(t, mesh.Limits{PerMinute: 30 * each * len(all)}, troubled(), 3, func(s story) {
				for i := range 10 {
					s.create(fmt.Sprint("well", i))
				}
				for i := range each {
					s.check(s.Commit(s.t.Context(), func(_ context.Context, _ objects.Store, tx *objects.Tx) error {
						for _, trouble := range all {
							vm := newMachine(fmt.Sprintf("%s%d", trouble.name, i))
							if trouble.change != nil {
								trouble.change(vm)
							}
							tx.Create(vm)
						}
						return nil
					}))
				}
				s.expectTroubles(all, 10)
				s.expectRate(all, 10*time.Minute, limit)
				for i := range each {
					for _, trouble := range all {
						s.remove(fmt.Sprintf("%s%d", trouble.name, i))
					}
				}
				time.Sleep(5 * time.Minute)
				s.expectRest(10 * time.Minute)
				s.awaitAgreement(time.Minute)
			})
		})
	}
}

// A host that is out of reach for a while, again and again, as a starved one is, costs
// the mesh little, and when it stays the mesh writes nothing.
func TestAHostThatComesAndGoesCostsLittle(t *testing.T) {
	tellStory(t, mesh.DefaultConfig(), 3, func(s story) {
		s.comesAndGoes("host3", 30)
		time.Sleep(5 * time.Minute)
		s.expectRest(10 * time.Minute)
		s.awaitAgreement(time.Minute)
	})
}

// comesAndGoes cuts a host off, which runs guests, and heals that, again and again. It checks
// what that costs.
func (s story) comesAndGoes(flapping string, times int) {
	s.t.Helper()
	const (
		onEach    = 2 // guests on each host
		cut, well = 30 * time.Second, 20 * time.Second
		// The mesh tells of a host that comes and goes once in ten minutes.
		tellingEvery = 10 * time.Minute
		// It marks the Node and takes the mark off. For each guest there, the instance and
		// its machine change with both; and a host that has just returned may act for a
		// machine that another one still acts for, which repeats the change of the machine.
		ofNode, ofGuest = 2, 4 + 2
	)
	for _, h := range s.Hosts() {
		for i := range onEach {
			s.createOn(h.Name, fmt.Sprint("well-", h.Name, "-", i))
		}
	}
	time.Sleep(3 * time.Minute)
	before := len(s.History.Writes())
	for range times {
		s.Cut(flapping, mesh.AllTraffic()...)
		time.Sleep(cut)
		s.Heal()
		time.Sleep(well)
	}
	writes := s.History.Writes()[before:]
	told := 0
	for _, w := range writes {
		if w.Writer == "node-watcher" {
			told++
		}
	}
	if told == 0 {
		s.t.Error("nobody noticed")
	}
	length := time.Duration(times) * (cut + well)
	tellings := 1 + int(length/tellingEvery)
	if limit := tellings * (ofNode + onEach*ofGuest); told > tellings || len(writes) > limit {
		s.t.Errorf("the mesh told of the host %d times in %s, in %d entries, want at most %d and %d:%s", told, length, len(writes), tellings, limit, byWriter(writes))
	}
}
