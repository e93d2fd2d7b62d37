package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"virtmesh/raftstore"
)

// replicasSpec tells a process which replicas of a group to be. It comes first on its
// standard input; tasks follow.
type replicasSpec struct {
	First int            `json:"first"`
	Count int            `json:"count"`
	Dir   string         `json:"dir"`
	Peers []memberPlaces `json:"peers"`
}

// replicasTask is one thing to do: wait for a number of voters, rest, or write for a
// while.
type replicasTask struct {
	Voters int           `json:"voters,omitempty"`
	Rest   time.Duration `json:"rest,omitempty"`
	Load   time.Duration `json:"load,omitempty"`
}

// replicas are those of one process.
type replicas struct {
	stores []*raftstore.Store
	sent   atomic.Int64 // bytes that all of them sent
}

// joinsAtOnce is how many replicas join at the same time.
const joinsAtOnce = 16

// runReplicaProcess is some replicas of a group until its input ends.
func runReplicaProcess(ctx context.Context, input io.Reader, output io.Writer) error {
	decoder, encoder := json.NewDecoder(input), json.NewEncoder(output)
	var spec replicasSpec
	if err := decoder.Decode(&spec); err != nil {
		return fmt.Errorf("read what to be: %w", err)
	}
	var r replicas
	if err := r.open(ctx, spec); err != nil {
		return err
	}
	// The process is killed at the end, and nothing of its replicas is needed any more.
	if err := encoder.Encode(replicaUse{}); err != nil {
		return fmt.Errorf("say that the replicas are there: %w", err)
	}
	for {
		var task replicasTask
		if err := decoder.Decode(&task); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read what to do: %w", err)
		}
		use, err := r.measure(ctx, task)
		if err != nil {
			return err
		}
		if err := encoder.Encode(use); err != nil {
			return fmt.Errorf("say what was done: %w", err)
		}
	}
}

// open opens the replicas. All but the first of the group join it.
func (r *replicas) open(ctx context.Context, spec replicasSpec) error {
	members := make([]raftstore.MemberHealth, len(spec.Peers))
	for i, p := range spec.Peers {
		members[i] = raftstore.MemberHealth{ID: memberName(i), Addr: p.Raft, Alive: true, FeatureLevel: 1}
	}
	r.stores = make([]*raftstore.Store, spec.Count)
	joining, ctx := errgroup.WithContext(ctx)
	joining.SetLimit(joinsAtOnce)
	for i := range spec.Count {
		joining.Go(func() error {
			cfg, err := memberConfig(memberSpec{Index: spec.First + i, Dir: dirOf(spec.Dir, spec.First+i), Peers: spec.Peers})
			if err != nil {
				return err
			}
			cfg.Members = func() []raftstore.MemberHealth { return members }
			cfg.Limits.SegmentBytes, cfg.Voters.Max = 1<<20, replicasVoters
			cfg.Raft, cfg.RPC = &counted{cfg.Raft, &r.sent}, &counted{cfg.RPC, &r.sent}
			store, err := raftstore.Open(context.WithoutCancel(ctx), cfg)
			if err != nil {
				return err
			}
			r.stores[i] = store
			if spec.First+i == 0 {
				return nil
			}
			return store.Join(ctx, []string{spec.Peers[0].Raft})
		})
	}
	return joining.Wait()
}

// measure carries out a task at the first replica, and says what it used.
func (r *replicas) measure(ctx context.Context, task replicasTask) (replicaUse, error) {
	leader := r.stores[0]
	began, cpu, sent := time.Now(), usedCPU(), r.sent.Load()
	entries := 0
	switch {
	case task.Voters > 0:
		for len(leader.Status(ctx).Voters) < task.Voters {
			if time.Since(began) > startTimeout {
				return replicaUse{}, fmt.Errorf("after %s %v vote, wanted %d", startTimeout, leader.Status(ctx).Voters, task.Voters)
			}
			time.Sleep(100 * time.Millisecond)
		}
	case task.Rest > 0:
		time.Sleep(task.Rest)
	default:
		value := make([]byte, replicasEntry)
		for ; time.Since(began) < task.Load; entries++ {
			op := raftstore.Op{Key: fmt.Sprint("/bench/", entries%1000), Value: value}
			if _, err := leader.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{op}}); err != nil {
				return replicaUse{}, fmt.Errorf("write entry %d: %w", entries, err)
			}
		}
	}
	return replicaUse{
		Seconds: time.Since(began).Seconds(), Entries: entries,
		CPU: usedCPU() - cpu, Sent: float64(r.sent.Load() - sent),
	}, nil
}

// usedCPU returns the CPU time of this process in seconds.
func usedCPU() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails only for bad arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// counted counts what is sent over the connections of a stream layer.
type counted struct {
	raftstore.StreamLayer
	sent *atomic.Int64
}

var _ raftstore.StreamLayer = (*counted)(nil)

// Accept implements raftstore.StreamLayer.
func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.StreamLayer.Accept()
	return countedConn{conn, c.sent}, err
}

// Dial implements raftstore.StreamLayer.
func (c *counted) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	conn, err := c.StreamLayer.Dial(addr, timeout)
	return countedConn{conn, c.sent}, err
}

type countedConn struct {
	net.Conn
	sent *atomic.Int64
}

// Write implements net.Conn.
func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}
