package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// parity is the ratio that counts as equal: rounds of the same system differ
// by more than that from each other.
const parity = 0.95

// load is one thing to measure, with the ratio to etcd's rate it should reach.
type load struct {
	name    string
	clients int
	do      operation
	ratio   float64
}

var loads = []load{
	{"writes", 1, put, parity},
	{"writes", 100, put, 1.5},
	{"writes", 500, put, 1.6},
	{"reads", 1, get, 1.5},
	{"reads", 100, get, 2.0},
	{"reads", 500, get, 2.0},
}

// systems are what is compared; the first is ours.
var systems = []struct {
	name  string
	start func(ctx context.Context, dir string) (*cluster, error)
}{
	{"raftstore", startRaftstore},
	{"etcd", startEtcd},
}

// results holds the samples of a load, by system and round.
type results map[string][]sample

func (r results) rates(system string) []float64 {
	return pick(r[system], func(s sample) float64 { return s.rate })
}

func (r results) p99s(system string) []float64 {
	return pick(r[system], func(s sample) float64 { return s.p99 })
}

func (r results) cpus(system string) []float64 {
	return pick(r[system], func(s sample) float64 { return s.cpu })
}

func pick(samples []sample, of func(sample) float64) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = of(s)
	}
	return out
}

// runStore compares raftstore with etcd.
func runStore(ctx context.Context, o *options, r *report) error {
	dir, err := os.MkdirTemp(o.dir, "virtmesh-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for the members: %w", err)
	}
	defer os.RemoveAll(dir)
	all := make([]results, len(loads))
	for i := range all {
		all[i] = results{}
	}
	for n := range o.rounds {
		progressf("  round %d of %d", n+1, o.rounds)
		if err := runRound(ctx, filepath.Join(dir, fmt.Sprint(n)), n, o.seconds, all); err != nil {
			return fmt.Errorf("round %d: %w", n+1, err)
		}
	}
	for i, l := range loads {
		l.report(r, all[i])
	}
	return nil
}

// runRound measures every load on members of its own, which are gone afterwards.
func runRound(ctx context.Context, dir string, n int, seconds float64, all []results) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the round's directory: %w", err)
	}
	defer os.RemoveAll(dir)
	clusters := make([]*cluster, len(systems))
	for i, s := range systems {
		c, err := s.start(ctx, dir)
		if err != nil {
			return err
		}
		defer c.stop()
		clusters[i] = c
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		if err := fill(ctx, leader); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	length := time.Duration(seconds * float64(time.Second))
	for i, l := range loads {
		for k := range clusters {
			// Whoever goes first finds the disk and the caches as the last load
			// left them, so they take turns.
			c := clusters[(k+n+i)%len(clusters)]
			s, err := l.measure(ctx, c, length)
			if err != nil {
				return fmt.Errorf("%s, %d clients, %s: %w", l.name, l.clients, c.name, err)
			}
			all[i][c.name] = append(all[i][c.name], s)
			progressf("  %s, %d clients, %s: %.0f/s, p99 %.1f ms, CPU %.1f us each", l.name, l.clients, c.name, s.rate, s.p99, s.cpu)
		}
	}
	return nil
}

func (l load) measure(ctx context.Context, c *cluster, length time.Duration) (sample, error) {
	leader, err := c.leader(ctx)
	if err != nil {
		return sample{}, err
	}
	before, err := c.cpu()
	if err != nil {
		return sample{}, err
	}
	s, err := measure(ctx, leader, l.clients, l.do, length)
	if err != nil {
		return sample{}, err
	}
	after, err := c.cpu()
	s.cpu = float64((after - before).Microseconds()) / float64(s.asked)
	return s, err
}

// report adds the medians over the rounds. Budgets are on ratios, and a ratio
// is taken within a round.
func (l load) report(r *report, found results) {
	name := fmt.Sprintf("store_%s_c%d", l.name, l.clients)
	ours, theirs := systems[0].name, systems[1].name
	r.add(figure{Name: name, Value: median(found.rates(ours)), Unit: "ops/s",
		Beside: &beside{theirs, median(found.rates(theirs))}})
	r.add(figure{Name: name + "_vs_etcd", Value: median(ratios(found.rates(ours), found.rates(theirs))), Unit: "ratio",
		Budget: atLeast(l.ratio)})
	r.add(figure{Name: name + "_cpu", Value: median(found.cpus(ours)), Unit: "us/op",
		Beside: &beside{theirs, median(found.cpus(theirs))}})
	r.add(figure{Name: name + "_p99", Value: median(found.p99s(ours)), Unit: "ms",
		Beside: &beside{theirs, median(found.p99s(theirs))}})
	r.add(figure{Name: name + "_p99_vs_etcd", Value: median(ratios(found.p99s(ours), found.p99s(theirs))), Unit: "ratio",
		Budget: atMost(1 / parity)})
}
