package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/gossip/gossiptest"
)

// simulateCommand is the argument that makes this program simulate a mesh. A
// simulation has a process of its own: simulated time is to be had only in a
// test, and running tests ends the process. It also takes its 2 GB along.
const simulateCommand = "simulate"

// simulation is a mesh to simulate, and what was seen.
type simulation struct {
	Members int     `json:"members"`
	Loss    float64 `json:"loss"`
	Kills   int     `json:"kills"`
	// Seconds is the longest time until a death was known everywhere,
	// FalseDeaths how often a member was declared dead that lived.
	Seconds     float64 `json:"seconds"`
	FalseDeaths int64   `json:"falseDeaths"`
}

// runGossip measures how long a death stays unknown to somebody.
func runGossip(ctx context.Context, _ *options, r *report) error {
	for _, c := range []struct {
		simulation
		budget float64
	}{
		{simulation{Members: 100, Loss: 0.05, Kills: 5}, 2.5},
		// One, because each takes most of a minute of CPU.
		{simulation{Members: 1000, Loss: 0.05, Kills: 1}, 8},
	} {
		s, err := c.inChild(ctx)
		if err != nil {
			return fmt.Errorf("%d members: %w", c.Members, err)
		}
		name := fmt.Sprintf("gossip_%d_members", c.Members)
		r.add(figure{Name: name + "_death_known_everywhere", Value: s.Seconds, Unit: "s", Budget: atMost(c.budget)})
		r.add(figure{Name: name + "_false_deaths", Value: float64(s.FalseDeaths), Unit: "deaths", Budget: atMost(0)})
	}
	return nil
}

func (s simulation) inChild(ctx context.Context) (simulation, error) {
	self, err := os.Executable()
	if err != nil {
		return s, fmt.Errorf("find this program: %w", err)
	}
	input, err := json.Marshal(s)
	if err != nil {
		return s, fmt.Errorf("encode the simulation: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, simulateCommand, string(input))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return s, fmt.Errorf("simulate: %w: %s", err, bytes.TrimSpace(out))
	}
	// What follows the result is the word of package testing that all is well.
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&s); err != nil {
		return s, fmt.Errorf("read the result: %w", err)
	}
	return s, nil
}

// simulate runs one simulation, prints it with what was seen, and ends the
// process.
func simulate(args []string) error {
	if len(args) != 1 {
		return errors.New("simulate: give one simulation")
	}
	var s simulation
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("read the simulation: %w", err)
	}
	// Package testing would take the arguments for its own.
	os.Args = os.Args[:1]
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "simulation", F: func(t *testing.T) {
		synctest.Test(t, s.run)
	}}}, nil, nil)
	return nil
}

func (s *simulation) run(t *testing.T) {
	m, err := gossiptest.StartSettled(s.Members, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Shutdown()
	if !m.AwaitAlive(30 * time.Second) {
		t.Fatal("the mesh did not come together")
	}
	var falseDeaths atomic.Int64
	m.WatchFalseDeaths(func(by, of string) { falseDeaths.Add(1) })
	m.Network.SetLoss(s.Loss)
	time.Sleep(5 * time.Second)
	for range s.Kills {
		took, ok := m.AwaitDeath(m.Members[len(m.Members)/2].Name(), time.Minute)
		if !ok {
			t.Fatal("a death is not known everywhere after a minute")
		}
		s.Seconds = max(s.Seconds, took.Seconds())
	}
	// What the members declared last is still on its way to the counter.
	synctest.Wait()
	s.FalseDeaths = falseDeaths.Load()
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		t.Fatal(err)
	}
}
