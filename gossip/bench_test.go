package gossip_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// BenchmarkDeathDetection kills members of a settled mesh, one at a time, in
// fake time, and reports the longest time until every other member knew, in
// seconds of the simulated world. With 1,000 members it takes about two minutes
// of CPU and 2 GB.
//
//	go test -run '^$' -bench DeathDetection -benchtime 1x ./gossip
func BenchmarkDeathDetection(b *testing.B) {
	for _, bc := range []struct {
		members int
		loss    float64
	}{{100, 0}, {100, 0.05}, {300, 0.05}, {1000, 0.05}} {
		b.Run(fmt.Sprintf("members=%d/loss=%v", bc.members, bc.loss), func(b *testing.B) {
			cpu := cpuTime()
			var worst time.Duration
			for range b.N {
				worst = max(worst, detectDeaths(b, bc.members, bc.loss, 3))
			}
			b.ReportMetric(worst.Seconds(), "s-to-dead-everywhere")
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N), "cpu-s/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// detectDeaths returns the longest of the given number of detections. Fake time
// exists only in a test, so it runs one.
func detectDeaths(b *testing.B, members int, loss float64, kills int) (worst time.Duration) {
	run := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startMesh(t, members)
			m.WatchFalseDeaths(func(by, of string) { t.Errorf("%s declared %s dead, which lives", by, of) })
			m.Network.SetLoss(loss)
			time.Sleep(10 * time.Second)
			for range kills {
				took, ok := m.AwaitDeath(m.Members[len(m.Members)/2].Name(), time.Minute)
				if !ok {
					t.Error("a death is not known everywhere after a minute")
				}
				worst = max(worst, took)
			}
		})
	}
	all := func(string, string) (bool, error) { return true, nil }
	if !testing.RunTests(all, []testing.InternalTest{{Name: b.Name(), F: run}}) {
		b.Fatal("the simulation failed")
	}
	runtime.GC()
	return worst
}

// cpuTime is the CPU time this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
