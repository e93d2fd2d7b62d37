package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// registerInput is an operation on one key. Values are unique, so a condition on
// the revision of a record is one on its value.
type registerInput struct {
	key    string
	read   bool
	cas    bool
	expect string // of a cas; "" means absent
	rev    uint64 // of a cas: the revision that the record must have
	write  string // "" deletes
}

type registerOutput struct {
	value    string
	conflict bool
	unknown  bool // the write may have happened, now or later
}

// registers models independent registers.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerInput).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, value := input.(registerInput), output.(registerOutput), state.(string)
		switch {
		case in.read:
			return out.value == value, value
		case in.cas && in.expect != value:
			return out.unknown || out.conflict, value
		default:
			return !out.conflict, in.write
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

const (
	// registerKeys is how many keys there are. Each has a history of its own.
	registerKeys = 6
	// patience is how long a client waits. It is longer than most faults last: some
	// writes are to end with an unknown outcome, but each one on a key can double
	// the work of the checker.
	patience = 700 * time.Millisecond
)

// recorder collects a history.
type recorder struct {
	mu      sync.Mutex
	began   time.Time
	pace    time.Duration // how long a client waits before each operation
	history []porcupine.Operation
}

func (r *recorder) add(client int, call time.Duration, in registerInput, out registerOutput) {
	op := porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(call), Return: int64(time.Since(r.began))}
	if out.unknown {
		op.Return = math.MaxInt64
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, op)
}

// decidable gives an end time to those writes of unknown outcome whose value was read:
// such a write took effect before that read ended. Leaving them open until the end
// would mean the same but be far harder to check.
func (r *recorder) decidable() []porcupine.Operation {
	type value struct{ key, value string }
	seen := map[value]int64{} // the end of the first operation that saw it
	for _, op := range r.history {
		if key, ok := op.Input.(restart); ok {
			v := value{key.key, op.Output.(register).value}
			if at, ok := seen[v]; v.value != "" && (!ok || op.Return < at) {
				seen[v] = op.Return
			}
			continue
		}
		in, out := op.Input.(registerInput), op.Output.(registerOutput)
		v := value{in.key, out.value}
		if in.cas && !out.conflict && !out.unknown {
			v.value = in.expect
		}
		if at, ok := seen[v]; v.value != "" && (!ok || op.Return < at) {
			seen[v] = op.Return
		}
	}
	for i := range r.history {
		op := &r.history[i]
		in, ok := op.Input.(registerInput)
		if !ok {
			continue
		}
		if at, ok := seen[value{in.key, in.write}]; ok && op.Output.(registerOutput).unknown {
			op.Return = at
		}
	}
	return r.history
}

// registerClient does random operations at random replicas.
func registerClient(ctx context.Context, c *raftstoretest.Cluster, r *recorder, client int) {
	rng := rand.New(rand.NewPCG(uint64(client), 1))
	known := map[string]raftstore.Record{}
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(r.pace)
		live := c.Live()
		if len(live) == 0 {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		s := live[rng.IntN(len(live))]
		key := fmt.Sprint("/k/", rng.IntN(registerKeys))
		// The end of the test is no reason to leave an outcome unknown.
		opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		in := registerInput{key: key, read: rng.IntN(2) == 0}
		call := time.Since(r.began)
		if in.read {
			rec, _, err := s.Get(opCtx, key, raftstore.ReadOptions{})
			if err == nil || errors.Is(err, raftstore.ErrNotFound) {
				rec.Key = key
				known[key] = rec
				r.add(client, call, in, registerOutput{value: string(rec.Value)})
			}
			cancel()
			continue
		}
		in.write = fmt.Sprint(client, ".", n)
		txn := put(key, in.write)
		if last, ok := known[key]; ok && rng.IntN(2) == 0 {
			in.cas, in.expect, in.rev = true, string(last.Value), last.ModRevision
			txn.If = []raftstore.Condition{{Key: key, ModRevision: last.ModRevision}}
		}
		if rng.IntN(8) == 0 {
			in.write = ""
			txn.Ops[0] = raftstore.Op{Key: key, Delete: true}
		}
		_, err := s.Commit(opCtx, txn)
		cancel()
		switch {
		case err == nil:
			r.add(client, call, in, registerOutput{})
		case errors.As(err, new(*raftstore.ConflictError)):
			r.add(client, call, in, registerOutput{conflict: true})
		case errors.Is(err, raftstore.ErrUnknownOutcome):
			r.add(client, call, in, registerOutput{unknown: true})
		}
		// Any other error promises that nothing happened: it is not recorded, and
		// a read that sees the value proves the promise wrong.
	}
}

// wait waits. It returns false if ctx ends meanwhile.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// disturb kills leaders, cuts hosts off and heals the network, until ctx ends.
func disturb(ctx context.Context, c *raftstoretest.Cluster, hosts []string, rng *rand.Rand) {
	for wait(ctx, 300*time.Millisecond) {
		disturbOnce(ctx, c, hosts, rng)
	}
}

func disturbOnce(ctx context.Context, c *raftstoretest.Cluster, hosts []string, rng *rand.Rand) {
	victim := hosts[rng.IntN(len(hosts))]
	for _, s := range c.Live() {
		if s.IsLeader() && rng.IntN(2) == 0 {
			victim, _ = s.Leader()
		}
	}
	switch rng.IntN(4) {
	case 0:
		c.Net.Cut(c.Addr(victim))
	case 1:
		// The victim keeps one other host on its side.
		with := hosts[rng.IntN(len(hosts))]
		c.Net.Partition([]string{c.Addr(victim), c.Addr(with)})
	case 2:
		if c.Node(victim) == nil {
			return
		}
		c.Kill(victim)
		wait(ctx, time.Duration(rng.IntN(400))*time.Millisecond)
		c.Restart(victim)
	case 3:
		for _, s := range c.Live() {
			_ = s.Snapshot()
		}
	}
	wait(ctx, time.Duration(200+rng.IntN(400))*time.Millisecond)
	c.Net.Heal()
}

// shortLog makes replicas that were away for a moment need a snapshot.
func shortLog(cfg *raftstore.Config) {
	cfg.Limits.SegmentBytes = 8192
	cfg.Limits.TrailingBytes = 1
}

func TestLinearizableUnderFaults(t *testing.T) {
	c := raftstoretest.NewCluster(t, 4, raftstoretest.WithConfig(shortLog))
	checkLinearizable(t, c, func(ctx context.Context, rng *rand.Rand) {
		disturb(ctx, c, []string{"host1", "host2", "host3", "host4"}, rng)
	})
}

// TestLinearizableThroughFollowers: most replicas follow. They are promoted, demoted, fed
// by each other and need other sources all the time.
func TestLinearizableThroughFollowers(t *testing.T) {
	c := following(t, 9, raftstoretest.WithConfig(shortLog))
	hosts := []string{"host1", "host2", "host3", "host4", "host5", "host6", "host7", "host8", "host9"}
	checkLinearizable(t, c, func(ctx context.Context, rng *rand.Rand) { disturb(ctx, c, hosts, rng) })
}

// checkLinearizable disturbs the hosts while clients read and write at all of them.
func checkLinearizable(t *testing.T, c *raftstoretest.Cluster, disturb func(context.Context, *rand.Rand)) {
	length := 8 * time.Second
	if testing.Short() {
		length = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	r := &recorder{began: time.Now()}
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() { registerClient(ctx, c, r, client) })
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed of the faults: %d", seed)
	disturb(ctx, rand.New(rand.NewPCG(seed, 0)))
	wg.Wait()
	c.Net.Heal()
	// What is left must serve, and show one state.
	for _, s := range c.Live() {
		raftstoretest.WaitServing(t, s)
	}
	call := time.Since(r.began)
	for i, s := range c.Live() {
		for k := range registerKeys {
			key := fmt.Sprint("/k/", k)
			rec, _, err := s.Get(t.Context(), key, raftstore.ReadOptions{})
			if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
				t.Fatal(err)
			}
			r.add(100+i, call, registerInput{key: key, read: true}, registerOutput{value: string(rec.Value)})
		}
	}
	var writes, unknown int
	for _, op := range r.history {
		if !op.Input.(registerInput).read {
			writes++
		}
		if op.Output.(registerOutput).unknown {
			unknown++
		}
	}
	t.Logf("%d operations, %d writes, %d of unknown outcome", len(r.history), writes, unknown)
	switch porcupine.CheckOperationsTimeout(registers, r.decidable(), 2*time.Minute) {
	case porcupine.Illegal:
		t.Error("the history is not linearizable")
	case porcupine.Unknown:
		t.Error("the history could not be decided in time")
	}
}
