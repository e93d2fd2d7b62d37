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
)

const (
	// maxReplicas is the largest group.
	maxReplicas = 1000
	// nearReplicas is how many replicas besides the leader join first, among them all other
	// voters. They are a process of their own.
	nearReplicas = 8
	// farNice is the nice value of the process of all other replicas. On hosts of their own
	// they would not compete with the leader and the voters for processors.
	farNice = 10
)

// replicaGroup is a group of replicas in up to three processes.
type replicaGroup struct {
	size  int
	dir   string
	peers []memberPlaces
	// leader is the first replica, near are the next ones, and far, if not nil, all others.
	leader, near, far *replicasProcess
}

// startGroup starts a group of n replicas, and waits until those that should vote do and all
// others follow.
func startGroup(ctx context.Context, o *options, n int) (_ *replicaGroup, err error) {
	dir, err := os.MkdirTemp(memoryDir(o), "virtmesh-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the replicas: %w", err)
	}
	g := &replicaGroup{size: n, dir: dir, peers: replicaPlaces(n)}
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	if err := makeIdentities(dir, g.peers); err != nil {
		return nil, err
	}
	if g.leader, err = startReplicas(ctx, replicasSpec{Count: 1, Dir: dir, Peers: g.peers}); err != nil {
		return nil, err
	}
	near := min(n-1, nearReplicas)
	if g.near, err = startReplicas(ctx, replicasSpec{First: 1, Count: near, Dir: dir, Peers: g.peers}); err != nil {
		return nil, err
	}
	if err := g.awaitReplicas(near + 1); err != nil {
		return nil, err
	}
	if n == near+1 {
		return g, nil
	}
	if err := g.startFar(ctx); err != nil {
		return nil, err
	}
	return g, g.awaitAll()
}

// startFar starts the process of all replicas that are neither the leader nor near.
func (g *replicaGroup) startFar(ctx context.Context) (err error) {
	first := 1 + nearReplicas
	g.far, err = startReplicas(ctx, replicasSpec{First: first, Count: g.size - first, Dir: g.dir, Peers: g.peers, Nice: farNice})
	return err
}

// farNodes returns the nodes of the process far.
func (g *replicaGroup) farNodes() (nodes []string) {
	for i := 1 + nearReplicas; i < g.size; i++ {
		nodes = append(nodes, memberName(i))
	}
	return nodes
}

// awaitAll waits until all replicas of the group have their place.
func (g *replicaGroup) awaitAll() error { return g.awaitReplicas(g.size) }

// awaitReplicas waits until the leader knows n replicas, of which as many as should vote do,
// and the others follow.
func (g *replicaGroup) awaitReplicas(n int) error {
	voters := min(n-1|1, replicasVoters)
	return g.leader.do(replicasTask{Voters: voters, Known: n}, &replicaUse{})
}

// stop ends the group. Nothing of it is needed any more.
func (g *replicaGroup) stop() {
	for _, p := range []*replicasProcess{g.far, g.near, g.leader} {
		p.stop()
	}
	_ = os.RemoveAll(g.dir)
}

// replicaPlaces gives each of n replicas a loopback IP of its own, as hosts have. The ports
// are none that a connection of another program may have.
func replicaPlaces(n int) []memberPlaces {
	peers := make([]memberPlaces, n)
	for i := range peers {
		ip := fmt.Sprintf("127.1.%d.%d", i/250, i%250+1)
		peers[i] = memberPlaces{Raft: ip + ":27443", RPC: ip + ":27444"}
	}
	return peers
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
	cmd := exec.CommandContext(ctx, "nice", "-n", fmt.Sprint(spec.Nice), self, replicasCommand)
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

// stop ends the process, if there is one, as a power loss would.
func (p *replicasProcess) stop() {
	if p == nil {
		return
	}
	_ = p.tasks.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// dirOf is where replica i of a group keeps its log.
func dirOf(dir string, i int) string { return filepath.Join(dir, memberName(i)) }
