package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// creation is what one machine's way from the API's answer to Running took.
type creation struct {
	took time.Duration
	// settled is how many log entries were applied until nothing was written any
	// more, entries the same without those that only told the machine's own status
	// after its instance ran.
	entries, settled float64
}

// measureCreates creates machines one by one, each beside a bare domain like
// it, all on one host.
func (l *laboratory) measureCreates(ctx context.Context, n int, r *report) error {
	host := l.hosts[0]
	leader, err := l.leader(ctx)
	if err != nil {
		return err
	}
	floor, err := l.prepareFloor(ctx, host)
	if err != nil {
		return fmt.Errorf("prepare the domain to compare with: %w", err)
	}
	var ours, bare, entries, settled []float64
	for i := range n {
		c, err := l.create(ctx, host, leader, fmt.Sprintf("bench-%d", i))
		if err != nil {
			return err
		}
		took, err := floor.create(ctx)
		if err != nil {
			return err
		}
		ours, bare = append(ours, milliseconds(c.took)), append(bare, milliseconds(took))
		entries, settled = append(entries, c.entries), append(settled, c.settled)
		progressf("  machine %d of %d: %.0f ms, virsh %.0f ms, %.0f log entries to Running, %.0f in all",
			i+1, n, ours[i], bare[i], c.entries, c.settled)
	}
	for _, q := range []struct {
		name   string
		share  float64
		budget float64
	}{{"p50", 0.5, 60}, {"p95", 0.95, 150}} {
		v, b := quantile(ours, q.share), quantile(bare, q.share)
		r.add(figure{Name: "vm_create_to_running_" + q.name, Value: v, Unit: "ms", Beside: &beside{"virsh create", b}})
		r.add(figure{Name: "vm_create_over_virsh_" + q.name, Value: v - b, Unit: "ms", Budget: atMost(q.budget)})
	}
	r.add(figure{Name: "vm_create_raft_entries", Value: quantile(entries, 0.5), Unit: "entries", Budget: atMost(4)})
	r.add(figure{Name: "vm_create_raft_entries_p95", Value: quantile(entries, 0.95), Unit: "entries"})
	r.add(figure{Name: "vm_create_raft_entries_settled", Value: quantile(settled, 0.5), Unit: "entries"})
	return nil
}

// manifest is a machine that boots the small image on a given host.
func (l *laboratory) manifest(name, host, strategy string) (*unstructured.Unstructured, error) {
	text := fmt.Sprintf(`
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: %s, namespace: %s}
spec:
  runStrategy: %s
  template:
    metadata: {labels: {kubevirt.io/vm: %s}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {kubernetes.io/hostname: %s}
      domain:
        memory: {guest: 96Mi}
        devices:
          disks: [{name: root, disk: {bus: virtio}}]
          interfaces: [{name: default, masquerade: {}}]
      networks: [{name: default, pod: {}}]
      volumes: [{name: root, containerDisk: {image: "%s"}}]
`, name, namespace, strategy, name, host, l.image)
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", name, err)
	}
	return object, nil
}

// create makes a machine, waits until its guest runs and the store is at rest,
// and removes it again.
func (l *laboratory) create(ctx context.Context, host, leader *labHost, name string) (creation, error) {
	before, err := leader.entries(ctx)
	if err != nil {
		return creation{}, err
	}
	took, running, err := l.startMachine(ctx, host, name)
	if err != nil {
		return creation{}, fmt.Errorf("create %s: %w", name, err)
	}
	settled, err := leader.entries(ctx)
	if err != nil {
		return creation{}, err
	}
	later, err := writesAfter(ctx, host, name, running)
	if err != nil {
		return creation{}, fmt.Errorf("count what was written of %s after it ran: %w", name, err)
	}
	if err := l.remove(ctx, host, name); err != nil {
		return creation{}, fmt.Errorf("remove %s: %w", name, err)
	}
	return creation{took: took, entries: settled - before - float64(later), settled: settled - before}, nil
}

// writesAfter counts how often a machine, without its instance, was written after
// a revision.
//
// The counter of entries cannot be read at the moment at which the instance runs:
// milliseconds later the entry with the machine's own status is in it. So the
// counter is read at rest, and those entries are taken off that the watch shows to
// have been later. What else was written then, refused transactions too, counts
// as needed to run.
func writesAfter(ctx context.Context, host *labHost, name, revision string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	machines := host.dynamic.Resource(vms).Namespace(namespace)
	now, err := machines.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	last, err := strconv.ParseUint(now.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resource version of %s: %w", name, err)
	}
	since, err := strconv.ParseUint(revision, 10, 64)
	if err != nil || last <= since {
		return 0, err
	}
	events, err := machines.Watch(ctx, metav1.ListOptions{ResourceVersion: revision})
	if err != nil {
		return 0, err
	}
	defer events.Stop()
	for n := 0; ; {
		event, ok := <-events.ResultChan()
		if !ok || event.Type == watch.Error {
			return 0, fmt.Errorf("the watch ended: %v", event.Object)
		}
		vm, ok := event.Object.(*unstructured.Unstructured)
		if !ok || vm.GetName() != name {
			continue
		}
		n++
		if vm.GetResourceVersion() == now.GetResourceVersion() {
			return n, nil
		}
	}
}

// startMachine creates a machine and returns how long after the API's answer
// its instance was seen Running, and the revision that says so.
func (l *laboratory) startMachine(ctx context.Context, host *labHost, name string) (took time.Duration, revision string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	object, err := l.manifest(name, host.name, string(kubevirtv1.RunStrategyAlways))
	if err != nil {
		return 0, "", err
	}
	events, err := host.dynamic.Resource(vmis).Namespace(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, "", fmt.Errorf("watch instances: %w", err)
	}
	defer events.Stop()
	if _, err := host.dynamic.Resource(vms).Namespace(namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return 0, "", err
	}
	accepted := time.Now()
	phase := "unknown"
	for {
		select {
		case <-ctx.Done():
			return 0, "", fmt.Errorf("not Running but %s: %w", phase, ctx.Err())
		case event, ok := <-events.ResultChan():
			if !ok || event.Type == watch.Error {
				return 0, "", fmt.Errorf("the watch ended: %v", event.Object)
			}
			vmi, ok := event.Object.(*unstructured.Unstructured)
			if !ok || vmi.GetName() != name {
				continue
			}
			phase, _, _ = unstructured.NestedString(vmi.Object, "status", "phase")
			switch kubevirtv1.VirtualMachineInstancePhase(phase) {
			case kubevirtv1.Running:
				return time.Since(accepted), vmi.GetResourceVersion(), nil
			case kubevirtv1.Failed, kubevirtv1.Succeeded:
				return 0, "", fmt.Errorf("the instance is %s", phase)
			}
		}
	}
}

// remove deletes a machine and waits until it and its instance are gone.
func (l *laboratory) remove(ctx context.Context, host *labHost, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err := host.dynamic.Resource(vms).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	for {
		left := errors.Join(gone(ctx, host, vms, name), gone(ctx, host, vmis, name))
		if left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), left)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// gone returns what is left of an object, nil if nothing is.
func gone(ctx context.Context, host *labHost, kind schema.GroupVersionResource, name string) error {
	object, err := host.dynamic.Resource(kind).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s %s deleted at %v has finalizers %v and status %v",
		object.GetKind(), name, object.GetDeletionTimestamp(), object.GetFinalizers(), object.Object["status"])
}
