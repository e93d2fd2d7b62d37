package raftstore_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// restart is an operation on one key: a group was founded from a copy, which may lack the
// last writes.
type restart struct{ key string }

// register is a register of a group that is founded anew again and again.
type register struct {
	value string
	began uint64 // the revision at which the group's timeline began
	past  string // the earlier values, each after a bar
}

// through models registers through recoveries. A new group begins with a value that the
// register once had. A condition on a revision of before conflicts, whatever the record
// holds now.
var through = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key, _ := op.Input.(restart)
			if in, ok := op.Input.(registerInput); ok {
				key.key = in.key
			}
			byKey[key.key] = append(byKey[key.key], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		r := state.(register)
		if _, ok := input.(restart); ok {
			next := output.(register)
			once := next.value == r.value || next.value == "" || slices.Contains(strings.Split(r.past, "|"), next.value)
			return once, next
		}
		in, out := input.(registerInput), output.(registerOutput)
		fits := in.expect == r.value && (in.expect == "" || in.rev >= r.began)
		switch {
		case in.read:
			return out.value == r.value, state
		case in.cas && !fits:
			return out.unknown || out.conflict, state
		default:
			return !out.conflict, register{in.write, r.began, r.past + "|" + r.value}
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// recovering is a group whose hosts are lost and recovered.
type recovering struct {
	*raftstoretest.Cluster
	t *testing.T
	r *recorder
}

// founded returns what a new group begins with, as its founder sees it.
func (g *recovering) founded(state map[string]register) raftstore.Founding {
	return func(view raftstore.View, revision uint64) ([]raftstore.Op, error) {
		for k := range registerKeys {
			key := fmt.Sprint("/k/", k)
			rec, _ := view.Get(key)
			state[key] = register{value: string(rec.Value), began: revision}
		}
		return nil, nil
	}
}

// found founds a new group on host1, which is not running, and lets the others join it,
// at first with the data that they had.
func (g *recovering) found(found func(cfg raftstore.Config, founding raftstore.Founding) error) {
	g.t.Helper()
	call, state := time.Since(g.r.began), map[string]register{}
	if err := found(g.Config("host1"), g.founded(state)); err != nil {
		g.t.Fatal(err)
	}
	g.r.mu.Lock()
	for key, begins := range state {
		g.r.history = append(g.r.history, porcupine.Operation{ClientId: 50, Input: restart{key}, Output: begins, Call: int64(call), Return: int64(time.Since(g.r.began))})
	}
	g.r.mu.Unlock()
	g.Net.Heal()
	raftstoretest.WaitServing(g.t, g.Restart("host1"))
	for _, id := range []string{"host2", "host3"} {
		old := g.Restart(id)
		select {
		case <-old.Failed():
		case <-time.After(raftstoretest.ReadyTimeout):
			g.t.Fatalf("%s goes on with the data of before", id)
		}
		g.Kill(id)
		if err := raftstore.Empty(g.Config(id).DataDir); err != nil {
			g.t.Fatal(err)
		}
		if err := g.Restart(id).Join(g.t.Context(), []string{g.Addr("host1")}); err != nil {
			g.t.Fatal(err)
		}
	}
}

// loseMajority recovers from host1, which was cut off before the others died.
func (g *recovering) loseMajority(chance *rand.Rand) {
	g.Net.Cut(g.Addr("host1"))
	time.Sleep(time.Duration(chance.IntN(1000)) * time.Millisecond)
	for _, id := range []string{"host2", "host3", "host1"} {
		g.Kill(id)
	}
	g.found(func(cfg raftstore.Config, founding raftstore.Founding) error {
		_, err := raftstore.RecoverCluster(g.t.Context(), cfg, founding)
		return err
	})
}

// loseAll restores a backup that is some time old.
func (g *recovering) loseAll(chance *rand.Rand) {
	var backup bytes.Buffer
	if _, err := g.Live()[chance.IntN(3)].Backup(g.t.Context(), &backup); err != nil {
		g.t.Fatal(err)
	}
	time.Sleep(time.Duration(chance.IntN(1000)) * time.Millisecond)
	for _, id := range []string{"host1", "host2", "host3"} {
		g.Kill(id)
	}
	g.found(func(cfg raftstore.Config, founding raftstore.Founding) error {
		if err := raftstore.Empty(cfg.DataDir); err != nil {
			return err
		}
		_, err := raftstore.RestoreBackup(g.t.Context(), cfg, &backup, founding)
		return err
	})
}

// Clients that read and write while their group is lost and recovered, from a copy that
// lags or from a backup, see one history: some of the last writes never happened, and
// nothing else is undone, or done on the word of what was undone.
func TestLinearizableThroughRecovery(t *testing.T) {
	r := &recorder{pace: 20 * time.Millisecond}
	synctest.Test(t, func(t *testing.T) {
		r.began = time.Now()
		g := &recovering{raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(shortLog)), t, r}
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for client := range 4 {
			clients.Go(func() { registerClient(ctx, g.Cluster, r, client) })
		}
		chance := rand.New(rand.NewPCG(1, 0))
		for round := range 6 {
			time.Sleep(time.Duration(chance.IntN(1500)) * time.Millisecond)
			if round%2 == 0 {
				g.loseMajority(chance)
			} else {
				g.loseAll(chance)
			}
		}
		time.Sleep(time.Second)
		cancel()
		clients.Wait()
	})
	lost := 0
	for _, op := range r.history {
		if _, ok := op.Input.(restart); ok {
			lost++
		}
	}
	t.Logf("%d operations, %d restarts", len(r.history), lost/registerKeys)
	if len(r.history) < 500 || lost != 6*registerKeys {
		t.Errorf("too little happened: %d operations, %d restarts", len(r.history), lost/registerKeys)
	}
	switch porcupine.CheckOperationsTimeout(through, r.decidable(), time.Minute) {
	case porcupine.Illegal:
		t.Error("the history is not linearizable")
	case porcupine.Unknown:
		t.Error("the history could not be decided in time")
	}
}
