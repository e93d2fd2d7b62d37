package hypervisortest

import (
	"io"
	"sync"
)

// fakeSerial is a guest's serial port with at most one session on it.
type fakeSerial struct {
	obey func(byte)

	mu      sync.Mutex
	session *fakeSession
	said    bool
}

func newFakeSerial(obey func(byte)) *fakeSerial { return &fakeSerial{obey: obey} }

// fakeSession is one who listens.
type fakeSession struct {
	port *fakeSerial

	mu      sync.Mutex
	changed *sync.Cond
	unread  []byte
	ended   bool // by the guest or another session
	closed  bool
}

// print writes to whoever listens; without one it is lost, as on a real port.
func (s *fakeSerial) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = true
	if s.session != nil {
		s.session.add(text)
	}
}

func (s *fakeSerial) spoken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

func (s *fakeSerial) open() *fakeSession {
	session := &fakeSession{port: s}
	session.changed = sync.NewCond(&session.mu)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		s.session.end()
	}
	s.session = session
	return session
}

func (s *fakeSerial) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		s.session.end()
		s.session = nil
	}
}

func (c *fakeSession) add(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread = append(c.unread, text...)
	c.changed.Broadcast()
}

func (c *fakeSession) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.changed.Broadcast()
}

// Read implements io.Reader.
func (c *fakeSession) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.unread) == 0 && !c.ended && !c.closed {
		c.changed.Wait()
	}
	switch {
	case c.closed:
		return 0, io.ErrClosedPipe
	case len(c.unread) == 0:
		return 0, io.EOF
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// Write implements io.Writer.
func (c *fakeSession) Write(p []byte) (int, error) {
	for i, b := range p {
		c.mu.Lock()
		dead := c.closed || c.ended
		c.mu.Unlock()
		if dead {
			return i, io.ErrClosedPipe
		}
		c.port.obey(b)
	}
	return len(p), nil
}

// Close implements io.Closer.
func (c *fakeSession) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}
