package kernel

import (
	"context"
	"testing"
	"time"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// repairWithin is how soon a lost filter must be back. A busy machine gets more.
const repairWithin = patience

// watch calls Set after each report of the kernel, until the end of the test, and returns
// what every Set that changed something did.
func (b *bed) watch() <-chan netplug.Result {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	repairs, began, done := make(chan netplug.Result, 100), make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- b.plug.WatchFilter(ctx, func() {
			res, err := b.plug.Set(ctx, b.want)
			if err != nil && ctx.Err() == nil {
				b.t.Errorf("repair: %v", err)
			}
			if len(res.Plan.Steps) > 0 {
				repairs <- res
			}
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	<-began
	return repairs
}

// TestFilterIsRepairedAtOnce has others remove and change the filter. Each time it is back
// by the kernel's report alone, and what is loaded again wakes nobody into loading it once
// more.
func TestFilterIsRepairedAtOnce(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	b.set()
	repairs := b.watch()
	for _, change := range []string{
		"flush ruleset",
		"delete table bridge virtmesh",
		"flush chain inet virtmesh forward",
		"flush map bridge virtmesh taps",
	} {
		begin := time.Now()
		netplugtest.Run(t, "nft", change)
		select {
		case res := <-repairs:
			t.Logf("after %q the filter is back in %v", change, time.Since(begin))
			if !res.FilterLost {
				t.Errorf("after %q the Set does not say that the filter was lost:\n%s", change, res.Plan)
			}
		case <-time.After(repairWithin):
			t.Fatalf("after %q nothing is repaired", change)
		}
	}
	netplugtest.Run(t, "nft", "add table ip other")
	select {
	case res := <-repairs:
		t.Errorf("without a change of ours there is a repair:\n%s", res.Plan)
	case <-time.After(silence):
	}
	if res := b.set(); len(res.Plan.Steps) != 0 || res.FilterLost {
		t.Errorf("the network is not as wanted afterwards:\n%s", res.Plan)
	}
}
