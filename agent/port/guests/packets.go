package guests

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxPacket is the longest packet, and the size of the buffers that streams are copied by.
const maxPacket = 1<<16 - 1

// packetStream carries packets over a stream of bytes between two hosts, each after its
// length in two bytes, so that a packet arrives as it was sent. One goroutine may read while
// others write.
type packetStream struct {
	stream io.ReadWriteCloser

	mu  sync.Mutex
	out []byte
}

func newPacketStream(stream io.ReadWriteCloser) *packetStream { return &packetStream{stream: stream} }

// Read receives a packet. What does not fit into p is lost, as with a socket.
func (s *packetStream) Read(p []byte) (int, error) {
	var length [2]byte
	if _, err := io.ReadFull(s.stream, length[:]); err != nil {
		return 0, err
	}
	size := int(binary.BigEndian.Uint16(length[:]))
	n, err := io.ReadFull(s.stream, p[:min(len(p), size)])
	if err == nil {
		_, err = io.CopyN(io.Discard, s.stream, int64(size-n))
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write sends p as one packet.
func (s *packetStream) Write(p []byte) (int, error) {
	if len(p) > maxPacket {
		return 0, fmt.Errorf("a packet of %d bytes is longer than %d", len(p), maxPacket)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = append(binary.BigEndian.AppendUint16(s.out[:0], uint16(len(p))), p...)
	if _, err := s.stream.Write(s.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close closes the stream below.
func (s *packetStream) Close() error { return s.stream.Close() }
