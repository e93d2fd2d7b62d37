package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	scaleHosts = 500
	// scaleClients is how many clients list everything and watch it.
	scaleClients = 10
	// restTime is how long the CPU of an agent is measured that has nothing to do.
	restTime = 20 * time.Second
	// usedTime is how long after its start, and after the lists of its clients, the memory
	// of an agent is read.
	usedTime = 30 * time.Second
)

// watched are the paths that the clients list and watch.
var watched = []string{
	"/apis/kubevirt.io/v1/virtualmachines", "/apis/kubevirt.io/v1/virtualmachineinstances",
	"/api/v1/persistentvolumeclaims", "/api/v1/events", "/api/v1/nodes",
}

// runScale measures what an agent takes in a large mesh.
func runScale(ctx context.Context, o *options, r *report) error {
	for _, c := range []struct {
		machines int
		budget   float64
	}{{100, 180}, {10_000, 300}} {
		if err := measureAgent(ctx, o, r, population{Hosts: scaleHosts, Machines: c.machines}, c.budget); err != nil {
			return fmt.Errorf("an agent with %d machines: %w", c.machines, err)
		}
	}
	return nil
}

// measureAgent measures an agent, just started and with clients.
func measureAgent(ctx context.Context, o *options, r *report, p population, budget float64) error {
	a, err := startFilled(ctx, o, p)
	if err != nil {
		return err
	}
	defer a.end()
	name := fmt.Sprintf("agent_%d_vms_%d_hosts_", p.Machines, p.Hosts)
	r.add(figure{Name: name + "ready", Value: a.Seconds, Unit: "s"})
	if err := a.rest(ctx, usedTime); err != nil {
		return err
	}
	fresh, err := a.memory()
	if err != nil {
		return err
	}
	r.add(figure{Name: name + "fresh_rss", Value: fresh.rss, Unit: "MB", Budget: atMost(budget)})
	r.add(figure{Name: name + "fresh_anonymous", Value: fresh.anonymous, Unit: "MB"})
	before, err := a.cpu()
	if err != nil {
		return err
	}
	if err := a.rest(ctx, restTime); err != nil {
		return err
	}
	after, err := a.cpu()
	if err != nil {
		return err
	}
	r.add(figure{Name: name + "rest_cpu", Value: 100 * (after - before).Seconds() / restTime.Seconds(), Unit: "% of a core", Budget: atMost(5)})
	stop, err := a.watchAll(ctx, scaleClients)
	if err != nil {
		return err
	}
	defer stop()
	if err := a.rest(ctx, usedTime); err != nil {
		return err
	}
	used, err := a.memory()
	if err != nil {
		return err
	}
	r.add(figure{Name: name + "used_rss", Value: used.rss, Unit: "MB", Budget: atMost(budget)})
	r.add(figure{Name: name + "used_anonymous", Value: used.anonymous, Unit: "MB"})
	return a.measureBurst(ctx, r, name, budget)
}

// agentProcess is an agent in a process of its own.
type agentProcess struct {
	*exec.Cmd
	agentReady
	dir     string // that goes with the agent
	input   io.WriteCloser
	answers *json.Decoder
}

// startFilled starts an agent whose store holds the population, and waits until it has
// taken that in.
func startFilled(ctx context.Context, o *options, p population) (*agentProcess, error) {
	dir, err := os.MkdirTemp(o.dir, "bench-agent-")
	if err != nil {
		return nil, fmt.Errorf("make a place for the replica: %w", err)
	}
	a, err := startAgent(ctx, agentSpec{Dir: dir, Fill: p, Hosts: p.Hosts})
	if err == nil {
		if err = a.Wait(); err != nil {
			err = fmt.Errorf("fill the store: %w", err)
		}
	}
	if err == nil {
		a, err = startAgent(ctx, agentSpec{Dir: dir, Hosts: p.Hosts, Profile: os.Getenv("BENCH_PROFILE")})
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	a.dir = dir
	if err := a.awaitReady(); err != nil {
		a.end()
		return nil, err
	}
	return a, nil
}

func startAgent(ctx context.Context, spec agentSpec) (*agentProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode what the agent is to do: %w", err)
	}
	a := &agentProcess{Cmd: exec.CommandContext(ctx, self, agentCommand, string(text))}
	a.Stderr = os.Stderr
	if a.input, err = a.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start an agent: %w", err)
	}
	output, err := a.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start an agent: %w", err)
	}
	a.answers = json.NewDecoder(output)
	if err := a.Start(); err != nil {
		return nil, fmt.Errorf("start an agent: %w", err)
	}
	return a, nil
}

// awaitReady returns when the agent has taken in everything.
func (a *agentProcess) awaitReady() error {
	if err := a.answers.Decode(&a.agentReady); err != nil {
		return fmt.Errorf("the agent did not get ready: %w", err)
	}
	return nil
}

// end lets the agent end, and waits for that.
func (a *agentProcess) end() {
	_ = a.input.Close()
	_ = a.Wait()
	_ = os.RemoveAll(a.dir)
}

// live returns the bytes that the agent keeps after a garbage collection.
func (a *agentProcess) live() (kept float64, err error) {
	if _, err := io.WriteString(a.input, "\n"); err != nil {
		return 0, fmt.Errorf("ask the agent what it keeps: %w", err)
	}
	if err := a.answers.Decode(&kept); err != nil {
		return 0, fmt.Errorf("ask the agent what it keeps: %w", err)
	}
	return kept, nil
}

// rest lets time pass.
func (a *agentProcess) rest(ctx context.Context, how time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(how):
		return nil
	}
}

// memory reads what the process holds.
func (a *agentProcess) memory() (memory, error) {
	var text strings.Builder
	for _, name := range []string{"status", "smaps_rollup"} {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.Process.Pid), name))
		if err != nil {
			return memory{}, fmt.Errorf("read the memory of the agent: %w", err)
		}
		text.Write(b)
	}
	return parseMemory(text.String())
}

// cpu reads how long the process has computed.
func (a *agentProcess) cpu() (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.Process.Pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of the agent: %w", err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("read the CPU time of the agent: too few fields")
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of the agent: %w", err)
	}
	system, err := strconv.Atoi(fields[12])
	const tick = time.Second / 100 // of every Linux
	return time.Duration(user+system) * tick, err
}

// watchAll lets clients list everything, one after the other, and watch it until stop
// is called.
func (a *agentProcess) watchAll(ctx context.Context, clients int) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var watches sync.WaitGroup
	stop = func() {
		cancel()
		watches.Wait()
	}
	for range clients {
		for _, path := range watched {
			version, err := a.list(ctx, path)
			if err != nil {
				stop()
				return nil, err
			}
			response, err := a.get(ctx, path+"?watch=1&allowWatchBookmarks=true&resourceVersion="+version)
			if err != nil {
				stop()
				return nil, err
			}
			watches.Go(func() {
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			})
		}
	}
	return stop, nil
}

// list reads a whole list and returns its resourceVersion.
func (a *agentProcess) list(ctx context.Context, path string) (string, error) {
	response, err := a.get(ctx, path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	head := make([]byte, 4<<10)
	n, err := io.ReadFull(response.Body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("list %s: %w", path, err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", fmt.Errorf("list %s: %w", path, err)
	}
	_, after, found := strings.Cut(string(head[:n]), `"resourceVersion":"`)
	version, _, _ := strings.Cut(after, `"`)
	if !found {
		return "", fmt.Errorf("list %s: the list has no resourceVersion", path)
	}
	return version, nil
}

// get begins a request for JSON.
func (a *agentProcess) get(ctx context.Context, path string) (*http.Response, error) {
	return a.getAs(ctx, path, "application/json")
}
