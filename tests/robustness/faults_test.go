package robustness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/tests/robustness/mesh"
)

// scenarios are faults that a mesh must stand, most of them faults that it once did not
// stand: after the colon is the change that mended it.
var scenarios = []struct {
	name   string
	hosts  int
	config func(c *mesh.Config)
	story  func(s story)
}{
	{"a machine runs", 3, nil, aMachineRuns},
	{"one machine that no host takes: stewards: a key that writes is held to a rate, whoever wakes it", 3, nil, noHostTakesIt},
	{"one machine that cannot start: stewards: a key that writes is held to a rate, whoever wakes it", 3, nil, itCannotStart},
	{"hosts boot apart: gossip: members that are missing are called for as long as the mesh has their record", 5, nil, hostsBootApart},
	{
		"gossip is split and Raft is well: raftstore: a replica is dead only if gossip and the leader both say so", 5,
		func(c *mesh.Config) { c.ForgetAfter = 10 * time.Minute }, gossipIsSplit,
	},
	{"a host dies and returns: stewards: a host acts on deaths that two witnesses report", 3, nil, aHostDiesAndReturns},
	{"half the hosts die and return: stewards: a host acts on deaths that two witnesses report", 4, nil, halfTheHostsDie},
	{"voters are replaced while a host is off", 3, nil, votersAreReplaced},
	{"a removed host comes back: membership: who gossips is a host only if the mesh has its record", 4, nil, aRemovedHostComesBack},
	{"a removed host was only cut off: membership: who gossips is a host only if the mesh has its record", 4, nil, aRemovedHostWasCutOff},
	{"a live host is not removed: membership: a host is removed only if two witnesses hear nothing of it", 3, nil, aLiveHostIsNotRemoved},
	{"a follower falls silent under load: raftstore: a follower that fell silent gets its entries again", 3, nil, aFollowerFallsSilent},
	{"a link is cut one way", 3, nil, aLinkIsCutOneWay},
	{"an agent is killed at each step", 3, nil, anAgentIsKilled},
}

func TestFaults(t *testing.T) {
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) {
			config := newConfig()
			if scenario.config != nil {
				scenario.config(&config)
			}
			tellStory(t, config, scenario.hosts, scenario.story)
		})
	}
}

// half is how long most faults last: longer than every back-off.
const half = 30 * time.Minute

// settled is how long a mesh may take until it agrees after its faults have ended.
const settled = 3 * time.Minute

// awaitPhase waits until an instance is in a phase.
func (s story) awaitPhase(name string, want kubevirtv1.VirtualMachineInstancePhase, limit time.Duration) {
	s.t.Helper()
	got := s.phase(name)
	for end := time.Now().Add(limit); got != want && time.Now().Before(end); got = s.phase(name) {
		time.Sleep(time.Second)
	}
	if got != want {
		s.t.Errorf("after %s the machine %s is %q, want %s", limit, name, got, want)
	}
}

// writesDuring returns how many entries are written while time passes.
func (s story) writesDuring(d time.Duration) int {
	before := len(s.History.Writes())
	time.Sleep(d)
	return len(s.History.Writes()) - before
}

func aMachineRuns(s story) {
	s.create("web")
	s.awaitPhase("web", kubevirtv1.Running, time.Minute)
	s.awaitAgreement(time.Minute)
	time.Sleep(time.Minute)
	s.expectRest(half)
}

// varying calls build with a number that differs at each call.
func varying[T any](build func(n int) T) func() T {
	n := 0
	return func() T { n++; return build(n) }
}

func noHostTakesIt(s story) {
	for _, h := range s.Hosts() {
		h.SetFaults(mesh.Faults{Offer: varying(func(n int) string { return fmt.Sprintf("only %d MiB are really free", n) })})
	}
	s.create("large")
	if n := s.writesDuring(half); n > 400 {
		s.t.Errorf("one machine that no host takes costs %d entries in half an hour", n)
	}
	s.create("other")
	for _, h := range s.Hosts() {
		h.SetFaults(mesh.Faults{})
	}
	s.awaitPhase("other", kubevirtv1.Running, 10*time.Minute)
	s.awaitPhase("large", kubevirtv1.Running, 10*time.Minute)
	s.awaitAgreement(settled)
}

func itCannotStart(s story) {
	for _, h := range s.Hosts() {
		h.SetFaults(mesh.Faults{Start: func(string) error {
			return fmt.Errorf("%s: qemu exited with status 1 (%w)", time.Now(), hypervisor.ErrConflict)
		}})
	}
	s.create("broken")
	if n := s.writesDuring(half); n > 200 {
		s.t.Errorf("one machine that cannot start costs %d entries in half an hour", n)
	}
	for _, h := range s.Hosts() {
		h.SetFaults(mesh.Faults{})
	}
	s.awaitPhase("broken", kubevirtv1.Running, 10*time.Minute)
	s.awaitAgreement(settled)
}

func hostsBootApart(s story) {
	s.create("web")
	s.awaitPhase("web", kubevirtv1.Running, time.Minute)
	for _, h := range s.Hosts() {
		h.LosePower()
	}
	s.Split([][]string{{"host1", "host2", "host3"}, {"host4", "host5"}}, mesh.AllTraffic()...)
	for _, h := range s.Hosts() {
		s.check(h.Start())
	}
	if n := s.writesDuring(half); n > 100 {
		s.t.Errorf("apart, the mesh writes %d entries in half an hour", n)
	}
	s.Heal()
	s.awaitAgreement(settled)
	s.awaitPhase("web", kubevirtv1.Running, settled)
	s.awaitReady("host1", "host2", "host3", "host4", "host5")
}

// node returns the Node of a host.
func (s story) node(name string) *corev1.Node {
	s.t.Helper()
	return getKey[*corev1.Node](s, objects.Key{Name: name})
}

// awaitReady waits until the Nodes of the hosts are ready.
func (s story) awaitReady(names ...string) {
	s.t.Helper()
	var missing []string
	for end := time.Now().Add(settled); time.Now().Before(end); time.Sleep(time.Second) {
		missing = nil
		for _, name := range names {
			if node := s.node(name); node == nil || objects.NodeCondition(node, corev1.NodeReady).Status != corev1.ConditionTrue {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 {
			return
		}
	}
	s.t.Errorf("the Nodes of %v are not ready", missing)
}

func gossipIsSplit(s story) {
	s.create("web")
	s.awaitPhase("web", kubevirtv1.Running, time.Minute)
	time.Sleep(time.Minute)
	before, nodes := s.Replicas(s.t.Context()), map[string]string{}
	for _, h := range s.Hosts() {
		nodes[h.Name] = s.node(h.Name).ResourceVersion
	}
	s.Split([][]string{{"host1", "host2", "host3"}, {"host4", "host5"}}, mesh.Gossip)
	time.Sleep(time.Minute)
	s.create("new")
	if n := s.writesDuring(half); n > 20 {
		s.t.Errorf("while gossip is split, the mesh writes %d entries in half an hour", n)
	}
	if now := s.Replicas(s.t.Context()); !slices.Equal(now, before) {
		s.t.Errorf("the replicas are %v, and were %v", now, before)
	}
	for name, version := range nodes {
		if now := s.node(name).ResourceVersion; now != version {
			s.t.Errorf("the Node of %s was written", name)
		}
	}
	s.Heal()
	s.awaitAgreement(settled)
	s.awaitPhase("new", kubevirtv1.Running, settled)
}

func aHostDiesAndReturns(s story) {
	for i := range 6 {
		s.create(fmt.Sprint("web", i))
		s.awaitPhase(fmt.Sprint("web", i), kubevirtv1.Running, time.Minute)
	}
	s.Host("host2").LosePower()
	if n := s.writesDuring(10 * time.Minute); n > 20 {
		s.t.Errorf("a dead host costs %d entries", n)
	}
	if objects.NodeCondition(s.node("host2"), corev1.NodeReady).Status != corev1.ConditionUnknown {
		s.t.Error("the Node of a dead host is ready")
	}
	s.create("late")
	s.awaitPhase("late", kubevirtv1.Running, time.Minute)
	s.check(s.Host("host2").Start())
	s.awaitAgreement(settled)
	for i := range 6 {
		s.awaitPhase(fmt.Sprint("web", i), kubevirtv1.Running, settled)
	}
	s.awaitReady("host1", "host2", "host3")
}

func halfTheHostsDie(s story) {
	s.Host("host3").LosePower()
	s.Host("host4").LosePower()
	time.Sleep(10 * time.Minute)
	s.create("late")
	s.awaitPhase("late", kubevirtv1.Running, 2*time.Minute)
	s.check(s.Host("host3").Start())
	s.check(s.Host("host4").Start())
	s.awaitAgreement(settled)
	s.awaitReady("host1", "host2", "host3", "host4")
}

// votersAreReplaced: a host that was off knows only voters that are gone. It finds today's, of
// which its copy of the state knows nothing.
func votersAreReplaced(s story) {
	s.Host("host3").LosePower()
	for _, name := range []string{"host4", "host5"} {
		h, err := s.Add(s.t.Context(), name)
		s.check(err)
		s.check(h.Start())
		s.check(h.AwaitMember(s.t.Context()))
	}
	for _, name := range []string{"host1", "host2"} {
		time.Sleep(half) // another host votes by then
		s.Host(name).LosePower()
		time.Sleep(time.Minute)
		s.check(s.Remove(s.t.Context(), name))
	}
	time.Sleep(half)
	s.check(s.Host("host3").Start())
	s.check(s.Host("host3").AwaitMember(s.t.Context()))
	s.awaitAgreement(settled)
	s.awaitReady("host3", "host4", "host5")
	// It believes today's voters, and not those whom it knew: otherwise it could do nothing that
	// cannot be undone, and would have no vote.
	ctx, cancel := context.WithTimeout(s.t.Context(), settled)
	defer cancel()
	if err := s.Host("host3").Confirm(ctx); err != nil {
		s.t.Errorf("host3 cannot confirm its state: %v", err)
	}
	time.Sleep(time.Minute) // the voters change once more
	if here, there := s.Host("host3").VoterList(), s.Host("host4").VoterList(); here != there || here < 3 {
		s.t.Errorf("host3 follows version %d of the list of voters, host4 version %d", here, there)
	}
}

func aRemovedHostComesBack(s story) {
	for i := range 8 {
		s.create(fmt.Sprint("web", i))
		s.awaitPhase(fmt.Sprint("web", i), kubevirtv1.Running, time.Minute)
	}
	s.Host("host4").LosePower()
	time.Sleep(time.Minute)
	s.check(s.Remove(s.t.Context(), "host4"))
	for i := range 8 {
		s.awaitPhase(fmt.Sprint("web", i), kubevirtv1.Running, settled)
	}
	s.check(s.Host("host4").Start())
	if err := s.Host("host4").AwaitMember(s.t.Context()); !errors.Is(err, fault.Expelled) {
		s.t.Errorf("a removed host comes back: %v", err)
	}
	s.awaitAgreement(settled)
	if n := s.writesDuring(half); n > 20 {
		s.t.Errorf("a removed host that came back costs %d entries", n)
	}
	if node := s.node("host4"); node != nil {
		s.t.Error("a removed host has a Node")
	}
	if now := s.Replicas(s.t.Context()); !slices.Equal(now, []string{"host1", "host2", "host3"}) {
		s.t.Errorf("the replicas are %v", now)
	}
}

func aRemovedHostWasCutOff(s story) {
	time.Sleep(rolesWritten) // otherwise it tries to write what is missing in its copy, too
	s.Cut("host4", mesh.AllTraffic()...)
	time.Sleep(time.Minute)
	s.check(s.Remove(s.t.Context(), "host4"))
	s.Heal()
	if n := s.writesDuring(half); n > 60 { // its own attempts, which nobody takes, among them
		s.t.Errorf("a removed host that gossips costs %d entries", n)
	}
	for i := range 8 { // each has another steward
		s.create(fmt.Sprint("web", i))
	}
	for i := range 8 {
		s.awaitPhase(fmt.Sprint("web", i), kubevirtv1.Running, settled)
	}
	s.awaitAgreement(settled)
	if guests := s.Host("host4").Guests(); len(guests) > 0 || s.node("host4") != nil {
		s.t.Errorf("a removed host has a Node, or guests: %v", guests)
	}
}

func aLiveHostIsNotRemoved(s story) {
	s.create("web")
	s.awaitPhase("web", kubevirtv1.Running, time.Minute)
	for _, traffic := range [][]mesh.Traffic{nil, {mesh.Gossip}} {
		if traffic != nil {
			s.Cut("host3", traffic...)
		}
		time.Sleep(5 * time.Minute)
		if err := s.Remove(s.t.Context(), "host3"); !errors.Is(err, fault.Conflict) {
			s.t.Errorf("a live host is removed while its %v is cut: %v", traffic, err)
		}
	}
	s.Heal()
	s.awaitAgreement(settled)
}

func aFollowerFallsSilent(s story) {
	leader := s.Leader()
	for round := range 5 {
		for _, h := range s.Hosts() {
			if h.Name != leader {
				s.Cut(h.Name, mesh.Calls)
				break
			}
		}
		for i := range 8 { // beyond the timeout of a call
			s.create(fmt.Sprintf("web%d-%d", round, i))
			time.Sleep(4 * time.Second)
		}
		s.Heal()
		s.awaitAgreement(settled)
	}
}

func aLinkIsCutOneWay(s story) {
	s.create("web")
	s.awaitPhase("web", kubevirtv1.Running, time.Minute)
	s.CutOneWay("host1", "host2", mesh.AllTraffic()...)
	if n := s.writesDuring(half); n > 60 {
		s.t.Errorf("while a link is cut, the mesh writes %d entries in half an hour", n)
	}
	// It is not placed where nobody learns of the claim: on the host that the leader cannot
	// reach, though others hear it.
	s.create("late")
	s.awaitPhase("late", kubevirtv1.Running, 2*time.Minute)
	s.Heal()
	s.awaitAgreement(settled)
	s.awaitReady("host1", "host2", "host3")
}

func anAgentIsKilled(s story) {
	for step := 1; step <= 24; step++ {
		victim := s.Hosts()[step%3]
		victim.Kill()
		s.check(victim.StartAndKillAfter(step))
		name := fmt.Sprint("web", step)
		s.create(name)
		time.Sleep(time.Minute)
		victim.Kill() // if it has not come so far
		s.check(victim.Start())
		s.awaitPhase(name, kubevirtv1.Running, settled)
	}
	s.awaitAgreement(settled)
}
