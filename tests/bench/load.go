package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	keys           = 20000
	valueBytes     = 1024
	maxConnections = 16
	// tolerated is the share of failed operations above which a measurement is
	// none.
	tolerated = 0.001
)

// sample is what one load showed.
type sample struct {
	rate  float64 // operations in a second
	p99   float64 // ms
	asked int     // operations in all, those of the warm-up included
	cpu   float64 // us of the members' CPU time for an operation
}

// operation is what a client of the load repeats.
type operation func(ctx context.Context, cli *clientv3.Client, random *rand.Rand) error

func key(i int) string { return fmt.Sprintf("/registry/bench/object/default/%08d", i) }

func put(ctx context.Context, cli *clientv3.Client, random *rand.Rand) error {
	_, err := cli.Put(ctx, key(random.IntN(keys)), value(random))
	return err
}

func get(ctx context.Context, cli *clientv3.Client, random *rand.Rand) error {
	answer, err := cli.Get(ctx, key(random.IntN(keys)))
	if err == nil && (len(answer.Kvs) != 1 || len(answer.Kvs[0].Value) != valueBytes) {
		err = errors.New("a key that was written is not there")
	}
	return err
}

// value returns bytes that nothing can compress.
func value(random *rand.Rand) string {
	b := make([]byte, valueBytes)
	for i := 0; i < len(b); i += 8 {
		v := random.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return string(b)
}

// connections opens as many as a load of so many clients uses.
func connections(ctx context.Context, endpoint string, clients int) ([]*clientv3.Client, func(), error) {
	var list []*clientv3.Client
	closeAll := func() {
		for _, cli := range list {
			_ = cli.Close()
		}
	}
	for range min(clients, maxConnections) {
		cli, err := dial(ctx, endpoint)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		list = append(list, cli)
	}
	return list, closeAll, nil
}

// fill writes every key once.
func fill(ctx context.Context, endpoint string) error {
	const clients = 64
	list, closeAll, err := connections(ctx, endpoint, clients)
	if err != nil {
		return err
	}
	defer closeAll()
	var next atomic.Int64
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for k := next.Add(1) - 1; k < keys && errs[i] == nil; k = next.Add(1) - 1 {
				_, errs[i] = list[i%len(list)].Put(ctx, key(int(k)), value(random))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write all keys: %w", err)
	}
	return nil
}

// worker is one client of a load: it asks, waits for the answer, asks again.
type worker struct {
	latencies []float64 // ms, of what was answered within the measured time
	asked     int       // operations in all, those of the warm-up included
	failed    int
	last      error
}

func (w *worker) run(ctx context.Context, cli *clientv3.Client, random *rand.Rand, do operation, from, until time.Time) {
	for began := time.Now(); began.Before(until); {
		err := do(ctx, cli, random)
		w.asked++
		now := time.Now()
		switch {
		case now.Before(from) || now.After(until):
		case err != nil:
			w.failed, w.last = w.failed+1, err
		default:
			w.latencies = append(w.latencies, milliseconds(now.Sub(began)))
		}
		if ctx.Err() != nil {
			w.last = ctx.Err()
			return
		}
		began = now
	}
}

// measure puts a load on an endpoint: warm-up of a fifth of the time first.
func measure(ctx context.Context, endpoint string, clients int, do operation, length time.Duration) (sample, error) {
	list, closeAll, err := connections(ctx, endpoint, clients)
	if err != nil {
		return sample{}, err
	}
	defer closeAll()
	from := time.Now().Add(length / 5)
	until := from.Add(length)
	ctx, cancel := context.WithDeadline(ctx, until.Add(30*time.Second))
	defer cancel()
	workers := make([]worker, clients)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
			workers[i].run(ctx, list[i%len(list)], random, do, from, until)
		})
	}
	wg.Wait()
	return collect(workers, length)
}

// collect puts together what the clients saw.
func collect(workers []worker, length time.Duration) (sample, error) {
	var latencies []float64
	var failed, asked int
	var last error
	for _, w := range workers {
		latencies = append(latencies, w.latencies...)
		failed, asked = failed+w.failed, asked+w.asked
		if w.last != nil {
			last = w.last
		}
	}
	if total := failed + len(latencies); len(latencies) == 0 || float64(failed) > tolerated*float64(total) {
		return sample{}, fmt.Errorf("%d of %d operations failed, the last with: %w", failed, total, last)
	}
	if failed > 0 {
		progressf("  %d operations failed, the last with: %v", failed, last)
	}
	return sample{rate: float64(len(latencies)) / length.Seconds(), p99: quantile(latencies, 0.99), asked: asked}, nil
}
