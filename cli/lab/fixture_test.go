package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// readyNodes is an API that has the nodes of any lab, all Ready.
func readyNodes(t *testing.T) {
	t.Helper()
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
	for n := range 9 {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("host%d", n+1)}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		list.Items = append(list.Items, node)
	}
	data, err := yaml.Marshal(list)
	if err == nil {
		data, err = yaml.YAMLToJSON(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(data)
	}))
	t.Cleanup(server.Close)
	t.Setenv(apiEnv, server.URL)
}

// newLab opens the lab in a new directory.
func newLab(t *testing.T) *Lab {
	t.Helper()
	// Short, for the UNIX sockets below it.
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return reopen(t, dir)
}

// reopen is the lab as the next command finds it.
func reopen(t *testing.T, dir string) *Lab {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// up starts the lab and returns the steps that it took.
func up(t *testing.T, l *Lab, hosts int) string {
	t.Helper()
	steps, err := tryUp(t, l, hosts)
	if err != nil {
		logs, _ := filepath.Glob(filepath.Join(l.dir, "hosts", "*", "log", "*.log"))
		for _, log := range logs {
			text, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", log, text)
		}
		t.Fatal(err)
	}
	return steps
}

func tryUp(t *testing.T, l *Lab, hosts int) (string, error) {
	t.Helper()
	var mu sync.Mutex
	var steps strings.Builder
	err := l.Up(t.Context(), Wanted{Hosts: hosts}, func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&steps, format+"\n", args...)
	})
	return steps.String(), err
}

// in runs a command inside a host and returns what it printed.
func in(t *testing.T, l *Lab, host string, argv ...string) (string, error) {
	t.Helper()
	h, err := l.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := l.Command(t.Context(), h, argv...)
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// wantIn runs a command inside a host until it prints want.
func wantIn(t *testing.T, l *Lab, host, want string, argv ...string) {
	t.Helper()
	err := poll(t.Context(), time.Minute, want, func(context.Context) error {
		got, err := in(t, l, host, argv...)
		if err == nil && got != want {
			err = fmt.Errorf("%s prints %q", strings.Join(argv, " "), got)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// agentOf is the URL of a host's agent.
func agentOf(l *Lab, index int) string {
	return fmt.Sprintf("http://%s:%d/", l.state.Hosts[index-1].Address, MeshPort)
}

func pids(t *testing.T, l *Lab) []int {
	t.Helper()
	var all []int
	for _, h := range l.Hosts() {
		pid, err := l.Running(h)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pid)
	}
	return all
}

func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
