package gossiptest

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A host that is shut down waits no more for packets that the network has lost: in fake time
// nothing would end such a call once its test has ended.
func TestShutdownEndsWhatTheNetworkDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork()
		a, b := n.Host("a"), n.Host("b")
		accepted := make(chan net.Conn, 1)
		go func() { accepted <- <-b.StreamCh() }()
		conn, err := a.DialTimeout(b.addr, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = (<-accepted).Close() }()
		n.SetLoss(1)
		began := time.Now()
		ended := make(chan error, 2)
		go func() {
			_, err := a.DialTimeout(b.addr, time.Minute)
			ended <- err
		}()
		go func() {
			_, err := conn.Write([]byte("late"))
			ended <- err
		}()
		synctest.Wait()
		if err := a.Shutdown(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("it ended with %v", err)
			}
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it took %s to end", waited)
		}
	})
}
