package port_test

import (
	"crypto/tls"
	"flag"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// floodTime is how long the flood goes on; a longer one gives better figures.
var floodTime = flag.Duration("flood", 2*time.Second, "how long the flood of strangers goes on")

// TestFloodOfStrangers calls a port with its usual limits from 250 addresses as often as
// it can: with silence, with the beginning of a handshake, and with whole handshakes. A
// host dials, and a client with a certificate asks, meanwhile.
func TestFloodOfStrangers(t *testing.T) {
	m := identitytest.NewMesh(t)
	registry := prometheus.NewRegistry()
	p := newPort(t, m.First, strange, func(c *port.Config) { c.Registerer = registry })
	echo(t, listen(t, p, port.ProtoRaft))
	rpc := port.ServeRPC(listen(t, p, port.ProtoJoin), http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	defer rpc.Shutdown(t.Context())
	api(t, p)

	stop := make(chan struct{})
	var crowd sync.WaitGroup
	for worker := range 8 {
		crowd.Go(func() { flood(p.Addr().String(), byte(worker), stop) })
	}
	before := heapInUse()
	host, admin := newPort(t, m.Host(t, "host2", 0)), m.Admin(t, time.Hour)
	var dials, asks []time.Duration
	var most uint64
	began := time.Now()
	for time.Since(began) < *floodTime {
		start := time.Now()
		c, err := host.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
		if err != nil {
			t.Fatalf("a host: %v", err)
		}
		if err := ping(t, c); err != nil {
			t.Fatalf("a host: %v", err)
		}
		c.Close()
		dials = append(dials, time.Since(start))
		start = time.Now()
		if err := getAPI(p, m, admin); err != nil {
			t.Fatalf("a client with a certificate: %v", err)
		}
		asks = append(asks, time.Since(start))
		most = max(most, heapInUse())
	}
	took := time.Since(began)
	results := handshakes(t, registry)
	close(stop)
	crowd.Wait()
	slices.Sort(dials)
	slices.Sort(asks)
	t.Logf("a host dials and pings: p50 %v, p99 %v; a client asks: p50 %v, p99 %v; %d of each", nearest(dials, 50), nearest(dials, 99), nearest(asks, 50), nearest(asks, 99), len(dials))
	for _, result := range slices.Sorted(maps.Keys(results)) {
		t.Logf("handshakes of callers, %s: %.0f a second", result, results[result]/took.Seconds())
	}
	t.Logf("memory: %d MB more", (most-min(before, most))>>20)
	if grown := (most - min(before, most)) >> 20; grown > 100 {
		t.Errorf("the heap has grown by %d MB", grown)
	}
}

// nearest is a percentile of times that are in order.
func nearest(times []time.Duration, percent int) time.Duration {
	return times[min(len(times)*percent/100, len(times)-1)]
}

// handshakes counts those that others began, by their results.
func handshakes(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	counts := map[string]float64{}
	for name, value := range values(t, registry) {
		fields := strings.Fields(name) // a metric's name, then protocol, result and side
		if fields[0] == "virtmesh_meshport_handshakes_total" && fields[len(fields)-1] == "server" {
			counts[fields[len(fields)-2]] += value
		}
	}
	return counts
}

func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}

// flood calls from all addresses of a network of 127.0.0.0/8 until stop is closed, and
// holds as many connections as it can.
func flood(addr string, network byte, stop <-chan struct{}) {
	const held = 400
	var open [held]net.Conn
	for i := 0; ; i++ {
		select {
		case <-stop:
			for _, c := range open {
				if c != nil {
					c.Close()
				}
			}
			return
		default:
		}
		from := &net.TCPAddr{IP: net.IPv4(127, 1, network, byte(1+i%31))}
		c, err := (&net.Dialer{LocalAddr: from, Timeout: time.Second}).Dial("tcp", addr)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		switch i % 3 {
		case 1:
			_, _ = c.Write([]byte("\x16\x03\x01\x40\x00\x01\x00\xff\xff"))
		case 2:
			go func() {
				conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{port.ProtoJoin}})
				if conn.Handshake() == nil {
					_, _ = io.WriteString(conn, "POST /mesh/v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{")
				}
			}()
		}
		if old := open[i%held]; old != nil {
			old.Close()
		}
		open[i%held] = c
	}
}
