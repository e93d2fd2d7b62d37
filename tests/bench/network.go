package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

const networkCommand = "network-member"

// Ways to make the network of a namespace.
const (
	// networkPlain is a bridge with masquerading for what leaves it, and nothing else.
	networkPlain = "plain"
	// networkGuarded is what an agent makes: the packet filter and the gate.
	networkGuarded = "guarded"
	// networkUngated is the same without the gate.
	networkUngated = "ungated"
)

// networkCost is what the packets of a round took.
type networkCost struct {
	// Inside is from guest to guest, Outside from a guest to the hosts' network.
	Inside, Outside packetCost
}

// packetCost is what a packet took.
type packetCost struct {
	CPU float64 // ns of processor time
	PPS float64 // packets that arrived in a second
}

// runNetwork measures what the packet filter and the gate of guests' networks cost beside a
// bridge without them. Each network is in a namespace of its own, in a process of its own.
func runNetwork(ctx context.Context, o *options, r *report) error {
	ways := []string{networkPlain, networkUngated, networkGuarded}
	costs := map[string][]networkCost{}
	for round := range o.rounds {
		for i := range ways {
			way := ways[(i+round)%len(ways)]
			cost, err := measureNetwork(ctx, way)
			if err != nil {
				return fmt.Errorf("%s network: %w", way, err)
			}
			costs[way] = append(costs[way], cost)
		}
	}
	middle := func(way string, of func(networkCost) float64) float64 {
		var values []float64
		for _, cost := range costs[way] {
			values = append(values, of(cost))
		}
		return median(values)
	}
	add := func(name, way, unit string, of func(networkCost) float64) {
		r.add(figure{Name: name, Value: middle(way, of), Unit: unit, Beside: &beside{"plain bridge", middle(networkPlain, of)}})
	}
	insideCPU := func(c networkCost) float64 { return c.Inside.CPU }
	outsideCPU := func(c networkCost) float64 { return c.Outside.CPU }
	for _, way := range ways {
		add("network_"+way+"_guest_cpu", way, "ns/packet", insideCPU)
		add("network_"+way+"_guest_pps", way, "packets/s", func(c networkCost) float64 { return c.Inside.PPS })
		add("network_"+way+"_out_cpu", way, "ns/packet", outsideCPU)
		add("network_"+way+"_out_pps", way, "packets/s", func(c networkCost) float64 { return c.Outside.PPS })
	}
	r.add(figure{Name: "network_filter_out_cpu", Value: middle(networkUngated, outsideCPU) - middle(networkPlain, outsideCPU), Unit: "ns/packet"})
	r.add(figure{Name: "network_gate_out_cpu", Value: middle(networkGuarded, outsideCPU) - middle(networkUngated, outsideCPU), Unit: "ns/packet"})
	return nil
}

// measureNetwork runs this program in a network namespace of its own.
func measureNetwork(ctx context.Context, way string) (networkCost, error) {
	self, err := os.Executable()
	if err != nil {
		return networkCost{}, fmt.Errorf("find the running program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, networkCommand, way)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	if err != nil {
		return networkCost{}, fmt.Errorf("measure in a namespace of its own (it needs root): %w", err)
	}
	var cost networkCost
	if err := json.Unmarshal(out, &cost); err != nil {
		return networkCost{}, fmt.Errorf("read what it measured: %w", err)
	}
	return cost, nil
}

// runNetworkMember makes a network in this namespace, measures it and prints the result.
func runNetworkMember(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one argument, not %q", networkCommand, args)
	}
	bed, err := makeNetworkBed(ctx, args[0])
	if err != nil {
		return err
	}
	defer bed.close()
	var cost networkCost
	if cost.Inside, err = bed.measure(bed.guests[0], bed.guests[1], bed.inside()); err != nil {
		return fmt.Errorf("from guest to guest: %w", err)
	}
	outside, err := bed.outside()
	if err != nil {
		return err
	}
	if cost.Outside, err = bed.measure(bed.guests[0], bed.uplink, outside); err != nil {
		return fmt.Errorf("from a guest to the hosts' network: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(cost)
}
