package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// start runs the network until the end of the test.
func (w *world) start() {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.network.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	synctest.Wait()
}

func seconds(n ...int) (list []time.Duration) {
	for _, s := range n {
		list = append(list, time.Duration(s)*time.Second)
	}
	return list
}

func TestFailureIsTriedAgainAndTheNetworkRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug.fail(errors.New("there is no eth1"))
		begin := time.Now()
		w.start()
		time.Sleep(100 * time.Second)
		if got, want := w.plug.times(begin), seconds(0, 1, 3, 7, 15, 31, 61, 91); !slices.Equal(got, want) {
			t.Errorf("a network that cannot be made is tried after %v, want %v", got, want)
		}
		w.plug.fail(nil)
		time.Sleep(100 * time.Second)
		if got, want := w.plug.times(begin), seconds(121, 151, 181); !slices.Equal(got, want) {
			t.Errorf("one that is as wanted is looked after at %v, want %v", got, want)
		}
		w.plug.fail(errors.New("the filter is gone"))
		time.Sleep(15 * time.Second)
		if got, want := w.plug.times(begin), seconds(211, 212, 214); !slices.Equal(got, want) {
			t.Errorf("one that failed anew is tried after %v, want %v", got, want)
		}
	})
}

// A filter that something else changed is looked after at once, but a program that changes
// it again and again costs no more than a comparison each repairPause. A watch that fails
// is begun again.
func TestChangedFilterIsLookedAfterAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var told atomic.Int32
		w.config.FilterLost = func() { told.Add(1) }
		w.restart()
		begin := time.Now()
		w.start()
		time.Sleep(time.Second)
		w.plug.mu.Lock()
		w.plug.lost = true
		w.plug.mu.Unlock()
		for range 5 {
			w.plug.disturbed <- nil
		}
		synctest.Wait()
		if got, want := w.plug.times(begin), []time.Duration{0, 1000 * time.Millisecond, 1200 * time.Millisecond, 1400 * time.Millisecond, 1600 * time.Millisecond, 1800 * time.Millisecond}; !slices.Equal(got, want) {
			t.Errorf("the network is set after %v, want %v", got, want)
		}
		if n := told.Load(); n != 5 {
			t.Errorf("the loss is told %d times, want 5", n)
		}
		w.plug.disturbed <- errors.New("the socket failed")
		time.Sleep(repairEvery + time.Second)
		w.plug.times(begin)
		w.plug.disturbed <- nil
		synctest.Wait()
		if got := w.plug.times(begin); len(got) != 1 {
			t.Errorf("after the watch failed, a change sets the network at %v, want once", got)
		}
	})
}

func TestNewMembersAreProtectedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		protected := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
		var joined func()
		w.config.Protected = func() []netip.Prefix { return protected }
		w.config.Subscribe = func(fn func()) func() {
			joined = fn
			return func() { joined = nil }
		}
		w.restart()
		w.start()
		protected = append(protected, netip.MustParsePrefix("192.0.2.2/32"))
		joined()
		synctest.Wait()
		w.plug.mu.Lock()
		defer w.plug.mu.Unlock()
		if got := w.plug.last.Protected; !slices.Equal(got, slices.Concat(neverForGuests, protected)) {
			t.Errorf("guests are kept away from %v, want link-local ones and %v", got, protected)
		}
	})
}

// The network follows a claim that ends without any change of the instance.
func TestNetworkFollowsTheClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		vmi := w.create(instance("a"))
		w.connect(vmi)
		w.start()
		synctest.Wait()
		taps := func() int {
			w.plug.mu.Lock()
			defer w.plug.mu.Unlock()
			return len(w.plug.last.Taps)
		}
		if n := taps(); n != 1 {
			t.Fatalf("%d taps with a claim", n)
		}
		w.release(vmi)
		synctest.Wait()
		if n := taps(); n != 0 {
			t.Errorf("%d taps without a claim", n)
		}
	})
}

// A disk that is full when an instance ends does not hold up its end.
func TestReleaseOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.define("ns", "lan", lan)
		vmi := w.create(attach(instance("a"), "one", "lan"))
		w.connect(vmi)
		w.start()
		files := []string{w.config.LeaseFile, w.config.AttachmentFile}
		for _, file := range files {
			// A directory in its place lets no file be put there, not even by root.
			if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.network.Release(refOf(vmi)); err != nil || len(w.network.addresses()) != 0 {
			t.Errorf("error %v, and the addresses are %v", err, w.network.addresses())
		}
		time.Sleep(time.Second)
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(repairEvery)
		for _, file := range files {
			if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), "ns/a") {
				t.Errorf("later %s holds %s: %v", file, data, err)
			}
		}
	})
}
