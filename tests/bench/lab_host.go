package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	namespace = metav1.NamespaceDefault
	// entriesApplied counts the log entries that a host's replica has applied.
	entriesApplied = "virtmesh_store_entries_applied_total"
)

var (
	vms  = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachines")
	vmis = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachineinstances")
)

// labHost is a host of the lab and the way to its API.
type labHost struct {
	name string
	lab  *laboratory
	*kubernetes.Clientset
	dynamic dynamic.Interface
}

// connect opens the API of a host as its administrator.
func (l *laboratory) connect(ctx context.Context, name string) (*labHost, error) {
	env, err := l.lab(ctx, "env", name)
	if err != nil {
		return nil, err
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(env), "export KUBECONFIG=")
	if !ok {
		return nil, fmt.Errorf("'lab env %s' printed %q", name, env)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of %s: %w", name, err)
	}
	// The client's own limits are not what is measured.
	config.QPS, config.Burst = 1000, 1000
	h := &labHost{name: name, lab: l}
	if h.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", name, err)
	}
	if h.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", name, err)
	}
	return h, nil
}

// shell runs a script inside the host and returns what it prints.
func (h *labHost) shell(ctx context.Context, script string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return h.lab.lab(ctx, append([]string{"exec", h.name, "--", "sh", "-euc", script, "sh"}, args...)...)
}

// metric reads a metric without labels from the host's agent.
func (h *labHost) metric(ctx context.Context, name string) (float64, error) {
	data, err := h.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the metrics of %s: %w", h.name, err)
	}
	v, err := parseMetric(data, name)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", h.name, err)
	}
	return v, nil
}

// parseMetric finds a metric without labels in Prometheus' text format.
func parseMetric(data []byte, name string) (float64, error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != name {
			continue
		}
		v, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		return v, nil
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return 0, fmt.Errorf("there is no %s", name)
}

// leader finds the host that leads the store.
func (l *laboratory) leader(ctx context.Context) (*labHost, error) {
	for _, h := range l.hosts {
		leads, err := h.metric(ctx, "virtmesh_store_leader")
		if err != nil {
			return nil, err
		}
		if leads == 1 {
			return h, nil
		}
	}
	return nil, errors.New("no host leads the store")
}

// entries counts the log entries that the host has applied, once nothing has
// been added for a second.
func (h *labHost) entries(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	const step, quiet = 100 * time.Millisecond, 10
	last, err := h.metric(ctx, entriesApplied)
	for same := 0; err == nil && same < quiet; {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the store of %s does not come to rest: %w", h.name, ctx.Err())
		case <-time.After(step):
		}
		var now float64
		if now, err = h.metric(ctx, entriesApplied); now == last {
			same++
		} else {
			same, last = 0, now
		}
	}
	return last, err
}
