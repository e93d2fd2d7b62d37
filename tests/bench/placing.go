package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

const (
	placingHosts     = 500
	placingInstances = 10_000
	placingReplicas  = 3
	// placingClients create instances at the same time, each as fast as it gets answers.
	placingClients = 32
)

// runPlacing measures how long it takes until 10,000 instances that are created at
// once have their claims.
func runPlacing(ctx context.Context, o *options, r *report) error {
	dir, err := os.MkdirTemp(o.dir, "placing-")
	if err != nil {
		return fmt.Errorf("make a directory for the replicas: %w", err)
	}
	defer os.RemoveAll(dir)
	m, err := newPlacingMesh(ctx, dir)
	if err != nil {
		return err
	}
	defer m.stop()
	took, spent, entries, err := m.placeAll(ctx)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("placement_%d_into_%d_hosts", placingInstances, placingHosts)
	r.add(figure{Name: name, Value: took.Seconds(), Unit: "s", Budget: atMost(60)})
	r.add(figure{Name: name + "_cpu", Value: spent.Seconds(), Unit: "s"})
	r.add(figure{Name: name + "_entries", Value: float64(entries), Unit: "entries"})
	log, err := sizeOf(filepath.Join(dir, hostName(0), "wal"))
	if err != nil {
		return err
	}
	// What a host that reboots must be sent instead of a snapshot stays in the log.
	kept := raftstore.DefaultConfig().Limits.TrailingBytes
	r.add(figure{Name: name + "_log", Value: float64(log) / (1 << 20), Unit: "MiB", Budget: atMost(float64(kept) / (1 << 20))})
	return nil
}

// sizeOf returns what the files in a directory take.
func sizeOf(dir string) (sum int64, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("measure the log: %w", err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return 0, fmt.Errorf("measure the log: %w", err)
		}
		sum += info.Size()
	}
	return sum, nil
}

// placeAll creates the instances and waits until each has a claim. It returns how long
// that took, what processor time this process used, and how many log entries there were.
func (m *placingMesh) placeAll(ctx context.Context) (took, spent time.Duration, entries uint64, err error) {
	began, used, first := time.Now(), processorTime(), m.stores[0].Status(ctx).AppliedIndex
	if err := m.createAll(ctx); err != nil {
		return 0, 0, 0, err
	}
	progressf("placement: created after %s", time.Since(began).Round(time.Millisecond))
	select {
	case <-m.placed:
	case err := <-m.failed:
		return 0, 0, 0, err
	case <-ctx.Done():
		return 0, 0, 0, ctx.Err()
	case <-time.After(10 * time.Minute):
		return 0, 0, 0, fmt.Errorf("only %d of %d instances are placed after 10 minutes", len(m.hosts[0].claims.Instances()), placingInstances)
	}
	return time.Since(began), processorTime() - used, m.stores[0].Status(ctx).AppliedIndex - first, nil
}

// createAll creates the instances through all replicas.
func (m *placingMesh) createAll(ctx context.Context) error {
	next := make(chan int)
	errs := make([]error, placingClients)
	var clients sync.WaitGroup
	for c := range placingClients {
		clients.Go(func() {
			for i := range next {
				if errs[c] == nil {
					errs[c] = createInstance(ctx, m.stores[c%placingReplicas], i)
				}
			}
		})
	}
	for i := range placingInstances {
		next <- i
	}
	close(next)
	clients.Wait()
	return errors.Join(errs...)
}

func createInstance(ctx context.Context, store *raftstore.Store, i int) error {
	vmi := smallInstance(fmt.Sprintf("vm%05d", i), i)
	vmi.UID = ""
	vmi.Spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{*kubevirtv1.DefaultMasqueradeNetworkInterface()}
	vmi.Spec.Networks = []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()}
	var tx objects.Tx
	tx.Create(vmi)
	if _, err := tx.Commit(ctx, objects.FromRaft(store, nil)); err != nil {
		return fmt.Errorf("create instance %s: %w", vmi.Name, err)
	}
	return nil
}

// processorTime is what this process has used of the processors so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
