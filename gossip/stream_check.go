package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"virtmesh/gossip/places"
)

// A stream of memberlist begins with the mesh's name, if its sender opened it, and one
// encrypted message, of which the first five bytes are a type and a length. What memberlist
// reads from a stream is that message alone, so a stream whose message was opened here is
// safe to pass on.

// wireEncrypted is the type of an encrypted message in a stream.
const wireEncrypted = 10

// streamHead is the length of the type and the length of a message.
const streamHead = 5

// errStrange is returned for a stream whose sender does not know a key.
var errStrange = errors.New("not made with a key of the mesh")

// errBroken is returned for a stream that ended or stood still within its first message.
var errBroken = errors.New("the stream broke off")

// checkedConn is a stream of which nothing can be read before its first message was opened
// with one of the keys.
type checkedConn struct {
	net.Conn
	keys func() [][]byte
	// label is the mesh's name. labelled says that the stream begins with it, as one does
	// that the other side opened.
	label    []byte
	labelled bool
	// reserve bounds the message: it returns an error if there is no room for so many
	// bytes, and otherwise how to give the room back once the message was opened.
	reserve func(size int) (release func(), err error)

	checked bool
	rest    []byte // what was read and not yet passed on
	err     error
}

// check reads the first message, unless that was done. It is called by one goroutine at a
// time, as Read is.
func (c *checkedConn) check() error {
	if !c.checked {
		c.checked = true
		c.rest, c.err = c.readFirst()
	}
	return c.err
}

// readFirst returns the beginning of the stream up to the end of the first message.
func (c *checkedConn) readFirst() ([]byte, error) {
	keys := c.keys()
	if len(keys) == 0 {
		return nil, nil // nothing is encrypted
	}
	var prefix []byte
	if c.labelled && len(c.label) > 0 {
		prefix = append([]byte{wireLabel, byte(len(c.label))}, c.label...)
	}
	head := make([]byte, len(prefix)+streamHead)
	if n, err := io.ReadFull(c.Conn, head); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("read the head of a message: %w: %w", errBroken, err)
	}
	message, isOurs := bytes.CutPrefix(head, prefix)
	if !isOurs || message[0] != wireEncrypted {
		return nil, errStrange
	}
	size := binary.BigEndian.Uint32(message[1:])
	release, err := c.reserve(int(size))
	if err != nil {
		return nil, err
	}
	defer release()
	// The buffer grows with what arrives, not with what was announced.
	var sealed bytes.Buffer
	if _, err := io.CopyN(&sealed, c.Conn, int64(size)); err != nil {
		return nil, fmt.Errorf("read a message: %w: %w", errBroken, err)
	}
	if openPacket(keys, sealed.Bytes(), slices.Concat(message, c.label)) == nil {
		return nil, errStrange
	}
	return slices.Concat(head, sealed.Bytes()), nil
}

// Read implements net.Conn.
func (c *checkedConn) Read(b []byte) (int, error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	if len(c.rest) > 0 {
		n := copy(b, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	c.rest = nil
	return c.Conn.Read(b)
}

// checkStream opens the first message of a stream that somebody opened to this member, and
// passes the stream on to memberlist. The stream has a place until then.
func (t *transport) checkStream(conn *countedConn) {
	from := conn.from()
	place, ok := t.gate.takeStream(from, func() { places.Abort(conn.Conn) })
	if !ok {
		conn.abort()
		return
	}
	t.readers.Go(func() {
		defer place.Leave()
		checked := t.newCheckedConn(conn, true, place.Stranger())
		if err := errors.Join(conn.SetDeadline(time.Now().Add(streamTimeout)), checked.check()); err != nil {
			// Who opens and closes a stream only looks who is there, and who had to give
			// way was counted. A host of the mesh that is slow tries again.
			slow := errors.Is(err, errBroken) && !place.Stranger()
			if !slow && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				t.gate.refuse(refusedStreamKey, from)
			}
			conn.abort()
			return
		}
		if len(t.in.keys()) > 0 {
			t.gate.prove(from)
		}
		select {
		case t.streams <- checked:
		case <-t.stop:
			_ = conn.Close()
		}
	})
}

func (t *transport) newCheckedConn(conn *countedConn, labelled, stranger bool) *checkedConn {
	from := conn.from()
	return &checkedConn{Conn: conn, keys: t.in.keys, label: t.label, labelled: labelled, reserve: func(size int) (func(), error) {
		most := memberMessage
		if stranger {
			most = strangerMessage
		}
		if size > most {
			return nil, fmt.Errorf("a message of %d bytes: at most %d are taken", size, most)
		}
		if stranger {
			return func() {}, nil // the number of such streams bounds them
		}
		place, ok := t.gate.bytes.Take(from, size, nil)
		if !ok {
			return nil, fmt.Errorf("a message of %d bytes: too many are on their way", size)
		}
		return place.Leave, nil
	}}
}
