package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	// replicasEntry is the size of an entry in bytes: about that of an instance.
	replicasEntry = 8 << 10
	// replicasLoad and replicasRest are how long a leader is measured with load and
	// without, which shows what its connections cost by themselves.
	replicasLoad = 5 * time.Second
	replicasRest = 3 * time.Second
	// replicasVoters is how many of them vote.
	replicasVoters = 5
	// replicasFeeds is how many hosts a host feeds besides.
	replicasFeeds = 4
)

// groupSizes are the sizes of a group whose leader is measured.
var groupSizes = []int{3, 9, 33, 500}

// leaseHosts is how many hosts renew leases. With leases of 9 seconds, renewed three times
// in that time, they need leaseRenewals a second; the budget is ten times that.
const (
	leaseHosts    = 500
	leaseRenewals = leaseHosts * 3 / 9
)

// replicaUse is what was done in a task, and what the process used for it.
type replicaUse struct {
	Seconds float64 `json:"seconds"`
	Done    int     `json:"done"`
	// CPU is in seconds, Sent in bytes.
	CPU  float64 `json:"cpu"`
	Sent float64 `json:"sent"`
}

// leaderCost is what an entry costs a leader, without what it costs to lead at rest.
type leaderCost struct {
	rate, cpu, copies, restCPU float64
}

func costOf(load, rest replicaUse) leaderCost {
	n := max(float64(load.Done), 1)
	return leaderCost{
		rate:    n / load.Seconds,
		cpu:     (load.CPU - rest.CPU/rest.Seconds*load.Seconds) / n,
		copies:  (load.Sent - rest.Sent/rest.Seconds*load.Seconds) / n / replicasEntry,
		restCPU: rest.CPU / rest.Seconds,
	}
}

// runReplicas measures what an entry costs the leader of small and large groups.
func runReplicas(ctx context.Context, o *options, r *report) error {
	cpu := map[int]float64{}
	for _, n := range groupSizes {
		cost, err := measureLeader(ctx, o, r, n)
		if err != nil {
			return fmt.Errorf("%d replicas: %w", n, err)
		}
		name := fmt.Sprintf("replicas_%d_", n)
		cpu[n] = cost.cpu
		r.add(figure{Name: name + "entries", Value: cost.rate, Unit: "entries/s"})
		r.add(figure{Name: name + "leader_cpu_per_entry", Value: cost.cpu * 1e6, Unit: "us"})
		r.add(figure{Name: name + "leader_copies_per_entry", Value: cost.copies, Unit: "copies", Budget: atMost(replicasVoters + replicasFeeds)})
		r.add(figure{Name: name + "leader_cpu_at_rest", Value: cost.restCPU * 1000, Unit: "ms/s"})
	}
	r.add(figure{Name: "replicas_500_leader_cpu_vs_9", Value: cpu[500] / cpu[9], Unit: "ratio", Budget: atMost(2)})
	return nil
}

// measureLeader measures the leader of a group of n replicas, which is a process of its
// own; another process is all the other replicas.
func measureLeader(ctx context.Context, o *options, r *report, n int) (leaderCost, error) {
	dir, err := os.MkdirTemp(memoryDir(o), "virtmesh-bench-")
	if err != nil {
		return leaderCost{}, fmt.Errorf("make a directory for the replicas: %w", err)
	}
	defer os.RemoveAll(dir)
	addresses, err := freeAddresses(2 * n)
	if err != nil {
		return leaderCost{}, err
	}
	peers := make([]memberPlaces, n)
	for i := range peers {
		peers[i] = memberPlaces{Raft: addresses[2*i], RPC: addresses[2*i+1]}
	}
	leader, err := startReplicas(ctx, replicasSpec{First: 0, Count: 1, Dir: dir, Peers: peers})
	if err != nil {
		return leaderCost{}, err
	}
	defer leader.stop()
	others, err := startReplicas(ctx, replicasSpec{First: 1, Count: n - 1, Dir: dir, Peers: peers})
	if err != nil {
		return leaderCost{}, err
	}
	defer others.stop()
	var load, rest replicaUse
	if err := errors.Join(leader.do(replicasTask{Voters: min(n-1|1, replicasVoters)}, &rest), leader.do(replicasTask{Rest: replicasRest}, &rest)); err != nil {
		return leaderCost{}, err
	}
	if err := leader.do(replicasTask{Load: replicasLoad}, &load); err != nil {
		return leaderCost{}, err
	}
	if n == members {
		if err := measureLeases(others, r); err != nil {
			return leaderCost{}, err
		}
	}
	progressf("  %d replicas: %d entries in %.1f s", n, load.Done, load.Seconds)
	return costOf(load, rest), nil
}

// measureLeases measures renewals at a follower, as most hosts are.
func measureLeases(follower *replicasProcess, r *report) error {
	var use replicaUse
	if err := follower.do(replicasTask{Renew: replicasRest}, &use); err != nil {
		return err
	}
	r.add(figure{Name: "leases_500_hosts_renewals", Value: float64(use.Done) / use.Seconds, Unit: "renewals/s", Budget: atLeast(10 * leaseRenewals)})
	return nil
}

// memoryDir is where the replicas keep their logs: in memory, because 500 logs on one
// disk would measure the disk.
func memoryDir(o *options) string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); o.dir == "" && err == nil && info.IsDir() {
		return shm
	}
	return o.dir
}

// replicasCommand is the argument that makes this program a number of replicas.
const replicasCommand = "replicas"

// replicasProcess is a process of replicas that carries out tasks.
type replicasProcess struct {
	cmd   *exec.Cmd
	tasks io.WriteCloser
	lines *bufio.Scanner
}

// startReplicas starts a process and waits until its replicas have joined.
func startReplicas(ctx context.Context, spec replicasSpec) (*replicasProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, replicasCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start replicas: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start replicas: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start replicas: %w", err)
	}
	p := &replicasProcess{cmd: cmd, tasks: in, lines: bufio.NewScanner(out)}
	if err := p.do(spec, &replicaUse{}); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// do sends a task and waits for its result.
func (p *replicasProcess) do(task any, result *replicaUse) error {
	if err := json.NewEncoder(p.tasks).Encode(task); err != nil {
		return fmt.Errorf("tell replicas what to do: %w", err)
	}
	if !p.lines.Scan() {
		return fmt.Errorf("the replicas ended: %w", errors.Join(p.lines.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(p.lines.Bytes(), result); err != nil {
		return fmt.Errorf("read what the replicas did: %w", err)
	}
	return nil
}

// stop ends the process: nothing of its replicas is needed any more.
func (p *replicasProcess) stop() {
	_ = p.tasks.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// dirOf is where replica i of a group keeps its log.
func dirOf(dir string, i int) string { return filepath.Join(dir, memberName(i)) }
