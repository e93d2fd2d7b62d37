package gossip_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

// meshKey is the key of the meshes of these tests.
var meshKey = bytes.Repeat([]byte{7}, 16)

// locked makes a member encrypt, and know the members of a mesh of n by their addresses.
func locked(n byte) func(int, *gossip.Config) {
	return func(_ int, c *gossip.Config) {
		c.Mesh, c.Keys = "mesh", [][]byte{meshKey}
		c.Known = func(addr netip.Addr) bool { return addr.As4()[0] == 10 && addr.As4()[3] <= n && addr.As4()[2] == 0 }
	}
}

func startLocked(t *testing.T, n int) *gossiptest.Mesh {
	t.Helper()
	m, err := gossiptest.Start(n, locked(byte(n)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Shutdown)
	return m
}

// head is the beginning of a stream of the mesh with a message of a size.
func head(size uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte("\xf4\x04mesh\x0a"), size)
}

// crowd is the streams that strangers have opened to a member.
type crowd struct {
	open atomic.Int64
	most int64
}

// dial opens a stream from a stranger that sends text and then nothing more.
func (c *crowd) dial(t *testing.T, from *gossiptest.Host, to *gossip.Gossip, text []byte) net.Conn {
	t.Helper()
	conn, err := from.DialTimeout(to.Addr(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.most = max(c.most, c.open.Add(1))
	go func() {
		if len(text) > 0 {
			_, _ = conn.Write(text)
		}
		_, _ = io.Copy(io.Discard, conn)
		c.open.Add(-1)
	}()
	synctest.Wait()
	return conn
}

// Strangers hold few streams however many they open, and none for long; members sync with
// each other meanwhile, and one who is not known yet joins.
func TestStrangersHoldFewStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startLocked(t, 3)
		target := m.Members[0]
		var all crowd
		for i := range 100 {
			from := m.Network.Host(fmt.Sprint("stranger", i))
			for range 5 {
				all.dial(t, from, target, head(1000))
			}
		}
		if n := all.open.Load(); n != gossip.StrangerStreams {
			t.Errorf("strangers hold %d streams, want %d", n, gossip.StrangerStreams)
		}
		if _, err := m.Members[1].Join(t.Context(), []string{target.Addr()}); err != nil {
			t.Errorf("a member cannot sync: %v", err)
		}
		if err := m.Add(locked(3)); err != nil {
			t.Errorf("a newcomer cannot join: %v", err)
		}
		if n := all.open.Load(); n < gossip.StrangerStreams-1 {
			t.Errorf("strangers hold only %d streams: the test shows nothing", n)
		}
		time.Sleep(gossip.StreamTimeout + time.Second)
		if n := all.open.Load(); n != 0 {
			t.Errorf("strangers still hold %d streams", n)
		}
		if refused := gossip.Refused(target); refused["stream places"] < 460 || refused["stream key"] < gossip.StrangerStreams-1 {
			t.Errorf("refused: %v", refused)
		}
		for _, g := range m.Members {
			if g.Count(gossip.Alive) != 4 {
				t.Errorf("%s sees %d alive, want 4", g.Name(), g.Count(gossip.Alive))
			}
		}
	})
}

// One stranger who opens streams for ever does not keep another out.
func TestOneStrangerCannotHoldAllStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startLocked(t, 1)
		var rude, shy crowd
		quiet := shy.dial(t, m.Network.Host("shy"), m.Members[0], nil)
		from := m.Network.Host("rude")
		for range 4 * gossip.StrangerStreams {
			rude.dial(t, from, m.Members[0], nil)
		}
		if n := rude.open.Load(); n != gossip.StrangerStreamsPerSource {
			t.Errorf("one stranger holds %d streams, want %d", n, gossip.StrangerStreamsPerSource)
		}
		if shy.open.Load() != 1 {
			t.Error("another stranger lost the only stream it had")
		}
		quiet.Close()
	})
}

// A stream is cut off where its message is larger than its sender may send, is another
// mesh's, in clear, or made with another key; memberlist sees nothing of it.
func TestStrangeStreamsAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startLocked(t, 1)
		target := m.Members[0]
		for name, text := range map[string][]byte{
			"20 MiB":         head(20 << 20),
			"over the limit": head(gossip.StrangerMessage + 1),
			"other mesh":     []byte("\xf4\x04hsem\x0a\x00\x00\x00\x64"),
			"no mesh":        []byte("\x0a\x00\x00\x00\x64 and more"),
			"in clear":       []byte("\xf4\x04mesh\x06 and more"),
			"other key":      append(head(100), make([]byte, 100)...),
			"empty":          append(head(0), 0),
		} {
			before := gossip.Refused(target)["stream key"]
			var c crowd
			c.dial(t, m.Network.Host(name), target, text)
			if c.open.Load() != 0 {
				t.Errorf("%s: the stream stays open", name)
			}
			if gossip.Refused(target)["stream key"] != before+1 {
				t.Errorf("%s: not counted as refused", name)
			}
		}
	})
}

// A stream of a host of the mesh that breaks off, as on a host without processor time, is not
// told as a stranger's. One that was made with another key is, also from there.
func TestBrokenStreamOfAHostIsNoStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(1, locked(2))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		target, host := m.Members[0], m.Network.Host("host")
		var c crowd
		c.dial(t, host, target, head(100)).Close()
		c.dial(t, host, target, []byte("\xf4")) // and no more comes
		time.Sleep(time.Minute)
		if refused := gossip.Refused(target)["stream key"]; refused != 0 || c.open.Load() != 0 {
			t.Errorf("%d streams that broke off were told as strangers', %d are open", refused, c.open.Load())
		}
		c.dial(t, host, target, append(head(100), make([]byte, 100)...))
		if refused := gossip.Refused(target)["stream key"]; refused != 1 {
			t.Errorf("%d streams made with another key were refused, want 1", refused)
		}
	})
}

// The largest message that a stranger may send, sent in pieces, is read and refused.
func TestLargestMessageOfStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startLocked(t, 1)
		conn, err := m.Network.Host("stranger").DialTimeout(m.Members[0].Addr(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for part := range slices.Chunk(append(head(gossip.StrangerMessage), make([]byte, gossip.StrangerMessage)...), 5000) {
			if _, err := conn.Write(part); err != nil {
				t.Fatalf("cut off too early: %v", err)
			}
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a message made with no key is answered")
		}
	})
}

// Floods of packets, with the members' addresses and others, change nothing for the
// members, nor for one whose address nobody knows: what it has proved is remembered.
func TestPacketFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startLocked(t, 3)
		if err := m.Add(locked(3)); err != nil { // at an address that nobody knows
			t.Fatal(err)
		}
		if !m.AwaitAlive(time.Minute) {
			t.Fatal("the members did not meet:", troubles(m))
		}
		target := m.Members[0]
		from := m.Network.Host("stranger")
		for range 2_000 {
			for range 10 {
				_, _ = from.WriteTo([]byte("\xf4\x04mesh\x01 and nothing that a key has made"), target.Addr())
			}
			time.Sleep(5 * time.Millisecond)
		}
		if !m.AwaitAlive(0) {
			t.Error("members were lost:", troubles(m))
		}
		refused := gossip.Refused(target)
		if n := refused["packet key"]; n > 12*gossip.StrangerPackets {
			t.Errorf("%d packets of strangers were decrypted in 10 s", n)
		}
		if n := refused["packet key"] + refused["packet rate"]; n != 20_000 {
			t.Errorf("%d packets were refused, want all 20,000", n)
		}
		for _, g := range m.Members {
			for _, p := range g.Members() {
				if time.Since(p.Since) < 9*time.Second {
					t.Errorf("%s changed its mind about %s", g.Name(), p.Name)
				}
			}
		}
	})
}
