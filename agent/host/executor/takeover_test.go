package executor

import (
	"errors"
	"io"
	"net"
	"testing"
)

// takeover is a session that is being opened: its dial has begun and waits.
type takeover struct {
	answer chan error
	opened chan error
	stream io.ReadWriteCloser
}

// begin opens a session whose dial waits for finish.
func begin(c *sessions) *takeover {
	o := &takeover{answer: make(chan error), opened: make(chan error, 1)}
	dialing := make(chan struct{})
	go func() {
		var err error
		o.stream, err = c.openSession("uid", false, func() (io.ReadWriteCloser, error) {
			close(dialing)
			if err := <-o.answer; err != nil {
				return nil, err
			}
			stream, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			return stream, nil
		})
		o.opened <- err
	}()
	<-dialing
	return o
}

// finish ends the dial, which fails with err if that is not nil.
func (o *takeover) finish(err error) { o.answer <- err; <-o.opened }

// A display is in use only while somebody has it open, whatever became of those who came later.
func TestAFailedTakeoverBringsBackOnlyWhatIsOpen(t *testing.T) {
	broken := errors.New("no display")
	inUse := func(c *sessions) bool {
		stream, err := c.openSession("uid", true, func() (io.ReadWriteCloser, error) { a, _ := net.Pipe(); return a, nil })
		if err == nil {
			_ = stream.Close()
		}
		return errors.Is(err, errInUse)
	}
	for name, c := range map[string]struct {
		run  func(first, second, third *takeover)
		used bool
	}{
		"closed meanwhile": {run: func(first, second, third *takeover) {
			_ = first.stream.Close()
			second.finish(broken)
			third.finish(broken)
		}},
		"closed, and the last fails first": {run: func(first, second, third *takeover) {
			third.finish(broken)
			_ = first.stream.Close()
			second.finish(broken)
		}},
		"open, and both fail in order":   {used: true, run: func(_, second, third *takeover) { second.finish(broken); third.finish(broken) }},
		"open, and the last fails first": {used: true, run: func(_, second, third *takeover) { third.finish(broken); second.finish(broken) }},
	} {
		t.Run(name, func(t *testing.T) {
			displays := newDisplays()
			first := begin(displays)
			first.finish(nil)
			c.run(first, begin(displays), begin(displays))
			if used := inUse(displays); used != c.used {
				t.Errorf("in use %v, want %v", used, c.used)
			}
			if _, err := first.stream.Write([]byte{1}); (err == nil) != c.used {
				t.Errorf("the first viewer writes: %v", err)
			}
		})
	}
}

// Who takes a display over ends also the viewer whom one before him was about to replace, and failed.
func TestATakeoverEndsEveryEarlierViewer(t *testing.T) {
	displays := newDisplays()
	first := begin(displays)
	first.finish(nil)
	second, third := begin(displays), begin(displays)
	third.finish(nil)
	second.finish(errors.New("no display"))
	if _, err := first.stream.Write([]byte{1}); err == nil {
		t.Error("the first viewer still has the display")
	}
	if _, err := third.stream.Write([]byte{1}); err != nil {
		t.Errorf("the last viewer: %v", err)
	}
}
