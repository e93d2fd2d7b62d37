package port_test

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// TestFloodOfStrangers calls a port with its usual limits from 250 addresses as often as
// it can: with silence, with the beginning of a handshake, and with whole handshakes. A
// host dials, and a client with a certificate asks, meanwhile.
func TestFloodOfStrangers(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First, strange)
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
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
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
	close(stop)
	crowd.Wait()
	slices.Sort(dials)
	slices.Sort(asks)
	t.Logf("dial and ping %v, worst %v; request %v, worst %v; %d of each; heap %d MB more", dials[len(dials)/2], dials[len(dials)-1], asks[len(asks)/2], asks[len(asks)-1], len(dials), (most-min(before, most))>>20)
	if grown := (most - min(before, most)) >> 20; grown > 100 {
		t.Errorf("the heap has grown by %d MB", grown)
	}
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
