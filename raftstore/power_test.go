package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// powered is a group on simulated disks, whose hosts lose power.
type powered struct {
	*raftstoretest.Cluster
	t      *testing.T
	disks  map[string]*raftstoretest.Disk
	chance *rand.Rand

	mu    sync.Mutex
	off   map[string]bool
	acked map[string]bool
}

// startPowered opens n replicas. Their log files and trailing logs are so small that
// files are sealed, created and deleted all the time.
func startPowered(t *testing.T, n int, seed uint64) *powered {
	p := &powered{
		t: t, disks: map[string]*raftstoretest.Disk{}, chance: rand.New(rand.NewPCG(seed, 0)),
		off: map[string]bool{}, acked: map[string]bool{},
	}
	for i := range n {
		p.disks[fmt.Sprint("host", i+1)] = raftstoretest.NewDisk()
	}
	p.Cluster = raftstoretest.NewCluster(t, n, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
		cfg.Limits.SnapshotEntries, cfg.Limits.SegmentBytes, cfg.Limits.TrailingBytes = 40, 4096, 1
		cfg.LogFiles = p.disks[cfg.NodeID].LogFiles
	}))
	return p
}

// write commits keys at the replicas in turn until ctx ends, and notes those that a host
// with power acknowledged.
func (p *powered) write(ctx context.Context, client int) {
	for n := 0; ctx.Err() == nil; n++ {
		live := p.Live()
		if len(live) == 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		s := live[n%len(live)]
		key := fmt.Sprintf("/k/%d/%d/%d", client, n, time.Now().UnixNano())
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := s.Commit(attempt, put(key, key))
		cancel()
		id := s.Status(ctx).NodeID
		p.mu.Lock()
		if err == nil && !p.off[id] {
			p.acked[key] = true
		}
		p.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
}

// crash ends the processes of hosts: they are killed, or the hosts lose power. Each does
// so before a step of its disk, or after a while if it takes none.
func (p *powered) crash(powerLoss bool, hosts ...string) {
	var crashes sync.WaitGroup
	for _, id := range hosts {
		crashed, disk := make(chan struct{}), p.disks[id]
		crash := sync.OnceFunc(func() {
			p.Net.Silence(p.Addr(id))
			p.mu.Lock()
			defer p.mu.Unlock()
			p.off[id] = true
			if powerLoss {
				disk.LosePower(p.chance)
			} else {
				disk.Kill()
			}
			close(crashed)
		})
		p.mu.Lock()
		disk.Before(1+p.chance.IntN(30), crash)
		p.mu.Unlock()
		crashes.Go(func() {
			select {
			case <-crashed:
			case <-time.After(100 * time.Millisecond):
				crash()
			}
			p.Kill(id)
		})
	}
	crashes.Wait()
}

// boot starts the processes again.
func (p *powered) boot(hosts ...string) {
	p.Net.Heal()
	for _, id := range hosts {
		p.mu.Lock()
		p.off[id] = false
		p.mu.Unlock()
		p.Restart(id)
	}
}

// expectAcked checks that every replica has all that was acknowledged.
func (p *powered) expectAcked(when string) {
	p.t.Helper()
	p.mu.Lock()
	acked := maps.Clone(p.acked)
	p.mu.Unlock()
	for _, s := range p.Live() {
		list, err := s.List(p.t.Context(), raftstore.ListRequest{Prefix: "/k/"})
		if err != nil {
			p.t.Fatalf("%s: %v", when, err)
		}
		have := map[string]bool{}
		for _, r := range list.Records {
			have[r.Key] = string(r.Value) == r.Key
		}
		for key := range acked {
			if !have[key] {
				p.t.Fatalf("%s: acknowledged write %s is lost at %s", when, key, s.Status(p.t.Context()).NodeID)
			}
		}
	}
}

// Hosts that lose power, one by one or all at once, with disks that lose or tear what was
// not synced, lose no write that was acknowledged, and always open their log again.
func TestPowerLossLosesNothing(t *testing.T) {
	seeds := 3
	if testing.Short() {
		seeds = 1
	}
	for _, n := range []int{1, 3} {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("replicas=%d,seed=%d", n, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { losePowerOften(t, n, seed) })
			})
		}
	}
}

func losePowerOften(t *testing.T, n int, seed uint64) {
	p := startPowered(t, n, seed)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer func() {
		cancel()
		clients.Wait()
	}()
	for client := range 3 {
		clients.Go(func() { p.write(ctx, client) })
	}
	for round := range 12 {
		time.Sleep(time.Duration(p.chance.IntN(400_000)) * time.Microsecond)
		var victims []string
		for i := range n {
			if id := fmt.Sprint("host", i+1); round%3 == 0 || p.chance.IntN(2) == 0 {
				victims = append(victims, id)
			}
		}
		p.crash(p.chance.IntN(3) > 0, victims...)
		time.Sleep(time.Duration(p.chance.IntN(2000)) * time.Millisecond)
		p.boot(victims...)
		for _, s := range p.Live() {
			raftstoretest.WaitServing(t, s)
		}
		p.expectAcked(fmt.Sprintf("round %d, after the loss of %v", round, victims))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.acked); n < 200 {
		t.Errorf("only %d writes were acknowledged", n)
	}
}

// A disk that fills in the course of a write, at any byte of the log, loses nothing: the
// replica serves again when there is room, and what it then has outlives a power loss.
func TestFullDiskLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPowered(t, 3, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		clients.Go(func() { p.write(ctx, 0) })
		for round := range 8 {
			time.Sleep(time.Duration(p.chance.IntN(400)) * time.Millisecond)
			victim := fmt.Sprint("host", 1+round%3)
			disk := p.disks[victim]
			disk.Before(1+p.chance.IntN(30), func() { disk.Fill(true) })
			time.Sleep(time.Duration(p.chance.IntN(2000)) * time.Millisecond)
			if round%2 == 1 {
				p.crash(true, victim)
				disk.Fill(false)
				p.boot(victim)
			}
			disk.Before(0, nil)
			disk.Fill(false)
			raftstoretest.Eventually(t, func() error {
				for _, s := range p.Live() {
					if failure := s.Status(ctx).Failure; failure != "" {
						return errors.New(failure)
					}
				}
				return nil
			})
		}
		cancel()
		clients.Wait()
		p.expectAcked("at the end")
		if len(p.acked) < 100 {
			t.Errorf("only %d writes were acknowledged", len(p.acked))
		}
	})
}
