package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	// replicasEntry is the size of an entry in bytes: about that of an instance.
	replicasEntry = 8 << 10
	// replicasLoad and replicasRest are how long a leader is measured with load and
	// without, which shows what its connections cost by themselves.
	replicasLoad = 5 * time.Second
	replicasRest = 5 * time.Second
	// replicasSettle belongs to the load: those that the leader feeds get the last entries.
	replicasSettle = 2 * time.Second
	// replicasLogs bounds what the logs of a group take, in bytes. They are in memory, and so
	// is what each replica makes of its log.
	replicasLogs = 1 << 30
	// replicasVoters is how many of them vote.
	replicasVoters = 5
	// replicasFeeds is how many hosts a host feeds besides.
	replicasFeeds = 4
	// rehangBudget is in seconds. A source is silent for two before a follower leaves it.
	rehangBudget = 6
	// stormEntries is how many entries are written while the hosts are off, stormBudget how
	// many seconds they may take to have them. They share the processors of this machine.
	stormEntries = 100
	stormBudget  = 60
	// stormCopies may be more than writes cost at rest: those that search change their sources.
	stormCopies = 2 * (replicasVoters + replicasFeeds)
)

// leaseHosts is how many hosts renew leases. With leases of 9 seconds, renewed three times
// in that time, they need leaseRenewals a second; the budget is ten times that.
const (
	leaseHosts    = 500
	leaseRenewals = leaseHosts * 3 / 9
)

// sizes are the sizes of the groups that are measured, in rising order.
type sizes []int

// String implements flag.Value.
func (s *sizes) String() string {
	texts := make([]string, len(*s))
	for i, n := range *s {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// Set implements flag.Value.
func (s *sizes) Set(text string) error {
	*s = nil
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < members || n > maxReplicas || len(*s) > 0 && n <= (*s)[len(*s)-1] {
			return fmt.Errorf("%q: give numbers from %d to %d in rising order, with commas between", text, members, maxReplicas)
		}
		*s = append(*s, n)
	}
	return nil
}

// replicaUse is what was done in a task, and what the process used for it.
type replicaUse struct {
	Seconds float64 `json:"seconds"`
	Done    int     `json:"done"`
	// CPU is in seconds, Sent in bytes.
	CPU  float64 `json:"cpu"`
	Sent float64 `json:"sent"`
	// Revision is that of the last entry written, Node the one that was asked for.
	Revision uint64 `json:"revision,omitempty"`
	Node     string `json:"node,omitempty"`
}

// leaderCost is what an entry costs a leader, without what it costs to lead at rest.
type leaderCost struct {
	rate, cpu, copies, restCPU float64
}

// and returns what was used in two times one after the other.
func (u replicaUse) and(next replicaUse) replicaUse {
	return replicaUse{Seconds: u.Seconds + next.Seconds, Done: u.Done + next.Done, CPU: u.CPU + next.CPU, Sent: u.Sent + next.Sent}
}

// costOf compares a load, and what belongs to it after the last entry, with the rests before
// and after.
func costOf(load, settle, rest replicaUse) leaderCost {
	n := max(float64(load.Done), 1)
	all := load.and(settle)
	return leaderCost{
		rate:    n / load.Seconds,
		cpu:     (all.CPU - rest.CPU/rest.Seconds*all.Seconds) / n,
		copies:  (all.Sent - rest.Sent/rest.Seconds*all.Seconds) / n / replicasEntry,
		restCPU: rest.CPU / rest.Seconds,
	}
}

// runReplicas measures groups of rising size, and in the largest what followers do when
// hosts lose their power.
func runReplicas(ctx context.Context, o *options, r *report) error {
	cpu := map[int]float64{}
	for i, n := range o.sizes {
		if err := measureGroup(ctx, o, r, n, cpu, i == len(o.sizes)-1); err != nil {
			return fmt.Errorf("%d replicas: %w", n, err)
		}
	}
	largest := o.sizes[len(o.sizes)-1]
	if nine := cpu[9]; nine > 0 && largest > 9 {
		r.add(figure{Name: fmt.Sprintf("replicas_%d_leader_cpu_vs_9", largest), Value: cpu[largest] / nine, Unit: "ratio", Budget: atMost(2)})
	}
	return nil
}

// measureGroup measures a group of n replicas, and keeps the CPU time of an entry in cpu.
func measureGroup(ctx context.Context, o *options, r *report, n int, cpu map[int]float64, largest bool) error {
	g, err := startGroup(ctx, o, n)
	if err != nil {
		return err
	}
	defer g.stop()
	cost, err := g.measureLeader()
	if err != nil {
		return err
	}
	cpu[n] = cost.cpu
	name := fmt.Sprintf("replicas_%d_", n)
	r.add(figure{Name: name + "entries", Value: cost.rate, Unit: "entries/s"})
	r.add(figure{Name: name + "leader_cpu_per_entry", Value: cost.cpu * 1e6, Unit: "us"})
	r.add(figure{Name: name + "leader_copies_per_entry", Value: cost.copies, Unit: "copies", Budget: atMost(float64(min(n, replicasVoters+replicasFeeds)))})
	r.add(figure{Name: name + "leader_cpu_at_rest", Value: cost.restCPU * 1000, Unit: "ms/s"})
	switch {
	case n == members:
		return g.measureLeases(r)
	case largest && g.far != nil:
		if err := g.measureRehang(r, name); err != nil {
			return err
		}
		return g.measureStorm(ctx, r, name)
	}
	return nil
}

// measureLeader measures what an entry costs the leader.
func (g *replicaGroup) measureLeader() (leaderCost, error) {
	var before, load, settle, after replicaUse
	most := replicasLogs / replicasEntry / g.size
	if err := errors.Join(
		g.leader.do(replicasTask{Rest: replicasRest}, &before),
		g.leader.do(replicasTask{Load: replicasLoad, Entries: most}, &load),
		g.leader.do(replicasTask{Rest: replicasSettle}, &settle),
		g.leader.do(replicasTask{Rest: replicasRest}, &after),
	); err != nil {
		return leaderCost{}, err
	}
	progressf("  %d replicas: %d entries in %.1f s", g.size, load.Done, load.Seconds)
	return costOf(load, settle, before.and(after)), nil
}

// measureLeases measures renewals at a follower of Raft, as most hosts are.
func (g *replicaGroup) measureLeases(r *report) error {
	var use replicaUse
	if err := g.near.do(replicasTask{Renew: replicasRest}, &use); err != nil {
		return err
	}
	r.add(figure{Name: "leases_500_hosts_renewals", Value: float64(use.Done) / use.Seconds, Unit: "renewals/s", Budget: atLeast(10 * leaseRenewals)})
	return nil
}

// measureRehang lets a follower that feeds others lose its power, and measures how long it
// takes until an entry that is written then is everywhere else.
func (g *replicaGroup) measureRehang(r *report, name string) error {
	if err := g.awaitAll(); err != nil {
		return err
	}
	var busiest, written, reached replicaUse
	if err := g.leader.do(replicasTask{Busiest: g.farNodes()}, &busiest); err != nil {
		return err
	}
	if busiest.Done == 0 {
		return errors.New("no follower of the far process feeds others, so none can lose its power")
	}
	if err := g.far.do(replicasTask{Cut: busiest.Node}, &replicaUse{}); err != nil {
		return err
	}
	if err := g.leader.do(replicasTask{Load: replicasLoad, Entries: 1}, &written); err != nil {
		return err
	}
	if err := g.far.do(replicasTask{Reach: written.Revision}, &reached); err != nil {
		return err
	}
	progressf("  %s, which fed %d, has lost its power", busiest.Node, busiest.Done)
	r.add(figure{Name: name + "rehang", Value: written.Seconds + reached.Seconds, Unit: "s", Budget: atMost(rehangBudget)})
	return nil
}

// measureStorm lets nearly all hosts lose their power, and measures how long they take, once
// all are switched on at the same moment, to have what was written meanwhile, and what they
// get of it from the leader.
func (g *replicaGroup) measureStorm(ctx context.Context, r *report, name string) error {
	g.far.stop()
	var written, before, after, reached replicaUse
	if err := errors.Join(
		g.leader.do(replicasTask{Load: time.Minute, Entries: stormEntries}, &written),
		g.leader.do(replicasTask{Sent: true}, &before),
	); err != nil {
		return err
	}
	if written.Done != stormEntries {
		return fmt.Errorf("only %d of %d entries were written while the hosts were off", written.Done, stormEntries)
	}
	began := time.Now()
	if err := g.startFar(ctx); err != nil {
		return err
	}
	if err := g.far.do(replicasTask{Reach: written.Revision}, &reached); err != nil {
		return err
	}
	if err := g.leader.do(replicasTask{Sent: true}, &after); err != nil {
		return err
	}
	r.add(figure{Name: name + "boot_storm", Value: time.Since(began).Seconds(), Unit: "s", Budget: atMost(stormBudget)})
	r.add(figure{
		Name: name + "boot_storm_leader_copies", Value: (after.Sent - before.Sent) / stormEntries / replicasEntry,
		Unit: "copies", Budget: atMost(stormCopies),
	})
	return nil
}
