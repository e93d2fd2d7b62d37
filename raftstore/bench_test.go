package raftstore_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// tcpLayer is a StreamLayer on loopback. Addresses name the Raft port; RPC uses the
// next port.
type tcpLayer struct {
	net.Listener
	offset int
}

func listenTCP(b *testing.B, addr string, offset int) tcpLayer {
	l, err := net.Listen("tcp", shift(addr, offset))
	if err != nil {
		b.Fatal(err)
	}
	return tcpLayer{l, offset}
}

// Dial implements raftstore.StreamLayer.
func (l tcpLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", shift(addr, l.offset), timeout)
}

func shift(addr string, offset int) string {
	host, port, _ := net.SplitHostPort(addr)
	var n int
	fmt.Sscan(port, &n)
	return net.JoinHostPort(host, fmt.Sprint(n+offset))
}

// overTCP puts the hosts of a cluster on loopback addresses of their own.
func overTCP(b *testing.B, port int) raftstoretest.Option {
	return func(c *raftstore.Config) {
		c.Addr = fmt.Sprintf("127.0.1.%s:%d", c.NodeID[len("host"):], port)
		c.Raft, c.RPC = listenTCP(b, c.Addr, 0), listenTCP(b, c.Addr, 1)
		c.PeerOf = nil // nobody has a certificate
		c.Timing = raftstore.DefaultConfig().Timing
	}
}

// measure runs n operations on clients goroutines and reports throughput and
// latency.
func measure(b *testing.B, clients int, op func(client, n int) error) {
	var next atomic.Int64
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		wg.Go(func() {
			for {
				n := int(next.Add(1))
				if n > b.N {
					return
				}
				begin := time.Now()
				if err := op(c, n); err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(begin))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkCommit measures 1 KiB puts over 20,000 keys, at the leader of three
// replicas on one disk, with snapshots on.
func BenchmarkCommit(b *testing.B) {
	value := make([]byte, 1024)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	for _, log := range []string{"wal", "bolt"} {
		options := []raftstoretest.Option{overTCP(b, 17100)}
		if log == "bolt" {
			options = append(options, raftstore.UseBolt)
		}
		b.Run("log="+log, func(b *testing.B) {
			c := raftstoretest.NewCluster(b, 3, options...)
			s := c.Node(c.Leader())
			for _, clients := range []int{1, 16, 100, 500} {
				b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
					measure(b, clients, func(_, _ int) error {
						_, err := s.Commit(b.Context(), raftstore.Txn{Ops: []raftstore.Op{
							{Key: fmt.Sprint("/bench/", rand.IntN(20000)), Value: value},
						}})
						return err
					})
				})
			}
		})
	}
}

// BenchmarkGet measures reads of 1 KiB values at a follower and at the leader.
func BenchmarkGet(b *testing.B) {
	c := raftstoretest.NewCluster(b, 3, overTCP(b, 17200))
	leader := c.Node(c.Leader())
	follower := c.Live()[0]
	if follower == leader {
		follower = c.Live()[1]
	}
	for i := range 1000 {
		mustCommit(b, leader, put(fmt.Sprint("/bench/", i), string(make([]byte, 1024))))
	}
	c.WaitRevision(leader.Revision())
	for _, at := range []struct {
		name string
		s    *raftstore.Store
	}{{"leader", leader}, {"follower", follower}} {
		for _, consistency := range []raftstore.Consistency{raftstore.Linearizable, raftstore.Local} {
			for _, clients := range []int{1, 16, 100, 500} {
				b.Run(fmt.Sprintf("at=%s/%s/clients=%d", at.name, consistency, clients), func(b *testing.B) {
					measure(b, clients, func(_, _ int) error {
						_, _, err := at.s.Get(b.Context(), fmt.Sprint("/bench/", rand.IntN(1000)), raftstore.ReadOptions{Consistency: consistency})
						return err
					})
				})
			}
		}
	}
}

// BenchmarkForward measures puts at a follower, which forwards them.
func BenchmarkForward(b *testing.B) {
	c := raftstoretest.NewCluster(b, 3, overTCP(b, 17300))
	follower := c.Live()[0]
	if follower.IsLeader() {
		follower = c.Live()[1]
	}
	for _, clients := range []int{1, 100} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			measure(b, clients, func(_, _ int) error {
				_, err := follower.Commit(b.Context(), put(fmt.Sprint("/bench/", rand.IntN(20000)), string(make([]byte, 1024))))
				return err
			})
		})
	}
}
