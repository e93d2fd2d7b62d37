package api_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
)

func (h *host) machines(t testing.TB) dynamic.ResourceInterface {
	t.Helper()
	return h.dynamic(t).Resource(vmResource).Namespace("default")
}

func create(b *testing.B, vms dynamic.ResourceInterface, n int64) {
	b.Helper()
	obj := parse(b, vmManifest)
	obj.SetName(fmt.Sprintf("vm-%d", n))
	if _, err := vms.Create(b.Context(), obj, metav1.CreateOptions{}); err != nil {
		b.Error(err)
	}
}

// BenchmarkCreate creates machines from several clients at once.
func BenchmarkCreate(b *testing.B) {
	h := start(b)
	vms := h.machines(b)
	var n atomic.Int64
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			create(b, vms, n.Add(1))
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// BenchmarkGet reads one machine, linearizably.
func BenchmarkGet(b *testing.B) {
	h := start(b)
	vms := h.machines(b)
	create(b, vms, 0)
	b.ResetTimer()
	for b.Loop() {
		if _, err := vms.Get(b.Context(), "vm-0", getOptions); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

// BenchmarkList lists 500 machines.
func BenchmarkList(b *testing.B) {
	h := start(b)
	vms := h.machines(b)
	for i := range int64(500) {
		create(b, vms, i)
	}
	b.ResetTimer()
	for b.Loop() {
		list, err := vms.List(b.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 500 {
			b.Fatal(len(list.Items), err)
		}
	}
}

// BenchmarkWatchers creates machines that 50 clients watch, and waits until all
// have seen all.
func BenchmarkWatchers(b *testing.B) {
	h := start(b)
	vms := h.machines(b)
	const watchers = 50
	done := make(chan struct{}, watchers)
	for range watchers {
		w, err := h.machines(b).Watch(b.Context(), metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
		go func() {
			for range b.N {
				<-w.ResultChan()
			}
			done <- struct{}{}
		}()
	}
	b.ResetTimer()
	for i := range b.N {
		create(b, vms, int64(i))
	}
	for range watchers {
		<-done
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "events/s")
}
