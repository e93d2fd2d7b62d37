//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/membership"
	"virtmesh/agent/port/admin"
)

// manyHosts is one more than vote, so one of them follows.
const manyHosts = 6

// A host that follows runs guests and serves its API while the host that feeds it dies,
// becomes a voter in its place, and misses nothing. The dead host follows when it is back,
// and gets nothing more once it was removed.
func TestHostsFollow(t *testing.T) {
	useOwnLab(t, binary, manyHosts)
	before := tiny
	tiny = strings.TrimSpace(mustLab(t, "image", "tiny"))
	t.Cleanup(func() { tiny = before })
	follower := waitFollower(t, "host1", "")
	source := follower.Source
	t.Logf("%s follows %s", follower.Name, source)
	writer := "host1"
	if writer == source || writer == follower.Name {
		writer = "host2"
	}
	if writer == source || writer == follower.Name {
		writer = "host3"
	}

	a := connect(t, follower.Name)
	ns := namespace(t, follower.Name)
	apply(t, follower.Name, machine(ns, "guest", on(follower.Name, kubevirtv1.RunStrategyAlways)))
	waitRunning(t, a, ns, "guest", time.Minute)
	guest := domainID(t, follower.Name, ns, "guest")
	w := watchMade(t, a, ns)
	defer w.Stop()
	writing := writeOn(t, connect(t, writer), ns)

	mustLab(t, "kill", source)
	eventually(t, 30*time.Second, follower.Name+" to be fed by another host", func(ctx context.Context) error {
		m, err := memberOf(t, ctx, writer, follower.Name)
		if err == nil && m.Role == "follower" && (m.Source == source || m.Source == "") {
			err = fmt.Errorf("its source is %q, which is dead", m.Source)
		}
		return err
	})
	apply(t, follower.Name, machine(ns, "second", on(follower.Name, kubevirtv1.RunStrategyAlways)))
	waitRunning(t, a, ns, "second", time.Minute)
	eventually(t, time.Minute, follower.Name+" to vote", func(ctx context.Context) error {
		m, err := memberOf(t, ctx, writer, follower.Name)
		if err == nil && m.Role != "voter" && m.Role != "leader" {
			err = fmt.Errorf("it is a %s", m.Role)
		}
		return err
	})
	if now := domainID(t, follower.Name, ns, "guest"); now != guest {
		t.Errorf("the guest on %s was domain %q and is %q", follower.Name, guest, now)
	}

	mustLab(t, "start", source)
	back := waitFollower(t, writer, source)
	if out := inside(t, writer, binary, "--socket", "/run/virtmesh/agent.sock", "status"); !strings.Contains(out, "follower") {
		t.Errorf("status does not show that %s follows:\n%s", back.Name, out)
	}
	if _, err := connect(t, source).CoreV1().ConfigMaps(ns).Get(t.Context(), "made-000", metav1.GetOptions{}); err != nil {
		t.Errorf("%s does not see what was written while it was dead: %v", source, err)
	}
	mustLab(t, "kill", source)
	eventually(t, time.Minute, source+" to be removed", func(ctx context.Context) error {
		_, err := program(ctx, nil, "--kubeconfig", kubeconfig(writer), "node", "remove", source)
		return err
	})
	mustLab(t, "start", source)
	made := writing.stop()
	expectWatched(t, w, made)
	expectNoFeed(t, source, ns, made[len(made)-1])
}

// memberOf returns what one host knows of another.
func memberOf(t *testing.T, ctx context.Context, host, name string) (admin.Member, error) {
	status, err := meshStatus(t, ctx, host)
	if err != nil {
		return admin.Member{}, err
	}
	i := slices.IndexFunc(status.Members, func(m admin.Member) bool { return m.Name == name })
	if i < 0 {
		return admin.Member{}, fmt.Errorf("%s is no member", name)
	}
	return status.Members[i], nil
}

// waitFollower waits until all hosts are alive and one of them follows, the named one if a
// name is given, and returns it.
func waitFollower(t *testing.T, host, name string) admin.Member {
	t.Helper()
	var follower admin.Member
	eventually(t, 2*time.Minute, "a host to follow", func(ctx context.Context) error {
		status, err := meshStatus(t, ctx, host)
		if err != nil {
			return err
		}
		alive, voters := 0, 0
		follower = admin.Member{}
		for _, m := range status.Members {
			if m.State == "alive" {
				alive++
			}
			switch m.Role {
			case "voter", "leader":
				voters++
			case "follower":
				follower = m
			}
		}
		if alive != manyHosts || voters != manyHosts-1 || follower.Source == "" || name != "" && follower.Name != name {
			return fmt.Errorf("%d alive, %d voters: %+v", alive, voters, status.Members)
		}
		return nil
	})
	return follower
}

// watchMade watches the ConfigMaps of a namespace for as long as the test lasts.
func watchMade(t *testing.T, a api, ns string) watch.Interface {
	t.Helper()
	lasting := rest.CopyConfig(a.config)
	lasting.Timeout = 0
	client, err := kubernetes.NewForConfig(lasting)
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// writing makes one ConfigMap after the other.
type writing struct {
	cancel context.CancelFunc
	made   chan []string
}

// writeOn begins to write through a.
func writeOn(t *testing.T, a api, ns string) writing {
	ctx, cancel := context.WithCancel(t.Context())
	w := writing{cancel, make(chan []string, 1)}
	go func() {
		var made []string
		for n := 0; ctx.Err() == nil; {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("made-%03d", n)}}
			_, err := a.CoreV1().ConfigMaps(ns).Create(ctx, object, metav1.CreateOptions{})
			if err == nil || apierrors.IsAlreadyExists(err) { // an earlier attempt had no answer
				made = append(made, object.Name)
				n++
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		w.made <- made
	}()
	return w
}

// stop ends the writing and returns what was made, in order.
func (w writing) stop() []string {
	w.cancel()
	return <-w.made
}

// expectWatched checks that a watch has delivered everything that was made, once and in order.
func expectWatched(t *testing.T, w watch.Interface, made []string) {
	t.Helper()
	late := time.After(30 * time.Second)
	for i := 0; i < len(made); {
		select {
		case event, ok := <-w.ResultChan():
			object, is := event.Object.(*corev1.ConfigMap)
			if !ok || !is || event.Type != watch.Added {
				t.Fatalf("after %d of %d events the watch delivers %s %v", i, len(made), event.Type, event.Object)
			}
			if !strings.HasPrefix(object.Name, "made-") {
				continue // the namespace's own
			}
			if object.Name != made[i] {
				t.Fatalf("the watch delivers %s, want %s", object.Name, made[i])
			}
			i++
		case <-late:
			t.Fatalf("the watch has delivered %d of %d events", i, len(made))
		}
	}
	t.Logf("%d events were delivered in order", len(made))
}

// expectNoFeed checks that a host that was removed does not learn what the mesh has written
// since, and that its agent says why, once it is certain.
func expectNoFeed(t *testing.T, removed, ns, name string) {
	t.Helper()
	eventually(t, time.Minute, removed+" to know that it was removed", func(context.Context) error {
		logs, err := filepath.Glob(filepath.Join(labDir, "hosts", removed, "log", "*.log"))
		for _, path := range logs {
			data, err := os.ReadFile(path)
			if err == nil && bytes.Contains(data, []byte(membership.ErrExpelled.Error())) {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("none of %v says so", logs))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := connect(t, removed).CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{}); err == nil {
		t.Errorf("%s serves %s, which was written after it was removed", removed, name)
	}
}
