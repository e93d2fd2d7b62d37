package executor

import (
	"io"
	"sync"
)

// takenOver is the last text that a console session reads when another session has
// replaced it. Without it the session would end without an explanation.
const takenOver = "\r\nvirtmesh: another session has taken over this console.\r\n"

// consoles are the open console sessions of this host's guests, at most one for each
// guest, by the instance's UID.
type consoles struct {
	mu    sync.Mutex
	byUID map[string]*consoleSession
}

func newConsoles() *consoles { return &consoles{byUID: map[string]*consoleSession{}} }

// openSession opens a session by dial. dial ends the guest's previous session, which then
// reads takenOver before its end.
func (c *consoles) openSession(uid string, dial func() (io.ReadWriteCloser, error)) (io.ReadWriteCloser, error) {
	session := &consoleSession{closed: func(s *consoleSession) { c.removeSession(uid, s) }}
	c.mu.Lock()
	before := c.byUID[uid]
	c.byUID[uid] = session
	c.mu.Unlock()
	if before != nil {
		before.setTaken(true)
	}
	stream, err := dial()
	if err != nil {
		c.restoreSession(uid, session, before)
		return nil, err
	}
	session.ReadWriteCloser = stream
	return session, nil
}

// restoreSession puts back the session that was there before the failed one.
func (c *consoles) restoreSession(uid string, failed, before *consoleSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byUID[uid] != failed {
		return
	}
	delete(c.byUID, uid)
	if before != nil {
		before.setTaken(false)
		c.byUID[uid] = before
	}
}

// removeSession removes a session that was closed.
func (c *consoles) removeSession(uid string, session *consoleSession) {
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
	// taken says that another session has replaced this one. ended says that the
	// stream has ended and takenOver was moved to notice, which holds the part of it
	// that has not been read yet.
	taken, ended bool
	notice       string
}

func (s *consoleSession) setTaken(taken bool) {
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
