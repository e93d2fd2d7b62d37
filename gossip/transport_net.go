package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// socketBuffer is how much the kernel should keep of what was not read yet. It keeps
	// less where the system's limit is lower.
	socketBuffer = 2 << 20
	// maxPacket is the size of the largest packet.
	maxPacket = 64 << 10
	// socketPause is the wait after a socket failed, mostly because the process has no
	// free file descriptor.
	socketPause = 50 * time.Millisecond
)

// netTransport is the transport over UDP and TCP. Unlike memberlist's, it needs memory only
// for what a packet holds, so that small packets in great number cost little, and its dials
// end when the transport is shut down.
type netTransport struct {
	packets chan *memberlist.Packet
	streams chan net.Conn
	udp     *net.UDPConn
	tcp     *net.TCPListener
	log     *slog.Logger
	dial    func(addr string, timeout time.Duration) (net.Conn, error)
	stop    <-chan struct{}
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*netTransport)(nil)

// newNetTransport binds one port of an address for UDP and TCP; port 0 lets the kernel
// choose.
func newNetTransport(addr string, port int, log *slog.Logger) (*netTransport, error) {
	ip := net.ParseIP(addr)
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port})
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: tcp.Addr().(*net.TCPAddr).Port})
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	for size := socketBuffer; size > 0 && udp.SetReadBuffer(size) != nil; size /= 2 {
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &netTransport{
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		udp: udp, tcp: tcp, log: log, stop: ctx.Done(), cancel: cancel,
		dial: func(addr string, timeout time.Duration) (net.Conn, error) {
			d := net.Dialer{Timeout: timeout}
			return d.DialContext(ctx, "tcp", addr)
		},
	}
	t.done.Go(t.readPackets)
	t.done.Go(t.acceptStreams)
	return t, nil
}

// port returns the bound port.
func (t *netTransport) port() int { return t.tcp.Addr().(*net.TCPAddr).Port }

// pause waits after an error of a socket, and returns false if the transport is shut down.
func (t *netTransport) pause(what string, err error) bool {
	select {
	case <-t.stop:
		return false
	default:
	}
	t.log.Error(what, "err", err)
	select {
	case <-t.stop:
		return false
	case <-time.After(socketPause):
		return true
	}
}

func (t *netTransport) readPackets() {
	buffer := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFromUDP(buffer)
		if err != nil {
			if t.pause("gossip cannot read packets", err) {
				continue
			}
			return
		}
		if n == 0 {
			continue
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: bytes.Clone(buffer[:n]), From: from, Timestamp: time.Now()}:
		case <-t.stop:
			return
		}
	}
}

func (t *netTransport) acceptStreams() {
	for {
		conn, err := t.tcp.AcceptTCP()
		if err != nil {
			if t.pause("gossip cannot accept streams", err) {
				continue
			}
			return
		}
		select {
		case t.streams <- conn:
		case <-t.stop:
			_ = conn.Close()
			return
		}
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *netTransport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if ip == "" {
		bound := t.tcp.Addr().(*net.TCPAddr)
		if bound.IP.IsUnspecified() {
			return nil, 0, errors.New("an address to announce is needed by who listens on all addresses")
		}
		return bound.IP, bound.Port, nil
	}
	parsed := net.ParseIP(ip)
	if parsed == nil {
		return nil, 0, fmt.Errorf("the address to announce, %q, is none", ip)
	}
	if v4 := parsed.To4(); v4 != nil {
		parsed = v4
	}
	return parsed, port, nil
}

// WriteTo implements memberlist.Transport.
func (t *netTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteTo(b, to)
	return time.Now(), err
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *netTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh implements memberlist.Transport.
func (t *netTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *netTransport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements memberlist.Transport.
func (t *netTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.dial(addr, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *netTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.dial(a.Addr, timeout)
}

// Shutdown implements memberlist.Transport.
func (t *netTransport) Shutdown() error {
	t.cancel()
	err := errors.Join(t.tcp.Close(), t.udp.Close())
	t.done.Wait()
	return err
}
