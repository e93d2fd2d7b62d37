package raftstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// rawFrame is a frame as a hostile peer may write it.
func rawFrame(op byte, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(9+len(payload)))
	b = binary.LittleEndian.AppendUint64(b, 1)
	return append(append(b, op), payload...)
}

// TestHostilePeer sends frames that no replica would send. The store must keep serving.
func TestHostilePeer(t *testing.T) {
	n := raftstoretest.NewNetwork()
	cfg := raftstoretest.Config(n, "host1")
	cfg.Bootstrap, cfg.Version = true, "v1"
	s, err := raftstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	raftstoretest.WaitServing(t, s)
	dial := n.Listen("rpc", "evil:1")
	hello := raftstore.CallerGreeting(1, [16]byte{})
	for _, tc := range []struct {
		name    string
		send    []byte
		refused string // part of why the caller is refused; none if it is cut off at once
		ends    bool   // the connection must end; otherwise an answer must come
	}{
		{"other protocol", []byte("GET / HTTP/1.1\r\n\r\n"), "none", true},
		{"oversized greeting", []byte("vmst\xff\xff"), "none", true},
		{"undersized greeting", []byte("vmst\x03\x00\x01\x01\x01"), "none", true},
		{"other version", raftstore.CallerGreeting(9, [16]byte{}), "speaks protocol 9 to 9 and host \"host1\" (version \"v1\") only up to 1: install ", true},
		{"older group", raftstore.CallerGreeting(1, [16]byte{1}), "was replaced", true},
		{"oversized frame", append(bytes.Clone(hello), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1), "", true},
		{"undersized frame", append(bytes.Clone(hello), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), "", true},
		{"unknown request", append(bytes.Clone(hello), rawFrame(99, nil)...), "", false},
		{"commit of garbage", append(bytes.Clone(hello), rawFrame(1, []byte("garbage that is no txn"))...), "", false},
		{"join of garbage", append(bytes.Clone(hello), rawFrame(3, []byte("{"))...), "", false},
		{"join of nobody", append(bytes.Clone(hello), rawFrame(3, []byte("{}"))...), "", false},
		{"announcement of garbage, then a request", append(append(bytes.Clone(hello), rawFrame(8, []byte("x"))...), rawFrame(2, nil)...), "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := dial.Dial("host1:7000", time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() { _, _ = conn.Write(tc.send) }()
			_ = conn.SetReadDeadline(time.Now().Add(raftstoretest.ReadyTimeout))
			welcome, why, err := raftstore.ReadVerdict(conn)
			switch {
			case tc.refused == "none":
				if !errors.Is(err, io.EOF) {
					t.Errorf("answered %v, %q, %v", welcome, why, err)
				}
				return
			case err != nil || welcome != (tc.refused == "") || !strings.Contains(why, tc.refused):
				t.Fatalf("answered %v, %q, %v", welcome, why, err)
			}
			_, err = io.ReadFull(conn, make([]byte, 13))
			if ended := errors.Is(err, io.EOF); ended != tc.ends {
				t.Errorf("connection ended: %v (%v), want %v", ended, err, tc.ends)
			}
		})
	}
	mustCommit(t, s, put("/k", "still serving"))
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("cluster", func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		for _, s := range c.Live() {
			if _, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"}); err != nil {
				t.Fatal(err)
			}
			mustCommit(t, s, put("/k", "v"))
		}
	})
	raftstoretest.Eventually(t, func() error {
		// The library ends some of its goroutines a little later, and metrics of
		// its dependencies keep theirs.
		if now := runtime.NumGoroutine(); now > before+2 {
			buf := make([]byte, 1<<16)
			return fmt.Errorf("%d goroutines, %d before:\n%s", now, before, buf[:runtime.Stack(buf, true)])
		}
		return nil
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		s := raftstoretest.New(t, raftstoretest.WithConfig(func(c *raftstore.Config) { c.Registerer = reg }))
		mustCommit(t, s, put("/k", "v"))
		if _, err := s.Commit(t.Context(), raftstore.Txn{If: []raftstore.Condition{{Key: "/k"}}}); err == nil {
			t.Fatal("condition was ignored")
		}
		got := gather(t, reg)
		for name, want := range map[string]float64{
			"virtmesh_store_leader": 1, "virtmesh_store_has_leader": 1, "virtmesh_store_halted": 0,
			"virtmesh_store_keys": 2, "virtmesh_store_log_lag": 0, "virtmesh_store_entries_applied_total": 3,
			"virtmesh_store_commit_seconds": 1, "virtmesh_store_txns_total conflict": 1, "virtmesh_store_txns_total ok": 1,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left := gather(t, reg); len(left) != 0 {
			t.Errorf("metrics of a closed store: %v", left)
		}
	})
}

// gather returns counters and gauges by value, histograms by count.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.TrimSpace(f.GetName()+" "+strings.Join(labels, " "))] = metricValue(m)
		}
	}
	return got
}

func metricValue(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	case m.Histogram != nil:
		return float64(m.GetHistogram().GetSampleCount())
	default:
		return m.GetGauge().GetValue()
	}
}

var _ net.Listener = (*raftstoretest.Layer)(nil)

// spoiltListener gives its first connection a Read that panics.
type spoiltListener struct {
	raftstore.StreamLayer
	used bool
}

func (l *spoiltListener) Accept() (net.Conn, error) {
	conn, err := l.StreamLayer.Accept()
	if err != nil || l.used {
		return conn, err
	}
	l.used = true
	return spoiltConn{conn}, nil
}

type spoiltConn struct{ net.Conn }

func (spoiltConn) Read([]byte) (int, error) { panic("spoilt") }

// TestPanicEndsOnePeerConnection lets the handler of one connection panic: the peer is
// cut off, the panic is counted, and the next connection is served.
func TestPanicEndsOnePeerConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := raftstoretest.NewNetwork()
		reg := prometheus.NewRegistry()
		cfg := raftstoretest.Config(n, "host1", raftstoretest.WithConfig(func(c *raftstore.Config) {
			c.RPC, c.Registerer = &spoiltListener{StreamLayer: c.RPC}, reg
		}))
		cfg.Bootstrap = true
		s, err := raftstore.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		raftstoretest.WaitServing(t, s)
		hello := raftstore.CallerGreeting(1, [16]byte{})
		dial := n.Listen("rpc", "peer:1")
		for _, spoilt := range []bool{true, false} {
			conn, err := dial.Dial("host1:7000", time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() { _, _ = conn.Write(append(bytes.Clone(hello), rawFrame(2, nil)...)) }()
			_ = conn.SetReadDeadline(time.Now().Add(raftstoretest.ReadyTimeout))
			_, _, err = raftstore.ReadVerdict(conn)
			if err == nil {
				_, err = io.ReadFull(conn, make([]byte, 13))
			}
			if (err != nil) != spoilt || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection whose handler panics: %v; read %v", spoilt, err)
			}
		}
		raftstoretest.Eventually(t, func() error {
			families, err := reg.Gather()
			if err != nil {
				return err
			}
			for _, f := range families {
				if f.GetName() == "virtmesh_store_panics_total" && f.GetMetric()[0].GetCounter().GetValue() == 1 {
					return nil
				}
			}
			return errors.New("the panic is not counted")
		})
	})
}
