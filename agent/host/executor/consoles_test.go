package executor

import (
	"errors"
	"io"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/port/guests"
)

// rest reads a session to its end, a few bytes at a time.
func rest(t *testing.T, session io.Reader) string {
	t.Helper()
	var text strings.Builder
	buf := make([]byte, 5)
	for {
		n, err := session.Read(buf)
		text.Write(buf[:n])
		if err == io.EOF {
			return text.String()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAConsoleThatIsTakenOverSaysSo(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	open := func() io.ReadWriteCloser {
		t.Helper()
		session, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Console})
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	first := open()
	w.hv.Machine().Fail("Console", hypervisor.ErrNoDevice)
	if _, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Console}); err == nil {
		t.Fatal("a console that cannot be opened was opened")
	}
	second := open()
	if text := rest(t, first); !strings.HasSuffix(text, takenOver) {
		t.Errorf("the first session ends with %q", text)
	}
	// The end of the guest is no takeover.
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	if text := rest(t, second); strings.Contains(text, "taken over") {
		t.Errorf("the second session ends with %q", text)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Error(err)
	}
	if n := len(w.executor.consoles.byUID); n != 0 {
		t.Errorf("%d sessions are remembered", n)
	}
}

// A session that could not be opened has taken over nothing.
func TestAFailedTakeoverLeavesTheSessionBeforeIt(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	first, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Console})
	if err != nil {
		t.Fatal(err)
	}
	w.hv.Machine().Fail("Console", hypervisor.ErrNoDevice)
	if _, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Console}); err == nil {
		t.Fatal("a console that cannot be opened was opened")
	}
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	if text := rest(t, first); strings.Contains(text, "taken over") {
		t.Errorf("the session ends with %q", text)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}
