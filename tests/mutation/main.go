// Command mutation shows what the unit tests would not notice: it draws small
// faults over the packages that decide and convert, runs each package's tests
// with one fault at a time, and tells which faults lived. 'make mutants' runs
// it; it is no part of CI.
//
// The faults never touch the tree: the compiler is shown the changed file in
// the place of the real one. A fault is killed when a test fails, panics or
// does not end. One that does not compile is no fault, and another is drawn.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// target is a package that is given faults, and the packages whose tests
// should notice: its own, and neighbours that hold it to its word.
type target struct {
	dir   string
	tests []string
}

var targets = []target{
	{"agent/vmi", []string{"./agent/vmi"}},
	{"agent/claims", []string{"./agent/claims", "./agent/stewards/schedule"}},
	{"agent/stewards/schedule/place", []string{"./agent/stewards/schedule/place"}},
	{"agent/host/domain", []string{"./agent/host/domain"}},
	{"agent/host/executor", []string{"./agent/host/executor"}},
}

// verdict is what became of a fault.
type verdict string

const (
	killed   verdict = "killed"
	lived    verdict = "LIVED"
	unbuilt  verdict = "does not build"
	hung     verdict = "killed (the tests did not end)"
	canceled verdict = "canceled"
)

type options struct {
	n, parallel int
	seed        uint64
	timeout     time.Duration
	only        string
}

func main() {
	var o options
	flag.IntVar(&o.n, "n", 100, "how many faults to draw")
	flag.Uint64Var(&o.seed, "seed", 1, "draw the same faults again with the same seed")
	flag.IntVar(&o.parallel, "parallel", 2, "how many to try at once")
	flag.DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long one run of tests may take, building included")
	flag.StringVar(&o.only, "only", "", "draw from packages below this directory only")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	all, err := collect(o.only)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("nothing to draw from: is this the root of the tree?")
	}
	for _, t := range targets {
		if !strings.HasPrefix(t.dir, o.only) {
			continue
		}
		if v, out := test(ctx, t.tests, "", o.timeout); v != lived {
			return fmt.Errorf("the tests of %s fail without any fault:\n%s", t.dir, out)
		}
	}
	random := rand.New(rand.NewPCG(o.seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	fmt.Printf("%d faults are possible, seed %d\n", len(all), o.seed)
	return tryAll(ctx, all, o)
}

// tryAll tries faults in turn until enough of them could be built.
func tryAll(ctx context.Context, all []mutant, o options) error {
	var (
		mu      sync.Mutex
		workers sync.WaitGroup
		next    int
		tried   int
		deaths  = map[string]int{}
		lives   = map[string]int{}
	)
	take := func() (mutant, bool) {
		mu.Lock()
		defer mu.Unlock()
		if tried >= o.n || next >= len(all) {
			return mutant{}, false
		}
		next, tried = next+1, tried+1
		return all[next-1], true
	}
	record := func(m mutant, v verdict) {
		mu.Lock()
		defer mu.Unlock()
		switch v {
		case unbuilt, canceled:
			tried-- // another takes its place
			return
		case lived:
			lives[m.target.dir]++
		default:
			deaths[m.target.dir]++
		}
		fmt.Printf("%-7s %s:%d %s\n", v, m.file, m.line, m.kind)
		if v == lived {
			fmt.Print(m.diff())
		}
	}
	for range max(o.parallel, 1) {
		workers.Go(func() {
			for m, ok := take(); ok; m, ok = take() {
				v, err := try(ctx, m, o.timeout)
				if err != nil {
					fmt.Fprintln(os.Stderr, "mutation:", err)
				}
				record(m, v)
			}
		})
	}
	workers.Wait()
	total, dead := 0, 0
	for _, t := range targets {
		if n := lives[t.dir] + deaths[t.dir]; n > 0 {
			fmt.Printf("%-32s %d of %d killed\n", t.dir, deaths[t.dir], n)
			total, dead = total+n, dead+deaths[t.dir]
		}
	}
	fmt.Printf("%-32s %d of %d killed\n", "all", dead, total)
	return nil
}

// try runs the tests with one fault.
func try(ctx context.Context, m mutant, timeout time.Duration) (verdict, error) {
	dir, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return canceled, fmt.Errorf("make a place for a fault: %w", err)
	}
	defer os.RemoveAll(dir)
	original, err := filepath.Abs(m.file)
	if err != nil {
		return canceled, fmt.Errorf("find %s: %w", m.file, err)
	}
	changed := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(changed, m.mutated(), 0o600); err != nil {
		return canceled, fmt.Errorf("write a fault: %w", err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return canceled, fmt.Errorf("write an overlay: %w", err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		return canceled, fmt.Errorf("write an overlay: %w", err)
	}
	v, _ := test(ctx, m.target.tests, path, timeout)
	return v, nil
}

// test runs tests, with an overlay if one is named.
func test(ctx context.Context, packages []string, overlay string, timeout time.Duration) (verdict, string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	args := []string{"test", "-short", "-failfast", "-vet=off", "-count=1"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	// What the tests started ends with them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	switch text := string(out); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return hung, text
	case err == nil:
		return lived, text
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return unbuilt, text
	default:
		return killed, text
	}
}
