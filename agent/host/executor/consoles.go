package executor

import (
	"io"
	"sync"
)

// takenOver is what a console session reads last when another one has taken its
// place: without it the session would end without a word.
const takenOver = "\r\nvirtmesh: another session has taken over this console.\r\n"

// consoles are the open console sessions of this host's guests, one a guest, by the
// instance's UID.
type consoles struct {
	mu    sync.Mutex
	byUID map[string]*consoleSession
}

func newConsoles() *consoles { return &consoles{byUID: map[string]*consoleSession{}} }

// open opens a session by dial, which ends the one before it, and lets that one say
// why it ended.
func (c *consoles) open(uid string, dial func() (io.ReadWriteCloser, error)) (io.ReadWriteCloser, error) {
	session := &consoleSession{closed: func(s *consoleSession) { c.drop(uid, s) }}
	c.mu.Lock()
	before := c.byUID[uid]
	c.byUID[uid] = session
	c.mu.Unlock()
	if before != nil {
		before.take(true)
	}
	stream, err := dial()
	if err != nil {
		c.restore(uid, session, before)
		return nil, err
	}
	session.ReadWriteCloser = stream
	return session, nil
}

// restore puts the session before a failed one back.
func (c *consoles) restore(uid string, failed, before *consoleSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byUID[uid] != failed {
		return
	}
	delete(c.byUID, uid)
	if before != nil {
		before.take(false)
		c.byUID[uid] = before
	}
}

// drop is called when a session was closed.
func (c *consoles) drop(uid string, session *consoleSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byUID[uid] == session {
		delete(c.byUID, uid)
	}
}

// consoleSession is a stream that says at its end that it was taken over, if it was.
type consoleSession struct {
	io.ReadWriteCloser
	closed func(*consoleSession)

	mu sync.Mutex
	// taken says that another session has come. notice is what of takenOver has
	// not been read yet, once the stream has ended.
	taken, ended bool
	notice       string
}

func (s *consoleSession) take(taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = taken
}

// Read implements io.Reader.
func (s *consoleSession) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	if n > 0 || err == nil {
		return n, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken && !s.ended {
		s.ended, s.notice = true, takenOver
	}
	if s.notice == "" {
		return 0, err
	}
	n = copy(p, s.notice)
	s.notice = s.notice[n:]
	return n, nil
}

// Close implements io.Closer.
func (s *consoleSession) Close() error {
	s.closed(s)
	return s.ReadWriteCloser.Close()
}
