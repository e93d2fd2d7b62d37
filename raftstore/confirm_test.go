package raftstore

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// errorLog has entries, some of which cannot be read.
type errorLog struct {
	*raft.InmemStore
	errs map[uint64]func() error
}

// GetLog implements raft.LogStore.
func (l errorLog) GetLog(index uint64, to *raft.Log) error {
	if f := l.errs[index]; f != nil {
		return f()
	}
	return l.InmemStore.GetLog(index, to)
}

// TestCommandIndex: a log that cannot be read must not be taken for a compacted one,
// and entries that were compacted in the meantime must not be skipped.
func TestCommandIndex(t *testing.T) {
	broken := errors.New("broken disk")
	log := errorLog{raft.NewInmemStore(), map[uint64]func() error{}}
	for i, typ := range []raft.LogType{raft.LogCommand, raft.LogConfiguration, raft.LogNoop, raft.LogBarrier} {
		if err := log.StoreLog(&raft.Log{Index: uint64(i + 1), Type: typ}); err != nil {
			t.Fatal(err)
		}
	}
	s := &Store{applied: &appliedIndex{}}
	s.disk = &disk{logs: newLogStore(log, s.applied.get, &s.cfg.Limits, newMetrics(nil))}
	if got, err := s.commandIndex(4); got != 2 || err != nil {
		t.Errorf("index of the last entry that can be waited for: %d, %v", got, err)
	}
	log.errs[3] = func() error { return broken }
	if got, err := s.commandIndex(4); !errors.Is(err, broken) {
		t.Errorf("index from a broken log: %d, %v", got, err)
	}
	log.errs[3] = func() error {
		s.applied.set(2)
		return raft.ErrLogNotFound
	}
	if got, err := s.commandIndex(4); got != 2 || err != nil {
		t.Errorf("index when the log was compacted meanwhile: %d, %v", got, err)
	}
}

// dialLayer only dials.
type dialLayer struct {
	net.Listener
	dial func() (net.Conn, error)
}

// Dial implements StreamLayer.
func (l dialLayer) Dial(string, time.Duration) (net.Conn, error) { return l.dial() }

// TestSilentConnectionIsReplaced: a peer that came back after a power loss must be
// reached again sooner than TCP notices the dead connection.
func TestSilentConnectionIsReplaced(t *testing.T) {
	var work tasks
	cfg := DefaultConfig()
	cfg.Timing.Dial = 20 * time.Millisecond
	dials := 0
	cfg.RPC = dialLayer{dial: func() (net.Conn, error) { // one at a time
		dials++
		silent := dials == 1
		near, far := net.Pipe()
		work.start(func() {
			_, err := receive(far, rpcMagic)
			err = errors.Join(err, answer(far, verdictWelcome, selfGreeting(&cfg), nil))
			r := bufio.NewReader(far)
			if err != nil || silent {
				_, _ = io.Copy(io.Discard, r)
				return
			}
			w := bufio.NewWriter(far)
			for {
				f, err := readFrame(r)
				if err != nil {
					return
				}
				_ = errors.Join(writeFrame(w, frame{f.id, uint8(statusOK), nil}), w.Flush())
			}
		})
		return near, nil
	}}
	p := newPeers(&cfg, func(net.Conn) string { return "" }, &group{known: make(chan struct{}), self: selfGreeting(&cfg), levels: newLevelState(cfg.FeatureLevel)}, cfg.Logger, &work)
	defer work.stop()
	defer p.close()
	answered := make(chan frame, 2*askLimit)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		p.askPeer("a", opTerm, nil, func(f frame) { answered <- f })
		select {
		case <-answered:
			return
		case <-deadline:
			t.Fatal("nobody answered")
		case <-tick.C:
		}
	}
}

// HandOver makes s, which leads, transfer leadership to another replica.
func HandOver(s, to *Store) error {
	return s.raft.LeadershipTransferToServer(to.id, raft.ServerAddress(to.cfg.Addr)).Error()
}

// ReplicaID returns the Raft ID of s.
func ReplicaID(s *Store) string { return string(s.id) }

// AskTerm asks s for its term as the leader does. The request names a replica by its ID.
func AskTerm(s *Store, id string) error {
	_, err := s.serveTerm([]byte(id))
	return err
}
