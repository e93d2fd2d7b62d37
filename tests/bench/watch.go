package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"virtmesh/agent/objects"
)

const (
	// watchedEvents is how many objects of one kind are watched: events, of which a mesh
	// has most.
	watchedEvents = 100_000
	// watchRounds is how many watches are opened for a figure.
	watchRounds = 5
	// idleWatches and stalledWatches are the watches whose memory is measured.
	idleWatches, stalledWatches = 200, 20
	// An agent that computes for less than standstill in a second has nothing to do: the
	// connections of its stalled watches are full.
	standstill = 100 * time.Millisecond
)

// watcher opens a watch of all events.
type watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)

// runWatch measures watches of many objects, with the Go client over HTTP.
func runWatch(ctx context.Context, o *options, r *report) error {
	a, err := startFilled(ctx, o, population{Hosts: 1, Events: watchedEvents})
	if err != nil {
		return err
	}
	defer a.end()
	// As an informer of client-go asks for what it knows: protobuf, or else JSON.
	config := &rest.Config{Host: a.API, QPS: -1}
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType, protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	typed, err := kubernetes.NewForConfig(protobuf)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	typedJSON, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	bare, err := metadata.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	last, err := createEvent(ctx, typed)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("watch_%d_events_", watchedEvents)
	for _, c := range []struct {
		name string
		open watcher
	}{
		{"typed", typed.CoreV1().Events("").Watch},
		{"typed_json", typedJSON.CoreV1().Events("").Watch},
		{"metadata", bare.Resource(corev1.SchemeGroupVersion.WithResource("events")).Watch},
	} {
		if err := measureWatches(ctx, r, name+c.name, c.open, last); err != nil {
			return err
		}
	}
	if err := measureFirstLists(ctx, r, name+"typed", typed, protobufFrame); err != nil {
		return err
	}
	if err := measureFirstLists(ctx, r, name+"typed_json", typedJSON, jsonFrame); err != nil {
		return err
	}
	return measureWatchMemory(ctx, r, a, name, typed.CoreV1().Events("").Watch, last)
}

// createEvent creates one more event and returns its revision.
func createEvent(ctx context.Context, client kubernetes.Interface) (uint64, error) {
	const namespace = "ns0"
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "last"}, InvolvedObject: corev1.ObjectReference{Namespace: namespace}}
	e, err := client.CoreV1().Events(namespace).Create(ctx, e, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("create an event: %w", err)
	}
	return objects.Revision(e)
}

// measureWatches measures how long one kind of client waits for a watch from the revision
// before the last event, and for one that begins with all events.
func measureWatches(ctx context.Context, r *report, name string, open watcher, last uint64) error {
	resumed := metav1.ListOptions{ResourceVersion: strconv.FormatUint(last-1, 10)}
	initial, rest, all := make([]float64, watchRounds), make([]float64, watchRounds), make([]float64, watchRounds)
	for i := range watchRounds {
		first, _, err := followWatch(ctx, open, resumed, 1)
		if err != nil {
			return fmt.Errorf("watch from a revision: %w", err)
		}
		rest[i] = first.Seconds()
		first, last, err := followWatch(ctx, open, withInitialEvents(), watchedEvents)
		if err != nil {
			return fmt.Errorf("watch with initial events: %w", err)
		}
		initial[i], all[i] = first.Seconds(), last.Seconds()
	}
	r.add(figure{Name: name + "_resumed", Value: 1000 * median(rest), Unit: "ms", Budget: atMost(500)})
	r.add(figure{Name: name + "_initial_first", Value: 1000 * median(initial), Unit: "ms", Budget: atMost(500)})
	r.add(figure{Name: name + "_initial_all", Value: median(all), Unit: "s"})
	return nil
}

// withInitialEvents asks for a watch that begins with an event for each object.
func withInitialEvents() metav1.ListOptions {
	yes := true
	return metav1.ListOptions{SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true}
}

// followWatch opens a watch and reads events. It returns how long after its call the first
// and the last of them came.
func followWatch(ctx context.Context, open watcher, o metav1.ListOptions, events int) (first, last time.Duration, err error) {
	began := time.Now()
	w, err := open(ctx, o)
	if err != nil {
		return 0, 0, err
	}
	defer w.Stop()
	for n := range events {
		e, ok := <-w.ResultChan()
		if !ok || e.Type != watch.Added {
			return 0, 0, fmt.Errorf("event %d is %s: %v", n, e.Type, e.Object)
		}
		if n == 0 {
			first = time.Since(began)
		}
	}
	return first, time.Since(began), nil
}

// measureWatchMemory measures what the agent keeps for a watch that is open: one to which
// nothing happens, and one whose client reads none of the initial events.
func measureWatchMemory(ctx context.Context, r *report, a *agentProcess, name string, open watcher, last uint64) error {
	for _, c := range []struct {
		name    string
		watches int
		options metav1.ListOptions
	}{
		{"idle", idleWatches, metav1.ListOptions{ResourceVersion: strconv.FormatUint(last, 10)}},
		{"stalled", stalledWatches, withInitialEvents()},
	} {
		perWatch, err := a.memoryPerWatch(ctx, c.watches, open, c.options)
		if err != nil {
			return fmt.Errorf("memory of an open watch: %w", err)
		}
		r.add(figure{Name: name + c.name + "_memory", Value: perWatch / 1000, Unit: "kB"})
	}
	return nil
}

// memoryPerWatch opens watches, reads nothing, and returns what each adds to what the
// agent keeps.
func (a *agentProcess) memoryPerWatch(ctx context.Context, watches int, open watcher, o metav1.ListOptions) (float64, error) {
	before, err := a.live()
	if err != nil {
		return 0, err
	}
	for range watches {
		w, err := open(ctx, o)
		if err != nil {
			return 0, err
		}
		defer w.Stop()
	}
	if err := a.awaitStandstill(ctx); err != nil {
		return 0, err
	}
	after, err := a.live()
	return (after - before) / float64(watches), err
}

// awaitStandstill waits until the agent has nothing to do.
func (a *agentProcess) awaitStandstill(ctx context.Context) error {
	for {
		before, err := a.cpu()
		if err != nil {
			return err
		}
		if err := a.rest(ctx, time.Second); err != nil {
			return err
		}
		if after, err := a.cpu(); err != nil || after-before < standstill {
			return err
		}
	}
}

// writeEvents stores events that belong to no machine of the population.
func (p population) writeEvents(ctx context.Context, store objects.Store, shape string) error {
	const perTransaction = 500
	for i := 0; i < p.Events; {
		var tx objects.Tx
		for range min(perTransaction, p.Events-i) {
			name := fmt.Sprintf("web-server-%d", i)
			at := objects.Key{Namespace: fmt.Sprint("ns", i%namespaces), Name: name + ".started"}
			tx.Put(objects.KindFor[*corev1.Event]().StoreKey(at), []byte(words(name, hostName(i%p.Hosts), i).Replace(shape)))
			i++
		}
		if _, err := tx.Commit(ctx, store); err != nil {
			return fmt.Errorf("write events: %w", err)
		}
	}
	return nil
}
