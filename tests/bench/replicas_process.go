package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"virtmesh/raftstore"
)

// placesTimeout bounds how long replicas take to find their places and to get what was
// written.
const placesTimeout = 3 * time.Minute

// replicasSpec tells a process which replicas of a group to be. It comes first on its
// standard input; tasks follow.
type replicasSpec struct {
	First int            `json:"first"`
	Count int            `json:"count"`
	Dir   string         `json:"dir"`
	Peers []memberPlaces `json:"peers"`
	// Nice is the nice value of the process.
	Nice int `json:"nice"`
}

// replicasTask is one thing to do.
type replicasTask struct {
	// Voters and Known: wait until so many vote, and all others that are known follow.
	Voters int `json:"voters,omitempty"`
	Known  int `json:"known,omitempty"`
	// Rest for a while.
	Rest time.Duration `json:"rest,omitempty"`
	// Load: write entries for a while, but not more than Entries.
	Load    time.Duration `json:"load,omitempty"`
	Entries int           `json:"entries,omitempty"`
	// Renew leases for a while.
	Renew time.Duration `json:"renew,omitempty"`
	// Busiest: find the one among these nodes that feeds the most.
	Busiest []string `json:"busiest,omitempty"`
	// Cut the power of a node.
	Cut string `json:"cut,omitempty"`
	// Reach a revision at all replicas that have power.
	Reach uint64 `json:"reach,omitempty"`
	// Sent: say how much was sent since the start.
	Sent bool `json:"sent,omitempty"`
}

// replicas are those of one process.
type replicas struct {
	first   int
	stores  []*raftstore.Store
	off     []atomic.Bool // whether each has lost its power
	traffic traffic       // of all of them
}

// runReplicaProcess is some replicas of a group until its input ends.
func runReplicaProcess(ctx context.Context, input io.Reader, output io.Writer) error {
	decoder, encoder := json.NewDecoder(input), json.NewEncoder(output)
	var spec replicasSpec
	if err := decoder.Decode(&spec); err != nil {
		return fmt.Errorf("read what to be: %w", err)
	}
	r := replicas{first: spec.First, stores: make([]*raftstore.Store, spec.Count), off: make([]atomic.Bool, spec.Count)}
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

// open opens the replicas, all at once. All but the first of the group join it.
func (r *replicas) open(ctx context.Context, spec replicasSpec) error {
	joining, ctx := errgroup.WithContext(ctx)
	for i := range spec.Count {
		joining.Go(func() error {
			cfg, err := r.configure(spec, i)
			if err != nil {
				return err
			}
			if r.stores[i], err = raftstore.Open(context.WithoutCancel(ctx), cfg); err != nil {
				return err
			}
			if spec.First+i == 0 {
				return nil
			}
			return r.stores[i].Join(ctx, []string{spec.Peers[0].Raft})
		})
	}
	return joining.Wait()
}

// configure returns the configuration of replica i of the process.
func (r *replicas) configure(spec replicasSpec, i int) (raftstore.Config, error) {
	cfg, err := memberConfig(memberSpec{Index: spec.First + i, Dir: dirOf(spec.Dir, spec.First+i), Peers: spec.Peers})
	if err != nil {
		return cfg, err
	}
	if cfg.Signer, err = openNotary(cfg.DataDir); err != nil {
		return cfg, err
	}
	members := make([]raftstore.MemberHealth, len(spec.Peers))
	for i, p := range spec.Peers {
		members[i] = raftstore.MemberHealth{ID: memberName(i), Addr: p.Raft, Alive: true}
	}
	cfg.Members = func() []raftstore.MemberHealth { return members }
	cfg.FeatureLevel.Highest = max(cfg.FeatureLevel.Highest, raftstore.FollowersLevel)
	cfg.Limits.SegmentBytes, cfg.Voters.Max = 1<<20, replicasVoters
	// From it follows how long a follower may be silent, whose reports pass over several others.
	cfg.Voters.Update = raftstore.DefaultConfig().Voters.Update
	cfg.Raft, cfg.RPC = &hostLayer{cfg.Raft, &r.traffic, &r.off[i]}, &hostLayer{cfg.RPC, &r.traffic, &r.off[i]}
	return cfg, nil
}

// measure carries out a task, and says what it used.
func (r *replicas) measure(ctx context.Context, task replicasTask) (replicaUse, error) {
	began, cpu, sent := time.Now(), usedCPU(), r.traffic.sent.Load()
	use, err := r.carryOut(ctx, task)
	use.Seconds, use.CPU = time.Since(began).Seconds(), usedCPU()-cpu
	if use.Sent = float64(r.traffic.sent.Load()); !task.Sent {
		use.Sent -= float64(sent)
	}
	return use, err
}

// carryOut carries out a task, at the first replica of the process unless it names others.
func (r *replicas) carryOut(ctx context.Context, task replicasTask) (use replicaUse, err error) {
	first := r.stores[0]
	switch {
	case task.Voters > 0:
		err = awaitPlaces(ctx, first, task.Voters, task.Known)
	case task.Rest > 0:
		time.Sleep(task.Rest)
	case task.Renew > 0:
		use.Done, err = renewLeases(ctx, first, task.Renew)
	case task.Load > 0:
		use.Done, use.Revision, err = writeEntries(ctx, first, task.Load, task.Entries)
	case len(task.Busiest) > 0:
		use.Node, use.Done = busiest(first.Status(ctx).Peers, task.Busiest)
	case task.Cut != "":
		err = r.cut(task.Cut)
	case task.Reach > 0:
		err = r.reach(ctx, task.Reach)
	case !task.Sent:
		err = errors.New("there is nothing to do")
	}
	return use, err
}

// awaitPlaces waits until some replicas vote and all others follow and have what is
// committed, known ones in all.
func awaitPlaces(ctx context.Context, leader *raftstore.Store, voters, known int) error {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		var vote, follow int
		var other []raftstore.PeerStatus
		for _, p := range leader.Status(ctx).Peers {
			switch {
			case p.Voter:
				vote++
			case p.Follower && p.Healthy && p.Lag == 0:
				follow++
			default:
				other = append(other, p)
			}
		}
		if vote == voters && vote+follow == known {
			return nil
		}
		if time.Since(began) > placesTimeout {
			return fmt.Errorf("after %s %d replicas vote and %d follow, wanted %d of %d to vote and the others to follow; these do neither: %+v",
				placesTimeout, vote, follow, voters, known, other[:min(len(other), 5)])
		}
	}
}

// busiest returns the one among some nodes that feeds the most followers, and how many.
func busiest(peers []raftstore.PeerStatus, among []string) (node string, feeds int) {
	fed := map[string]int{}
	for _, p := range peers {
		fed[p.Source]++
	}
	for _, name := range among {
		if fed[name] > feeds {
			node, feeds = name, fed[name]
		}
	}
	return node, feeds
}

// cut ends what a node of this process sends and receives, without a word to anybody.
func (r *replicas) cut(node string) error {
	for i := range r.stores {
		if memberName(r.first+i) == node {
			r.off[i].Store(true)
			return nil
		}
	}
	return fmt.Errorf("cut the power of %q: it is not here", node)
}

// reach waits until all replicas that have power have a revision.
func (r *replicas) reach(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, placesTimeout)
	defer cancel()
	for i, s := range r.stores {
		for !r.off[i].Load() && s.Revision() < revision {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is at revision %d, wanted %d: %w", memberName(r.first+i), s.Revision(), revision, ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// writeEntries writes one entry after the other for a while, but not more than most. It
// returns how many, and the revision of the last one.
func writeEntries(ctx context.Context, s *raftstore.Store, length time.Duration, most int) (n int, revision uint64, err error) {
	value := make([]byte, replicasEntry)
	for began := time.Now(); n < most && time.Since(began) < length; n++ {
		op := raftstore.Op{Key: fmt.Sprint("/bench/", n%1000), Value: value}
		result, err := s.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{op}})
		if err != nil {
			return n, revision, fmt.Errorf("write entry %d: %w", n, err)
		}
		revision = result.Revision
	}
	return n, revision, nil
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
