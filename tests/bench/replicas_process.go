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

// replicasTask is one thing to do: wait for a number of voters, rest, write entries for a
// while, or renew leases for a while.
type replicasTask struct {
	Voters int           `json:"voters,omitempty"`
	Rest   time.Duration `json:"rest,omitempty"`
	Load   time.Duration `json:"load,omitempty"`
	Renew  time.Duration `json:"renew,omitempty"`
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
		members[i] = raftstore.MemberHealth{ID: memberName(i), Addr: p.Raft, Alive: true}
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
	first := r.stores[0]
	began, cpu, sent := time.Now(), usedCPU(), r.sent.Load()
	var done int
	var err error
	switch {
	case task.Voters > 0:
		err = awaitVoters(ctx, first, task.Voters)
	case task.Rest > 0:
		time.Sleep(task.Rest)
	case task.Renew > 0:
		done, err = renewLeases(ctx, first, task.Renew)
	default:
		done, err = writeEntries(ctx, first, task.Load)
	}
	return replicaUse{
		Seconds: time.Since(began).Seconds(), Done: done,
		CPU: usedCPU() - cpu, Sent: float64(r.sent.Load() - sent),
	}, err
}

// awaitVoters waits until n replicas vote.
func awaitVoters(ctx context.Context, s *raftstore.Store, n int) error {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		voters := s.Status(ctx).Voters
		if len(voters) >= n {
			return nil
		}
		if time.Since(began) > startTimeout {
			return fmt.Errorf("after %s %v vote, wanted %d", startTimeout, voters, n)
		}
	}
}

// writeEntries writes one entry after the other for a while, and returns how many.
func writeEntries(ctx context.Context, s *raftstore.Store, length time.Duration) (n int, err error) {
	value := make([]byte, replicasEntry)
	for began := time.Now(); time.Since(began) < length; n++ {
		op := raftstore.Op{Key: fmt.Sprint("/bench/", n%1000), Value: value}
		if _, err := s.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{op}}); err != nil {
			return n, fmt.Errorf("write entry %d: %w", n, err)
		}
	}
	return n, nil
}

// renewLeases renews the leases of some hosts for a while, each one after the other, and
// returns how often.
func renewLeases(ctx context.Context, s *raftstore.Store, length time.Duration) (int, error) {
	var renewed atomic.Int64
	renewing, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for i := range leaseHosts {
		renewing.Go(func() error {
			request := raftstore.LeaseRequest{LeaseHolder: raftstore.LeaseHolder{Host: memberName(i), BootID: "boot"}, TTL: 9 * time.Second}
			for time.Since(began) < length {
				if _, err := s.RenewLease(ctx, request); err != nil {
					return fmt.Errorf("renew the lease of host %d: %w", i, err)
				}
				renewed.Add(1)
			}
			return nil
		})
	}
	err := renewing.Wait()
	return int(renewed.Load()), err
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
