// Package heap keeps the memory of the agent near what it uses.
//
// Go lets a heap grow to twice what was in use at the last collection, and gives the rest
// back to the system slowly. An agent shares its host with guests, and mostly rests; now
// and then a client lists every machine of the mesh. So the agent collects earlier, and
// tells Go a limit that follows what is in use. The limit is soft: a heap that needs more
// gets it, and the limit rises with it; slowly at first, so that a burst of lists leaves
// less garbage lying around than an agent that needs so much for good.
package heap

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"
)

const (
	// percent is how much may be allocated until the next collection, in percent of what
	// is in use. Collecting takes CPU only while something is allocated.
	percent = 50
	// room is what may be in use besides, before Go collects ever more often to stay
	// below the limit.
	room = 24 << 20
	// A burst raises the limit by less: what it has in use, and this many percent and a
	// third of room.
	burstPercent = 12
	// calmTime is how long a burst is one: the least that was in use in this time counts
	// as what the agent needs.
	calmTime = time.Minute
	// every is how often the limit is compared with what is in use.
	every = 5 * time.Second
	// calmSamples is how many comparisons there are in calmTime.
	calmSamples = int(calmTime / every)
	// A burst may leave so much memory with the process, and no collection follows it
	// while the agent rests. So what is surplus to the usual is given back, at most every
	// pause.
	surplus = 32 << 20
	// While less than this is allocated between two comparisons, the agent rests.
	restful  = 8 << 20
	pause    = 15 * time.Second
	maxPause = 10 * time.Minute
)

// Keep keeps the heap small until ctx ends. It does nothing if the operator has set GOGC
// or GOMEMLIMIT.
func Keep(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	usual, returned, wait, allocated := int64(0), time.Now(), pause, int64(0)
	var recent samples
	for {
		before := allocated
		allocated = read("/gc/heap/allocs:bytes")
		rests := allocated-before < restful
		switch now := mapped(); {
		case now <= usual+surplus:
			usual, wait = min(usual, now), pause
		case time.Since(returned) >= wait, rests && time.Since(returned) >= pause:
			debug.FreeOSMemory()
			// In the middle of a burst this may not help, so it is done again, ever more
			// seldom. What an agent at rest keeps after all becomes usual.
			if returned, wait = time.Now(), min(wait*3/2, maxPause); rests {
				usual, wait = mapped(), pause
			}
		}
		used := inUse()
		debug.SetMemoryLimit(limitFor(recent.least(used), used))
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// limitFor returns the limit for a process in which so much was in use at the last
// collection, and at least so much in the last minute.
func limitFor(least, used int64) int64 {
	return max(least+least*percent/100+room, used+used*burstPercent/100+room/3)
}

// samples are what was in use at the last comparisons, the oldest first.
type samples []int64

// least adds a sample and returns the least of the last calmTime. What a start takes in,
// the agent needs for good, so in the first calmTime it counts as if it had always been.
func (s *samples) least(used int64) int64 {
	if starts := len(*s) < calmSamples; starts {
		for i, before := range *s {
			(*s)[i] = max(before, used)
		}
	}
	*s = append(*s, used)
	*s = (*s)[max(0, len(*s)-calmSamples):]
	return slices.Min(*s)
}

// inUse returns what was in use at the last collection, in the heap and besides.
func inUse() int64 {
	return read("/gc/heap/live:bytes") + read("/memory/classes/heap/stacks:bytes") +
		read("/memory/classes/metadata/mspan/inuse:bytes") + read("/memory/classes/metadata/other:bytes")
}

// mapped returns what Go has from the system and has not given back.
func mapped() int64 {
	return read("/memory/classes/total:bytes") - read("/memory/classes/heap/released:bytes")
}

func read(name string) int64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}
