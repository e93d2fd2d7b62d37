package robustness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/tests/robustness/mesh"
)

// clockScenarios are what the clocks of hosts must not do to a mesh. In each of them the
// first hosts have the clocks, in the order of the list.
var clockScenarios = []struct {
	name   string
	clocks []time.Duration // how far ahead
	story  func(s story)
}{
	{"machines live: one clock is an hour ahead, one is behind", []time.Duration{time.Hour, -time.Hour}, machinesLive},
	{"machines live: one clock is a week ahead", []time.Duration{7 * 24 * time.Hour}, machinesLive},
	{"a host dies: its clock is an hour ahead", []time.Duration{0, time.Hour}, aHostIsMarked},
	{"a host dies: its clock is an hour behind", []time.Duration{0, -time.Hour}, aHostIsMarked},
	{"a host comes and goes: its clock is an hour behind", []time.Duration{0, 0, -time.Hour}, aHostComesAndGoes},
	{"a host comes and goes: its clock is an hour ahead", []time.Duration{0, 0, time.Hour}, aHostComesAndGoes},
	{"guests power off while they boot: clocks differ by an hour", []time.Duration{time.Hour, -time.Hour}, guestsPowerOff},
	{"events stay for an hour: one clock is three hours ahead, one is behind", []time.Duration{3 * time.Hour, -3 * time.Hour}, eventsStay},
	{"clocks are set again and again", nil, clocksAreSet},
	{"clocks run at other rates", nil, clocksRunApart},
}

// No clock is right for ever. A host whose clock is wrong, is set, or runs at another rate
// takes part as any other.
func TestClocks(t *testing.T) {
	for _, scenario := range clockScenarios {
		t.Run(scenario.name, func(t *testing.T) {
			tellStory(t, newConfig(), 3, func(s story) {
				for i, ahead := range scenario.clocks {
					s.Hosts()[i].SetClock(ahead, 0)
				}
				scenario.story(s)
				s.awaitAgreement(settled)
				s.awaitReady("host1", "host2", "host3")
			})
		})
	}
}

// createAll creates n machines, and waits until they run.
func (s story) createAll(n int) {
	s.t.Helper()
	for i := range n {
		s.create(fmt.Sprint("web", i))
	}
	for i := range n {
		s.awaitPhase(fmt.Sprint("web", i), kubevirtv1.Running, time.Minute)
	}
}

func machinesLive(s story) {
	s.createAll(9)
	time.Sleep(time.Minute)
	s.expectRest(half)
	for i := range 9 {
		s.remove(fmt.Sprint("web", i))
	}
	time.Sleep(5 * time.Minute)
	if left := s.list("/registry/kubevirt.io/"); len(left) > 0 {
		s.t.Errorf("left are %v", left)
	}
}

// aHostIsMarked checks that the death of host2 is known within two minutes, and that of its
// machines.
func aHostIsMarked(s story) {
	s.createAll(6)
	time.Sleep(15 * time.Minute)
	s.Host("host2").LosePower()
	time.Sleep(2 * time.Minute)
	if ready := objects.NodeCondition(s.node("host2"), corev1.NodeReady); ready.Status != corev1.ConditionUnknown {
		s.t.Errorf("two minutes after it died, the Node of a host is ready: %s", ready.Status)
	}
	unknown := 0
	for i := range 6 {
		vmi := get[*kubevirtv1.VirtualMachineInstance](s, fmt.Sprint("web", i))
		for _, c := range vmi.Status.Conditions {
			if vmi.Status.NodeName == "host2" && c.Type == kubevirtv1.VirtualMachineInstanceReady && c.Status == corev1.ConditionTrue {
				s.t.Errorf("two minutes after its host died, %s is ready", vmi.Name)
			}
		}
		if vmi.Status.NodeName == "host2" {
			unknown++
		}
	}
	if unknown == 0 {
		s.t.Error("no machine ran on the host that died")
	}
	s.check(s.Host("host2").Start())
}

// aHostComesAndGoes is a host that cannot be reached for a while, again and again.
func aHostComesAndGoes(s story) { s.comesAndGoes("host3", 15) }

// guestsPowerOff checks that machines whose guests never boot are started ever more seldom.
func guestsPowerOff(s story) {
	var loop []trouble
	for _, one := range troubles() {
		if one.name == "poweroff" {
			loop = append(loop, one)
		}
	}
	const machines, perMachine = 6, 12
	for i := range machines {
		s.create(fmt.Sprint("poweroff", i))
	}
	s.playGuests(loop, 40*time.Minute)
	if n := strings.Count(s.History.String(), "starts "); n > machines*perMachine {
		s.t.Errorf("the guests of %d machines that power off were started %d times in 40 minutes, want at most %d", machines, n, machines*perMachine)
	}
}

// eventsStay checks how long events are kept, whoever wrote them, whoever deletes them, and
// though every agent is restarted.
func eventsStay(s story) {
	s.createAll(9)
	const events = "/registry/core/events"
	first := s.list(events)
	if len(first) < 18 {
		s.t.Errorf("the events of 9 machines are %v", first)
	}
	time.Sleep(10 * time.Minute)
	for _, h := range s.Hosts() {
		h.Kill()
		s.check(h.Start())
		s.check(h.AwaitMember(s.t.Context()))
	}
	time.Sleep(40 * time.Minute)
	now := s.list(events)
	for _, event := range first {
		if !slices.Contains(now, event) {
			s.t.Errorf("after 50 minutes the event %s is gone", event)
		}
	}
	time.Sleep(time.Hour)
	if left := s.list(events); len(left) > 0 {
		s.t.Errorf("after 110 minutes %v are left", left)
	}
}

// clocksAreSet sets clocks while machines are made, deleted and cannot start.
func clocksAreSet(s story) {
	ahead := []time.Duration{time.Hour, -time.Hour, 0, 90 * time.Second, -36 * time.Hour, 400 * 24 * time.Hour, 5 * time.Second}
	for _, h := range s.Hosts() {
		n := 0
		h.SetFaults(mesh.Faults{Start: func(string) error {
			if n++; n%3 == 0 {
				return nil
			}
			return fmt.Errorf("qemu exited with status %d", n)
		}})
	}
	for round := range 21 {
		s.Hosts()[round%3].SetClock(ahead[round%len(ahead)], 0)
		s.create(fmt.Sprint("web", round))
		time.Sleep(40 * time.Second)
		if round%2 == 1 {
			s.remove(fmt.Sprint("web", round-1))
		}
	}
	for round := 1; round < 21; round += 2 {
		s.awaitPhase(fmt.Sprint("web", round), kubevirtv1.Running, settled)
	}
	time.Sleep(2 * time.Minute)
	s.expectRest(half)
}

// clocksRunApart is a mesh in which an hour takes 50 minutes on one host, and 70 on another.
func clocksRunApart(s story) {
	s.Hosts()[0].SetClock(0, 1./6)
	s.Hosts()[1].SetClock(0, -1./6)
	machinesLive(s)
	aHostIsMarked(s)
}
