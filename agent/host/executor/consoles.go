package executor

import (
	"errors"
	"io"
	"sync"
)

// takenOver is the last text that a console session reads when another session has
// replaced it. Without it the session would end without an explanation.
const takenOver = "\r\nvirtmesh: another session has taken over this console.\r\n"

// sessions are the open sessions of this host's guests on a console or a display, at most
// one for each guest, by the instance's UID.
type sessions struct {
	// notice is the last text that a session reads when another has replaced it.
	notice string
	// end says that a new session does not by itself end the one before.
	end bool

	mu    sync.Mutex
	byUID map[string]*consoleSession
}

func newConsoles() *sessions {
	return &sessions{notice: takenOver, byUID: map[string]*consoleSession{}}
}

// newDisplays returns sessions without a notice, for which a display has no place.
func newDisplays() *sessions {
	return &sessions{end: true, byUID: map[string]*consoleSession{}}
}

// errInUse refuses a session that would end another, where it must not.
var errInUse = errors.New("Active VNC connection. Request denied.") // in KubeVirt's words

// openSession opens a session by dial, which takes the place of the guest's previous one;
// if preserve is true, it fails with errInUse where there is one.
func (c *sessions) openSession(uid string, preserve bool, dial func() (io.ReadWriteCloser, error)) (io.ReadWriteCloser, error) {
	session := &consoleSession{last: c.notice, closed: func(s *consoleSession) { c.removeSession(uid, s) }}
	c.mu.Lock()
	before := c.byUID[uid]
	if before != nil && preserve {
		c.mu.Unlock()
		return nil, errInUse
	}
	session.before = before
	c.byUID[uid] = session
	c.mu.Unlock()
	if before != nil {
		before.setTaken(true)
	}
	stream, err := dial()
	if err != nil {
		c.restoreSession(uid, session)
		return nil, err
	}
	session.begin(stream)
	c.settleTakeover(session)
	return session, nil
}

// settleTakeover ends what a session has replaced, now that it is open: the session before it, and
// those that this one had not yet replaced for good.
func (c *sessions) settleTakeover(session *consoleSession) {
	var replaced []*consoleSession
	c.mu.Lock()
	for before := session.before; before != nil; before = before.before {
		replaced = append(replaced, before)
	}
	session.before = nil
	c.mu.Unlock()
	if !c.end {
		return
	}
	for _, before := range replaced {
		before.cut()
	}
}

// restoreSession puts back the session that was there before the failed one: the last that has
// neither failed nor been closed meanwhile.
func (c *sessions) restoreSession(uid string, failed *consoleSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed.gone = true
	if c.byUID[uid] != failed {
		return // who came later puts it back, or has taken its place
	}
	before := failed.before
	for before != nil && before.gone {
		before = before.before
	}
	delete(c.byUID, uid)
	if before != nil {
		before.setTaken(false)
		c.byUID[uid] = before
	}
}

// removeSession removes a session that was closed.
func (c *sessions) removeSession(uid string, session *consoleSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	session.gone = true
	if c.byUID[uid] == session {
		delete(c.byUID, uid)
	}
}

// consoleSession is a stream that says at its end that it was taken over, if it was.
type consoleSession struct {
	closed func(*consoleSession)
	last   string

	// Guarded by the lock of sessions: before is the session that this one replaces, nil once it
	// is open; gone says that it was closed, or could not be opened.
	before *consoleSession
	gone   bool

	mu     sync.Mutex
	stream io.ReadWriteCloser // nil until it is open
	// taken says that another session has replaced this one. ended says that the
	// stream has ended and last was moved to notice, which holds the part of it
	// that has not been read yet. isCut says that the stream is not to be used any more.
	taken, ended, isCut bool
	notice              string
}

// begin gives the session its stream. Another session may have replaced it meanwhile.
func (s *consoleSession) begin(stream io.ReadWriteCloser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = stream
	if s.isCut {
		_ = stream.Close()
	}
}

// cut ends the stream of a session that was replaced.
func (s *consoleSession) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isCut = true
	if s.stream != nil {
		_ = s.stream.Close() // its reader is told
	}
}

func (s *consoleSession) setTaken(taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = taken
}

// Read implements io.Reader.
func (s *consoleSession) Read(p []byte) (int, error) {
	n, err := s.stream.Read(p)
	if n > 0 || err == nil {
		return n, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken && !s.ended {
		s.ended, s.notice = true, s.last
	}
	if s.notice == "" {
		if s.taken {
			err = io.EOF
		}
		return 0, err
	}
	n = copy(p, s.notice)
	s.notice = s.notice[n:]
	return n, nil
}

// Write implements io.Writer.
func (s *consoleSession) Write(p []byte) (int, error) { return s.stream.Write(p) }

// Close implements io.Closer.
func (s *consoleSession) Close() error {
	s.closed(s)
	return s.stream.Close()
}
