package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// networkPackets is how many packets are measured.
	networkPackets = 200_000
	// networkBatch is how many are on their way at a time: fewer than a tap's queue holds, so
	// that none is lost.
	networkBatch = 250
	// networkPatience is how long the first packet may take: a port of a bridge opens after a
	// while.
	networkPatience = 20 * time.Second
	// bedPort is the port that packets are sent to, by which they are known at the far end.
	bedPort = 4000
)

// udpFrame is an Ethernet frame with a UDP packet.
func udpFrame(from, to net.HardwareAddr, source, destination netip.Addr) []byte {
	frame := append(append(append([]byte{}, to...), from...), 8, 0)
	header := make([]byte, 20, 28+bedPayload)
	header[0], header[8], header[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(header[2:], uint16(28+bedPayload))
	copy(header[12:], source.AsSlice())
	copy(header[16:], destination.AsSlice())
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	udp := make([]byte, 8+bedPayload) // no checksum
	binary.BigEndian.PutUint16(udp, bedPort)
	binary.BigEndian.PutUint16(udp[2:], bedPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return append(append(frame, header...), udp...)
}

// isOurs reports whether a frame is one of those that are sent, as it looks at the far end.
func isOurs(frame []byte) bool {
	return len(frame) == 42+bedPayload && frame[12] == 8 && frame[13] == 0 && frame[23] == unix.IPPROTO_UDP &&
		binary.BigEndian.Uint16(frame[36:]) == bedPort
}

// measure sends packets in at one end and takes them at the other. The kernel takes a packet
// all the way within the call that sends it, so the processor time is that of the sending thread.
func (b *networkBed) measure(in, out *os.File, frame []byte) (packetCost, error) {
	// A bridge learns from this where the second guest is.
	if _, err := b.guests[1].Write(udpFrame(bedMACs[1], bedMACs[0], bedAddresses[1], bedAddresses[0])); err != nil {
		return packetCost{}, fmt.Errorf("send: %w", err)
	}
	for end := time.Now().Add(networkPatience); ; {
		err := pass(in, out, frame, 1, time.Second)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return packetCost{}, err
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The middle batch is not one in which another program had the processor's caches.
	var used, took []float64
	for range networkPackets / networkBatch {
		before, err := threadTime()
		if err != nil {
			return packetCost{}, err
		}
		began := time.Now()
		if err := send(in, frame, networkBatch); err != nil {
			return packetCost{}, err
		}
		after, err := threadTime()
		if err != nil {
			return packetCost{}, err
		}
		used = append(used, float64(after-before))
		if err := receive(out, networkBatch, networkPatience); err != nil {
			return packetCost{}, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return packetCost{CPU: median(used) / networkBatch, PPS: networkBatch / median(took)}, nil
}

// pass sends packets and waits until all have arrived.
func pass(in, out *os.File, frame []byte, n int, patience time.Duration) error {
	if err := send(in, frame, n); err != nil {
		return err
	}
	return receive(out, n, patience)
}

func send(in *os.File, frame []byte, n int) error {
	for range n {
		if _, err := in.Write(frame); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// receive takes packets until n of those that were sent have come.
func receive(out *os.File, n int, patience time.Duration) error {
	if err := out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	buffer := make([]byte, 2048)
	for got := 0; got < n; {
		size, err := out.Read(buffer)
		if err != nil {
			return errors.Join(fmt.Errorf("%d of %d packets have arrived", got, n), err)
		}
		if isOurs(buffer[:size]) {
			got++
		}
	}
	return nil
}

// threadTime is the processor time that this thread has used.
func threadTime() (time.Duration, error) {
	var spec unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &spec); err != nil {
		return 0, fmt.Errorf("read the thread's processor time: %w", err)
	}
	return time.Duration(spec.Nano()), nil
}
