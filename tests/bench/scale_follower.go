package main

import (
	"context"
	"fmt"
	"os"

	"virtmesh/agent/identity"
)

const (
	// joinBudget is in seconds, followerBudget in percent of a core.
	joinBudget     = 30
	followerBudget = 5
)

// runFollower measures what it takes a host to join a large mesh, and to follow it while
// nothing happens.
func runFollower(ctx context.Context, o *options, r *report) error {
	dir, err := os.MkdirTemp(o.dir, "bench-follower-")
	if err != nil {
		return fmt.Errorf("make a place for the replicas: %w", err)
	}
	defer os.RemoveAll(dir)
	replicas := replicaPlaces(2)
	ca, err := identity.NewCA("bench")
	if err != nil {
		return fmt.Errorf("make the CA of the hosts: %w", err)
	}
	specs := make([]agentSpec, len(replicas))
	for i, p := range replicas {
		specs[i] = agentSpec{Dir: dirOf(dir, i), Hosts: scaleHosts, Index: i, Replicas: replicas}
		if err := makeIdentity(ca, specs[i].Dir, identity.NewNode(hostName(i)), p.Raft); err != nil {
			return fmt.Errorf("make the identity of %s: %w", hostName(i), err)
		}
	}
	p := population{Hosts: scaleHosts, Machines: 10_000}
	filling := specs[0]
	filling.Fill = p
	fill, err := startAgent(ctx, filling)
	if err != nil {
		return err
	}
	if err := fill.Wait(); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	leader, err := startAgent(ctx, specs[0])
	if err != nil {
		return err
	}
	defer leader.end()
	if err := leader.awaitReady(); err != nil {
		return err
	}
	follower, err := startAgent(ctx, specs[1])
	if err != nil {
		return err
	}
	defer follower.end()
	if err := follower.awaitReady(); err != nil {
		return err
	}
	return follower.measureFollowing(ctx, r, fmt.Sprintf("follower_%d_vms_%d_hosts_", p.Machines, p.Hosts))
}

// measureFollowing tells how a host joined, and measures what it uses at rest.
func (a *agentProcess) measureFollowing(ctx context.Context, r *report, name string) error {
	r.add(figure{Name: name + "join", Value: a.JoinSeconds, Unit: "s", Budget: atMost(joinBudget)})
	r.add(figure{Name: name + "join_received", Value: a.Received / (1 << 20), Unit: "MiB"})
	if err := a.rest(ctx, usedTime); err != nil {
		return err
	}
	before, err := a.cpu()
	if err != nil {
		return err
	}
	if err := a.rest(ctx, restTime); err != nil {
		return err
	}
	after, err := a.cpu()
	if err != nil {
		return err
	}
	r.add(figure{
		Name: name + "rest_cpu", Value: 100 * (after - before).Seconds() / restTime.Seconds(),
		Unit: "% of a core", Budget: atMost(followerBudget),
	})
	return nil
}
