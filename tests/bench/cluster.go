package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	members = 3
	// startTimeout bounds the start of a cluster.
	startTimeout = time.Minute
)

// cluster is three members of one system, each a process.
type cluster struct {
	name      string
	endpoints []string
	processes []*exec.Cmd
	closers   []func()
}

// stop kills the members: nothing of theirs is needed any more.
func (c *cluster) stop() {
	for _, p := range c.processes {
		_ = p.Process.Kill()
	}
	for _, p := range c.processes {
		_ = p.Wait()
	}
	for _, f := range c.closers {
		f()
	}
}

// spawn starts a member. Its errors go to ours, its output is of no interest.
func (c *cluster) spawn(cmd *exec.Cmd) error {
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a member of %s: %w", c.name, err)
	}
	c.processes = append(c.processes, cmd)
	return nil
}

// cpu returns the CPU time that the members have used since they started.
func (c *cluster) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, p := range c.processes {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of a member of %s: %w", c.name, err)
		}
		used, err := parseCPU(string(stat))
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of a member of %s: %w", c.name, err)
		}
		sum += used
	}
	return sum, nil
}

// clockTick is the unit of /proc/<pid>/stat: 1/100 s on every Linux, see sysconf(3).
const clockTick = 10 * time.Millisecond

// parseCPU takes the user and the system time out of /proc/<pid>/stat, see proc(5).
func parseCPU(stat string) (time.Duration, error) {
	// The program's name, in brackets, may contain anything.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%q has no times", stat)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick, err
}

// leader waits until all members name the same leader, and returns its endpoint.
func (c *cluster) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cli, err := dial(ctx, c.endpoints...)
	if err != nil {
		return "", err
	}
	defer cli.Close()
	for {
		endpoint, err := c.agreed(ctx, cli)
		if err == nil {
			return endpoint, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s has no leader: %w", c.name, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// agreed asks every member once.
func (c *cluster) agreed(ctx context.Context, cli *clientv3.Client) (string, error) {
	var found string
	var leaders []uint64
	for _, endpoint := range c.endpoints {
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		status, err := cli.Status(ask, endpoint)
		cancel()
		if err != nil {
			return "", err
		}
		leaders = append(leaders, status.Leader)
		if status.Header.MemberId == status.Leader {
			found = endpoint
		}
	}
	if found == "" || len(slices.Compact(leaders)) != 1 {
		return "", errors.New("the members do not agree on a leader")
	}
	return found, nil
}

func dial(ctx context.Context, endpoints ...string) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: endpoints, DialTimeout: startTimeout,
		// Members that are not up yet are no news.
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithNoProxy()},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	return cli, nil
}

// freeAddresses returns n loopback addresses that nothing listened on a moment
// ago.
func freeAddresses(n int) ([]string, error) {
	list := make([]string, n)
	for i := range list {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// Held until all are found, so that none is found twice.
		defer l.Close()
		list[i] = l.Addr().String()
	}
	return list, nil
}
