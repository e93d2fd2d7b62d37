package gossip_test

import (
	"bytes"
	"flag"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

// floodTime is how long the flood goes on; a longer one gives better figures.
var floodTime = flag.Duration("flood", 2*time.Second, "how long the flood of strangers goes on")

// TestFloodOnLoopback sends a member as much as strangers can: packets, and streams that
// announce the largest message that memberlist would take. Another member syncs with it
// meanwhile, and neither takes the other for dead.
func TestFloodOnLoopback(t *testing.T) {
	var members []*gossip.Gossip
	for i := range 2 {
		cfg := gossip.DefaultConfig()
		cfg.Name, cfg.BindAddr, cfg.BindPort = gossiptest.Name(i), "127.0.0.1", 0
		cfg.Mesh, cfg.Keys = "mesh", [][]byte{meshKey}
		cfg.Known = func(addr netip.Addr) bool { return addr == netip.MustParseAddr("127.0.0.1") }
		g, err := gossip.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Shutdown()
		members = append(members, g)
	}
	if _, err := members[1].Join(t.Context(), []string{members[0].Addr()}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var crowd sync.WaitGroup
	for worker := range 2 {
		crowd.Go(func() { floodPackets(members[0].Addr(), byte(worker), stop) })
		crowd.Go(func() { floodStreams(members[0].Addr(), byte(worker), stop) })
	}
	var syncs []time.Duration
	before, most := heapInUse(), uint64(0)
	began := time.Now()
	enough := func() bool { // on a busy machine the flood takes longer to be one
		refused := gossip.Refused(members[0])
		return time.Since(began) > *floodTime && refused["packet rate"] > 0 && refused["stream places"] > 0
	}
	for !enough() {
		start := time.Now()
		if _, err := members[1].Join(t.Context(), []string{members[0].Addr()}); err != nil {
			t.Fatalf("a member cannot sync: %v", err)
		}
		syncs = append(syncs, time.Since(start))
		most = max(most, heapInUse())
	}
	took := time.Since(began)
	refused := gossip.Refused(members[0])
	close(stop)
	crowd.Wait()
	slices.Sort(syncs)
	grown := (most - min(before, most)) >> 20
	t.Logf("a member syncs: p50 %v, p99 %v, of %d", syncs[len(syncs)/2], syncs[min(len(syncs)*99/100, len(syncs)-1)], len(syncs))
	for _, reason := range slices.Sorted(maps.Keys(refused)) {
		t.Logf("refused by %s: %.0f a second", reason, float64(refused[reason])/took.Seconds())
	}
	t.Logf("memory: %d MB more", grown)
	if grown > 64 {
		t.Errorf("the heap has grown by %d MB", grown)
	}
	for _, g := range members {
		if g.Count(gossip.Dead) != 0 || g.Count(gossip.Left) != 0 {
			t.Errorf("%s took the other for dead", g.Name())
		}
	}
}

func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}

// floodPackets sends packets that nobody can open until stop is closed.
func floodPackets(addr string, network byte, stop <-chan struct{}) {
	conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 2, network, 1)}}).Dial("udp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	packet := append([]byte("\xf4\x04mesh\x01"), make([]byte, 1300)...)
	for {
		select {
		case <-stop:
			return
		default:
			_, _ = conn.Write(packet)
		}
	}
}

// floodStreams opens streams from many addresses until stop is closed, and sends on each
// what the member takes.
func floodStreams(addr string, network byte, stop <-chan struct{}) {
	text := append(head(20<<20), bytes.Repeat([]byte{1}, 256<<10)...)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		from := &net.TCPAddr{IP: net.IPv4(127, 3, network, byte(1+i%100))}
		c, err := (&net.Dialer{LocalAddr: from, Timeout: time.Second}).Dial("tcp", addr)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Millisecond))
		if i%2 == 0 { // the others announce no more than they may, and wait
			_, _ = c.Write(text)
		} else {
			_, _ = c.Write(head(gossip.StrangerMessage))
		}
		if open = append(open, c); len(open) > 200 {
			open[0].Close()
			open = open[1:]
		}
	}
}
