package main

import (
	"encoding/binary"
	"testing"
)

// A packet that the kernel would not take gives no figures.
func TestUDPFrame(t *testing.T) {
	frame := udpFrame(bedMACs[0], bedMACs[1], bedAddresses[0], bedAddresses[1])
	if !isOurs(frame) || isOurs(frame[:len(frame)-1]) {
		t.Errorf("the packet is not known again, or another one is: %x", frame)
	}
	sum := uint32(0)
	for header := frame[14:34]; len(header) > 0; header = header[2:] {
		sum += uint32(binary.BigEndian.Uint16(header))
	}
	if sum>>16+sum&0xffff != 0xffff {
		t.Errorf("the checksum of the header is wrong: %x", frame[14:34])
	}
}
