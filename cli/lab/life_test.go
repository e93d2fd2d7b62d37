package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLifeOfALab(t *testing.T) {
	if !alone(t) {
		return
	}
	readyNodes(t)
	l := newLab(t)
	steps := up(t, l, 2)
	for _, want := range []string{"powering on host1", "powering on host2", "making a mesh on host1", "joining host2"} {
		if !strings.Contains(steps, want) {
			t.Errorf("the steps lack %q:\n%s", want, steps)
		}
	}
	first := pids(t, l)

	t.Run("up again changes nothing", func(t *testing.T) {
		again := reopen(t, l.dir)
		if steps := up(t, again, 2); steps != "waiting until 2 hosts are Ready\n" {
			t.Errorf("steps:\n%s", steps)
		}
		if got := pids(t, again); !slices.Equal(got, first) {
			t.Errorf("the hosts' first processes were %v and are %v", first, got)
		}
		if up(t, again, 1); len(again.Hosts()) != 2 {
			t.Errorf("a smaller number left %d hosts", len(again.Hosts()))
		}
	})
	t.Run("only root reads credentials", func(t *testing.T) {
		for _, h := range l.Hosts() {
			info, err := os.Stat(l.Kubeconfig(h))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("kubeconfig of %s: %v, %v", h.Name, info.Mode(), err)
			}
			if info, err := os.Stat(filepath.Join(l.hostDir(h), "etc")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("configuration of %s: %v, %v", h.Name, info.Mode(), err)
			}
		}
	})
	t.Run("a host is a machine of its own", func(t *testing.T) {
		wantIn(t, l, "host1", "host1", "hostname")
		wantIn(t, l, "host2", l.state.Hosts[1].Address+" host2", "grep", "-w", "host2", "/etc/hosts")
		wantIn(t, l, "host1", "agent of host2", l.executable, "get", agentOf(l, 2))
		wantIn(t, l, "host2", `{"repositories":null}`, l.executable, "get", "http://"+l.Registry()+"/v2/_catalog")
		if text, err := in(t, l, "host2", "cat", agentEnabled); err != nil || !strings.Contains(text, "--advertise "+l.state.Hosts[1].Address) {
			t.Errorf("host2 joined with %q, %v", text, err)
		}
		if _, err := os.Stat(agentEnabled); err == nil {
			t.Skip("this machine is a host itself")
		}
		if _, err := os.Stat("/run/virtmesh/agent.pid"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the machine itself has the host's files: %v", err)
		}
		if _, err := in(t, l, "host1", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
			t.Errorf("a command that fails: %v", err)
		}
	})
	t.Run("an agent that dies starts again", func(t *testing.T) { testAgentRestart(t, l) })
	t.Run("a cut host runs on, unreachable", func(t *testing.T) { testCut(t, l) })
	t.Run("power loss", func(t *testing.T) { testPowerLoss(t, l) })
	t.Run("two labs", func(t *testing.T) { testNeighbours(t, l) })
	t.Run("down", func(t *testing.T) { testDown(t, l) })
}

func testAgentRestart(t *testing.T, l *Lab) {
	read := []string{"cat", "/run/virtmesh/agent.pid"}
	before, err := in(t, l, "host1", read...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in(t, l, "host1", "kill", "-9", before); err != nil {
		t.Fatal(err)
	}
	err = poll(t.Context(), time.Minute, "another agent", func(context.Context) error {
		if now, err := in(t, l, "host1", read...); err != nil || now == before {
			return fmt.Errorf("the agent is %s, %w", now, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	wantIn(t, l, "host2", "agent of host1", l.executable, "get", agentOf(l, 1))
}

func testCut(t *testing.T, l *Lab) {
	h := l.Hosts()[1]
	for range 2 { // repeating it changes nothing
		if err := l.Cut(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := in(t, l, "host1", l.executable, "get", agentOf(l, 2)); err == nil {
		t.Errorf("host2 is cut off and answers %q", text)
	}
	wantIn(t, l, "host2", "agent of host2", l.executable, "get", fmt.Sprintf("http://127.0.0.1:%d/", MeshPort))
	if err := l.Heal(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	wantIn(t, l, "host1", "agent of host2", l.executable, "get", agentOf(l, 2))
}

func testPowerLoss(t *testing.T, l *Lab) {
	h := l.Hosts()[1]
	if _, err := in(t, l, "host2", "touch", "/run/virtmesh/in-memory", "/var/lib/virtmesh/on-disk"); err != nil {
		t.Fatal(err)
	}
	if err := l.Kill(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if pid, err := l.Running(h); pid != 0 || err != nil {
		t.Errorf("it runs on as %d, %v", pid, err)
	}
	if err := l.Kill(t.Context(), h); err != nil {
		t.Errorf("a host that is off: %v", err)
	}
	if linkExists(t.Context(), l.cables(h)[0].outside) {
		t.Error("its cable is still there")
	}
	if _, err := in(t, l, "host2", "true"); err == nil || !strings.Contains(err.Error(), "lab start host2") {
		t.Errorf("a command in it: %v", err)
	}
	// Of several that start it, one does, and the others wait for nothing.
	var starts sync.WaitGroup
	for range 4 {
		starts.Go(func() {
			if err := reopen(t, l.dir).Start(t.Context(), h); err != nil && !strings.Contains(err.Error(), "is changing host2") {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	wantIn(t, l, "host1", "agent of host2", l.executable, "get", agentOf(l, 2))
	wantIn(t, l, "host2", "/var/lib/virtmesh/on-disk", "sh", "-c", "ls /run/virtmesh/in-memory /var/lib/virtmesh/on-disk 2>/dev/null || true")
}

// testNeighbours starts and ends a second lab beside the first.
func testNeighbours(t *testing.T, l *Lab) {
	other := newLab(t)
	up(t, other, 1)
	if other.state.ID == l.state.ID || other.state.Network == l.state.Network || other.state.RegistryPort == l.state.RegistryPort {
		t.Errorf("they share something: %+v and %+v", l.state, other.state)
	}
	wantIn(t, other, "host1", "agent of host1", l.executable, "get", agentOf(other, 1))
	before := pids(t, l)
	if err := other.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := pids(t, l); !slices.Equal(got, before) {
		t.Errorf("the end of one lab changed the other's processes from %v to %v", before, got)
	}
	wantIn(t, l, "host1", "agent of host2", l.executable, "get", agentOf(l, 2))
}

func testDown(t *testing.T, l *Lab) {
	write(t, filepath.Join(l.dir, "notes.txt"), []byte("mine"))
	if err := os.MkdirAll(l.imagesDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	ids, hosts := pids(t, l), l.Hosts()
	bridges := []string{l.bridge(), l.guestBridge(), l.cables(hosts[0])[0].outside}
	if err := reopen(t, l.dir).Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range bridges {
		if linkExists(t.Context(), name) {
			t.Errorf("interface %s is left", name)
		}
	}
	for _, pid := range ids {
		if _, err := startTime(pid); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
	if got, want := entries(t, l.dir), "images lock notes.txt"; got != want {
		t.Errorf("the directory has %s, want %s", got, want)
	}
	gone := reopen(t, l.dir)
	if gone.Exists() {
		t.Error("there is still a lab")
	}
	if err := gone.Down(t.Context()); err != nil {
		t.Errorf("down again: %v", err)
	}
}

// A lab whose start stopped half-way is finished by the next one, or ended.
func TestHalfMadeLab(t *testing.T) {
	if !alone(t) {
		return
	}
	readyNodes(t)
	for name, next := range map[string]func(t *testing.T, l *Lab){
		"up goes on": func(t *testing.T, l *Lab) {
			if steps := up(t, l, 2); strings.Contains(steps, "powering on") || !strings.Contains(steps, "joining host2") {
				t.Errorf("steps:\n%s", steps)
			}
			wantIn(t, l, "host1", "agent of host2", l.executable, "get", agentOf(l, 2))
			if err := l.Down(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"down ends it": func(t *testing.T, l *Lab) {
			if err := l.Down(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := entries(t, l.dir); got != "lock" {
				t.Errorf("left: %s", got)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			t.Setenv(tokenEnv, "another")
			if _, err := tryUp(t, l, 2); err == nil || !strings.Contains(err.Error(), "host2: virtmesh agent join") || !strings.Contains(err.Error(), "the token is unknown") {
				t.Fatalf("a host that cannot join: %v", err)
			}
			t.Setenv(tokenEnv, testToken)
			next(t, reopen(t, l.dir))
		})
	}
}

// What is in the directory and not of a lab is never removed.
func TestDownLeavesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"thesis.txt", "hosts", "shared"} {
		write(t, filepath.Join(dir, name), []byte("mine"))
	}
	if err := reopen(t, dir).Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, dir); got != "hosts shared thesis.txt" {
		t.Errorf("left: %s", got)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root starts a lab")
	}
	if _, err := tryUp(t, reopen(t, dir), 1); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "hosts")) || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("a lab where something else is: %v", err)
	}
	if l := reopen(t, dir); l.Exists() {
		t.Error("it was made all the same")
	}
}

func TestStateIsReadAgainUnderTheLock(t *testing.T) {
	early := reopen(t, t.TempDir())
	other := reopen(t, early.dir)
	other.state = state{ID: "abcdef", Network: 9}
	if err := other.saveState(); err != nil {
		t.Fatal(err)
	}
	unlock, err := early.lockLab()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if !early.Exists() || early.state.Network != 9 {
		t.Errorf("a lab that another command made meanwhile is not seen: %+v", early.state)
	}
}

// After a restart of the machine a lab's bridges are gone, and another lab may have
// taken its network.
func TestNetworkTakenMeanwhile(t *testing.T) {
	if !alone(t) {
		return
	}
	ctx := t.Context()
	first, second := newLab(t), newLab(t)
	for _, l := range []*Lab{first, second} {
		if err := l.initialiseState(ctx, Wanted{}); err != nil {
			t.Fatal(err)
		}
	}
	if first.state.Network != second.state.Network {
		t.Fatalf("networks %d and %d, although no bridge tells of either", first.state.Network, second.state.Network)
	}
	if err := second.ensureBridges(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.ensureBridges(ctx); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if err := first.ensureBridges(ctx); err == nil || !strings.Contains(err.Error(), second.bridge()) {
		t.Errorf("the network of another lab is used: %v", err)
	}
	if linkExists(ctx, first.bridge()) {
		t.Error("a bridge was made for the lab that was refused")
	}
	if err := ip(ctx, "address", "add", "10.201.1.200/30", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	if n, err := freeNetwork(ctx); err != nil || n != 2 {
		t.Errorf("free is %d, %v; want 2: a lab has 0, the machine an address in 1", n, err)
	}
	if err := second.removeBridges(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.removeBridges(ctx); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	if err := first.ensureBridges(ctx); err != nil {
		t.Errorf("when the network is free again: %v", err)
	}
}

func TestInitIsNotForUsers(t *testing.T) {
	if err := RunInit(strings.NewReader("{}")); err == nil || !strings.Contains(err.Error(), "not by hand") {
		t.Errorf("got %v", err)
	}
}

func TestPollTellsWhatItWaitedFor(t *testing.T) {
	err := poll(t.Context(), time.Millisecond, "the moon", func(context.Context) error { return syscall.ENOENT })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "the moon") {
		t.Errorf("got %v", err)
	}
}

// A host that was removed from the mesh never gets Ready. Who waits for it must learn
// what to do.
func TestUpTellsARemovedHostFromASlowOne(t *testing.T) {
	slow := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host2"}}
	ready := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host1"}}
	ready.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	err := unready([]Host{{Name: "host1"}, {Name: "host2"}, {Name: "host3"}}, []corev1.Node{ready, slow})
	if err == nil || !strings.HasPrefix(err.Error(), "host2 is not Ready, host3 has no node (") {
		t.Errorf("got %v", err)
	}
	if err := unready([]Host{{Name: "host1"}}, []corev1.Node{ready, slow}); err != nil {
		t.Errorf("all hosts are Ready: %v", err)
	}
}
