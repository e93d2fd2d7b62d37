//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// earlierVersion is how the program of the tagged commit calls itself.
const earlierVersion = "level-1"

// git runs git in the project.
func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", "../.."}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// taggedCommit returns the commit of the tag level-1, or the one that testdata names.
func taggedCommit(t *testing.T) string {
	t.Helper()
	named, err := os.ReadFile("testdata/level1")
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	for _, revision := range []string{"refs/tags/level-1", strings.TrimSpace(string(named))} {
		commit, err := git(t.Context(), "rev-parse", "--verify", "--quiet", revision+"^{commit}")
		if err == nil {
			return commit
		}
		errs = append(errs, err)
	}
	t.Skipf("this copy of the project has no history with the commit of feature level 1: %v", errors.Join(errs...))
	return ""
}

// buildTagged builds the program of the tagged commit.
func buildTagged(t *testing.T) string {
	t.Helper()
	commit := taggedCommit(t)
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if _, err := git(t.Context(), "worktree", "add", "--detach", source, commit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := git(context.Background(), "worktree", "remove", "--force", source); err != nil {
			t.Error(err)
		}
	})
	built := filepath.Join(dir, "virtmesh")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w -X virtmesh/cli.Version="+earlierVersion, "-o", built, "./cli/virtmesh")
	cmd.Dir, cmd.Env = source, append(os.Environ(), "GOFLAGS=-tags=libvirt_dlopen -trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return built
}

// useOwnLab lets the helpers of this package work on another lab of n hosts, which a program
// starts, until the test ends.
func useOwnLab(t *testing.T, by string, n int) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "vm-skew-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, before := binary, labDir
	binary, labDir = by, dir
	t.Cleanup(func() {
		if t.Failed() {
			printLogs()
		}
		if _, err := lab(context.Background(), "down"); err != nil {
			t.Error(err)
		}
		binary, labDir = program, before
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	mustLab(t, "up", "--hosts", fmt.Sprint(n))
}

// skew is a lab whose hosts run one of two programs.
type skew struct {
	t    *testing.T
	path string // where every host has its program; at first the earlier one
	next string
	ns   string
	made int
}

// restartAgent ends a host's agent, which the lab starts again.
func (s *skew) restartAgent(host string) {
	s.t.Helper()
	inside(s.t, host, "sh", "-c", `until old=$(pgrep -o -f "[v]irtmesh agent run"); do sleep 0.1; done; pkill -TERM -f "[v]irtmesh agent run"; while [ -d /proc/$old ]; do sleep 0.1; done`)
}

// upgrade gives a host the next program, as a package does, and downgrade the earlier one.
func (s *skew) upgrade(host string) {
	s.t.Helper()
	inside(s.t, host, "mount", "--bind", s.next, s.path)
	s.restartAgent(host)
}

func (s *skew) downgrade(host string) {
	s.t.Helper()
	inside(s.t, host, "umount", "--lazy", s.path)
	s.restartAgent(host)
}

// waitVersions waits until the mesh is whole and every host sees the others run the versions
// that are named.
func (s *skew) waitVersions(next ...string) string {
	s.t.Helper()
	status := waitWhole(s.t)
	eventually(s.t, 2*time.Minute, "all hosts to know who runs what", func(ctx context.Context) error {
		for i := 1; i <= hosts; i++ {
			seen, err := meshStatus(s.t, ctx, fmt.Sprintf("host%d", i))
			if err != nil {
				return err
			}
			for _, m := range seen.Members {
				if earlier := m.Version == earlierVersion; earlier == slices.Contains(next, m.Name) {
					return fmt.Errorf("host%d says that %s runs %s", i, m.Name, m.Version)
				}
			}
		}
		return nil
	})
	return status.Leader
}

// expectWrites writes at every host and reads each write at every host.
func (s *skew) expectWrites() {
	s.t.Helper()
	var names []string
	for i := 1; i <= hosts; i++ {
		s.made++
		name := fmt.Sprintf("made-%d", s.made)
		names = append(names, name)
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"at": fmt.Sprint(i)}}
		if _, err := connect(s.t, fmt.Sprintf("host%d", i)).CoreV1().ConfigMaps(s.ns).Create(s.t.Context(), object, metav1.CreateOptions{}); err != nil {
			s.t.Fatalf("write at host%d: %v", i, err)
		}
	}
	for i := 1; i <= hosts; i++ {
		a := connect(s.t, fmt.Sprintf("host%d", i))
		for _, name := range names {
			if _, err := a.CoreV1().ConfigMaps(s.ns).Get(s.t.Context(), name, metav1.GetOptions{}); err != nil {
				s.t.Errorf("read %s at host%d: %v", name, i, err)
			}
		}
		nodes, err := a.CoreV1().Nodes().List(s.t.Context(), metav1.ListOptions{})
		if err != nil || len(nodes.Items) != hosts {
			s.t.Errorf("nodes at host%d: %d, %v", i, len(nodes.Items), err)
		}
	}
}

// lead lets one of some hosts lead. A leader that stops hands over to the first voter that has
// all it has, so two others may follow each other for a while.
func (s *skew) lead(hosts ...string) {
	s.t.Helper()
	for range 40 {
		leader := waitWhole(s.t).Leader
		if slices.Contains(hosts, leader) {
			return
		}
		s.restartAgent(leader) // it hands the leadership over
	}
	s.t.Fatalf("none of %v came to lead", hosts)
}

// fill writes so much that every host takes snapshots and drops the beginning of its log,
// of which Limits.TrailingBytes stay.
func (s *skew) fill() {
	s.t.Helper()
	a := connect(s.t, "host1").CoreV1().ConfigMaps(s.ns)
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string]string{"x": strings.Repeat("x", 1_000_000)}}
	if _, err := a.Create(s.t.Context(), object, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	for i := range 430 {
		object.Data["n"] = fmt.Sprint(i)
		if _, err := a.Update(s.t.Context(), object, metav1.UpdateOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	for i := 1; i <= hosts; i++ {
		host := fmt.Sprintf("host%d", i)
		eventually(s.t, 2*time.Minute, "a snapshot on "+host, func(context.Context) error {
			if len(s.snapshots(host)) == 0 {
				return errors.New("there is none")
			}
			return nil
		})
	}
}

// snapshots lists the term and index of each snapshot on a host.
func (s *skew) snapshots(host string) (list []string) {
	s.t.Helper()
	// A host that is emptied has no directory of snapshots for a moment.
	out := inside(s.t, host, "sh", "-c", `find /var/lib/virtmesh/raft/snapshots -mindepth 1 -maxdepth 1 -printf '%f\n' || true`)
	for _, name := range strings.Fields(out) {
		if i := strings.LastIndex(name, "-"); i > 0 && !strings.HasSuffix(name, ".tmp") {
			list = append(list, name[:i])
		}
	}
	return list
}

// expectSnapshot empties a host and checks that it gets the leader's snapshot.
func (s *skew) expectSnapshot(from, host string) {
	s.t.Helper()
	s.lead(from)
	resyncHost(s.t, host)
	eventually(s.t, 2*time.Minute, host+" to have the snapshot of "+from, func(ctx context.Context) error {
		if _, err := meshStatus(s.t, ctx, host); err != nil {
			return err
		}
		source, got := s.snapshots(from), s.snapshots(host)
		if !slices.ContainsFunc(got, func(name string) bool { return slices.Contains(source, name) }) {
			return fmt.Errorf("it has %v, and %s has %v", got, from, source)
		}
		return nil
	})
	s.expectWrites()
}

// level asks a host that runs the next program for the mesh's feature level and the highest
// that a host knows.
func (s *skew) level(host string) (mesh, newest uint32) {
	s.t.Helper()
	var level struct{ Mesh, Newest uint32 }
	out := inside(s.t, host, s.path, "--socket", "/run/virtmesh/agent.sock", "level", "-o", "json")
	if err := json.Unmarshal([]byte(out), &level); err != nil {
		s.t.Fatalf("level: %v in %s", err, out)
	}
	return level.Mesh, level.Newest
}

// The program of feature level 1 and this one share a mesh: entries, snapshots, gossip and
// calls go both ways, hosts change from one to the other and back, and the level is raised
// only once all hosts know the next. Then the earlier program starts no more.
func TestBesideFeatureLevel1(t *testing.T) {
	earlier, next := buildTagged(t), binary
	useOwnLab(t, earlier, hosts)
	s := &skew{t: t, path: earlier, next: next}
	waitWhole(t)
	s.ns = namespace(t, "host2")
	s.expectWrites()

	s.upgrade("host1")
	s.waitVersions("host1")
	s.expectWrites()
	s.lead("host1")
	s.expectWrites()
	s.lead("host2", "host3")
	s.expectWrites()
	s.fill()
	s.expectSnapshot("host1", "host2")
	s.expectSnapshot("host2", "host1")

	s.downgrade("host1")
	s.waitVersions()
	s.expectWrites()
	s.upgrade("host1")
	s.upgrade("host2")
	s.waitVersions("host1", "host2")
	s.expectWrites()

	mesh, newest := s.level("host1")
	if mesh != 1 {
		t.Fatalf("a mesh that was founded at level 1 is at %d", mesh)
	}
	raise := func(host string) (string, error) {
		return lab(t.Context(), "exec", host, "--", s.path, "--socket", "/run/virtmesh/agent.sock", "level", "raise", "--to", "2", "--yes")
	}
	if out, err := raise("host1"); newest > 1 && (err == nil || !strings.Contains(err.Error(), "host3")) {
		t.Errorf("raised while host3 does not know level 2: %v\n%s", err, out)
	}
	s.upgrade("host3")
	s.waitVersions("host1", "host2", "host3")
	if newest == 1 {
		t.Log("this version knows no later feature level, so there is nothing to raise")
		return
	}
	eventually(t, time.Minute, "the level to be raised", func(context.Context) error {
		_, err := raise("host2")
		return err
	})
	s.expectWrites()
	inside(t, "host3", "umount", "--lazy", s.path)
	s.restartAgent("host3")
	eventually(t, 2*time.Minute, "host3 to say that its version is too old", func(ctx context.Context) error {
		out, err := lab(ctx, "exec", "host3", "--", s.path, "--socket", "/run/virtmesh/agent.sock", "status", "-o", "json")
		if !strings.Contains(out, "feature level 2") || !strings.Contains(out, "install") {
			return fmt.Errorf("status: %s: %w", out, err)
		}
		return nil
	})
	s.upgrade("host3")
	s.waitVersions("host1", "host2", "host3")
	s.expectWrites()
}
