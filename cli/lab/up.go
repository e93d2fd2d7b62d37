package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Timeouts of a start; generous because a lab may share a small machine.
const (
	setUpTimeout      = 30 * time.Second
	agentStartTimeout = 90 * time.Second
	readyTimeout      = 3 * time.Minute
	pollInterval      = 200 * time.Millisecond
)

// maxHosts is what one lab network (a /24, hosts from .11 on) holds.
const maxHosts = 200

// Wanted says what Up makes.
type Wanted struct {
	// Hosts is how many hosts the lab has at least, besides a witness.
	Hosts int
	// Witness adds a host that votes and runs no guests, unless the lab has one.
	Witness bool
	// Metal makes each host a whole machine, with a kernel and a disk of its own. The
	// hosts of a lab are all of one sort.
	Metal bool
	// Package is a .deb of virtmesh to install on hosts that are whole machines and do
	// not have the program. Empty means that they get the running program.
	Package string
}

func (w Wanted) validate() error {
	if w.Hosts < 1 || w.Hosts > maxHosts {
		return fmt.Errorf("a lab has 1 to %d hosts, not %d", maxHosts, w.Hosts)
	}
	if w.Package == "" {
		return nil
	}
	if !w.Metal {
		return errors.New("only hosts that are whole machines have packages; say --metal too")
	}
	if _, err := os.Stat(w.Package); err != nil {
		return fmt.Errorf("the package to install: %w", err)
	}
	return nil
}

// Up starts the lab, or grows it, and returns when all of its hosts are Ready. What
// already runs is left alone. progress is called with one line for each step that takes
// a while.
func (l *Lab) Up(ctx context.Context, want Wanted, progress func(format string, args ...any)) error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root: it makes network namespaces and runs libvirtd")
	}
	if err := want.validate(); err != nil {
		return err
	}
	unlock, err := l.lockLab()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.initialiseState(ctx, want); err != nil {
		return err
	}
	if err := os.MkdirAll(l.sharedDir(), 0o755); err != nil {
		return fmt.Errorf("make the shared directory: %w", err)
	}
	if err := l.ensureBridges(ctx); err != nil {
		return err
	}
	if err := l.ensureRegistry(ctx); err != nil {
		return err
	}
	l.addHosts(want)
	if err := l.saveState(); err != nil {
		return err
	}
	if err := l.powerOn(ctx, progress); err != nil {
		return err
	}
	for _, h := range l.state.Hosts {
		if err := l.chassis().install(ctx, h, want.Package, progress); err != nil {
			return err
		}
	}
	if err := l.formMesh(ctx, progress); err != nil {
		return err
	}
	progress("waiting until %d hosts are Ready", len(l.state.Hosts))
	return l.waitReady(ctx)
}

// addHosts adds the hosts that the lab lacks.
func (l *Lab) addHosts(want Wanted) {
	workers, witness := 0, false
	for _, h := range l.state.Hosts {
		if h.Witness {
			witness = true
		} else {
			workers++
		}
	}
	add := func(isWitness bool) {
		n := len(l.state.Hosts) + 1
		l.state.Hosts = append(l.state.Hosts, Host{
			Name: fmt.Sprintf("host%d", n), Index: n, Address: fmt.Sprintf("10.201.%d.%d", l.state.Network, 10+n), Witness: isWitness,
		})
	}
	for ; workers < want.Hosts; workers++ {
		add(false)
	}
	if want.Witness && !witness {
		add(true)
	}
}

func (l *Lab) initialiseState(ctx context.Context, want Wanted) error {
	if l.Exists() {
		if l.state.Metal != want.Metal {
			return errors.New("this lab's hosts are of the other sort, with or without --metal; end it first, or choose another directory with --dir")
		}
		return nil
	}
	for _, name := range madeEntries() {
		path := filepath.Join(l.dir, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there but no lab is, so it is not a lab's; move it away, or choose another directory with --dir", path)
		}
	}
	network, err := freeNetwork(ctx)
	if err != nil {
		return err
	}
	// The usual port of a registry if it can be.
	port, err := freePort("127.0.0.1:5000", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.state = state{ID: labID(l.dir), Network: network, RegistryPort: port, Metal: want.Metal}
	return l.saveState()
}

// freePort finds a loopback port that nobody listens on, the first of the addresses if
// it can.
func freePort(addresses ...string) (int, error) {
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			defer listener.Close()
			return listener.Addr().(*net.TCPAddr).Port, nil
		}
	}
	return 0, errors.New("no free loopback port")
}

func (l *Lab) powerOn(ctx context.Context, progress func(string, ...any)) error {
	for _, h := range l.state.Hosts {
		pid, err := l.Running(h)
		if err != nil {
			return err
		}
		if pid == 0 {
			progress("powering on %s (%s)", h.Name, h.Address)
			if err := l.start(ctx, h, progress); err != nil {
				return err
			}
		}
	}
	return nil
}

// formMesh makes the mesh on the first host and joins the others to it.
func (l *Lab) formMesh(ctx context.Context, progress func(string, ...any)) error {
	first := l.state.Hosts[0]
	joined, err := l.joined(ctx, first)
	if err != nil {
		return err
	}
	if !joined {
		progress("making a mesh on %s", first.Name)
		if _, err := l.virtmesh(ctx, first, append([]string{"agent", "init"}, l.chassis().enrolFlags(first)...)...); err != nil {
			return err
		}
	}
	if err := l.waitAgent(ctx, first); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, h := range l.state.Hosts[1:] {
		group.Go(func() error { return l.joinHost(groupCtx, first, h, progress) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, h := range l.state.Hosts {
		if err := l.writeKubeconfig(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// poll calls try until it succeeds, and after the timeout says what it waited
// for and why the last try failed.
func poll(ctx context.Context, timeout time.Duration, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for {
		if err := try(ctx); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w (%w)", what, ctx.Err(), last)
		case <-time.After(pollInterval):
		}
	}
}

// statusWarns is how 'virtmesh status' exits when an agent answers and warns of something,
// such as another host that is off.
const statusWarns = 3

func (l *Lab) waitAgent(ctx context.Context, h Host) error {
	err := poll(ctx, agentStartTimeout, "the agent of "+h.Name, func(ctx context.Context) error {
		_, err := l.virtmesh(ctx, h, "status", "-o", "json")
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == statusWarns {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w; its log is %s", err, filepath.Join(l.LogDir(h), "agent.log"))
	}
	return nil
}

func (l *Lab) waitReady(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig(l.state.Hosts[0]))
	if err != nil {
		return fmt.Errorf("read the lab's kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("connect to the lab: %w", err)
	}
	return poll(ctx, readyTimeout, "all hosts to be Ready", func(ctx context.Context) error {
		nodes, err := client.CoreV1().Nodes().List(ctx, v1.ListOptions{})
		if err != nil {
			return err
		}
		return unready(l.state.Hosts, nodes.Items)
	})
}

// unready says which hosts are not Ready, and which have no node at all.
func unready(hosts []Host, nodes []corev1.Node) error {
	ready := map[string]bool{}
	for _, node := range nodes {
		ready[node.Name] = slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	}
	var missing []string
	for _, h := range hosts {
		switch now, known := ready[h.Name]; {
		case !known:
			missing = append(missing, h.Name+" has no node (if 'virtmesh node remove' took the host out, docs/lab.md says how it joins again)")
		case !now:
			missing = append(missing, h.Name+" is not Ready")
		}
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, ", "))
	}
	return nil
}

// ensureRegistry starts the lab's image registry unless it runs.
func (l *Lab) ensureRegistry(ctx context.Context) error {
	record := filepath.Join(l.dir, "registry.json")
	if pid, err := runningProcess(record); err != nil || pid != 0 {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(l.dir, "registry.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the registry's log: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(l.executable, "lab", "--dir", l.dir, "registry")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", logFile, logFile
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	defer cmd.Process.Release()
	if err := recordProcess(record, cmd.Process.Pid); err != nil {
		return err
	}
	return poll(ctx, 10*time.Second, "the lab's registry", func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", l.registrySocket())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Down ends the lab and removes everything it made except guest images, which take
// minutes to build and do not depend on a lab's life. Without a lab it does nothing.
func (l *Lab) Down(ctx context.Context) error {
	if !l.Exists() {
		return nil
	}
	unlock, err := l.lockLab()
	if err != nil {
		return err
	}
	defer unlock()
	for _, h := range l.state.Hosts {
		if err := l.Kill(ctx, h); err != nil {
			return err
		}
	}
	if err := killProcess(filepath.Join(l.dir, "registry.json")); err != nil {
		return err
	}
	if err := l.removeBridges(ctx); err != nil {
		return err
	}
	for _, name := range madeEntries() {
		if err := os.RemoveAll(filepath.Join(l.dir, name)); err != nil {
			return fmt.Errorf("remove the lab: %w", err)
		}
	}
	l.state = state{}
	return nil
}
