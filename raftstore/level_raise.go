package raftstore

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// hostsNamed is how many hosts an error names.
const hostsNamed = 10

// RaiseFeatureLevel raises the feature level of the group. It returns nil if the group is
// at that level already, and retries until ctx ends. A level that was raised can never be
// lowered.
//
// First the leader asks every replica and every host that Config.Members reports which
// levels it knows. If one of them does not know the new level, or does not answer, the
// error wraps ErrHeldUp and names it.
func (s *Store) RaiseFeatureLevel(ctx context.Context, to uint32) error {
	payload := binary.AppendUvarint(nil, uint64(to))
	if _, err := s.requestAtLeader(ctx, opRaiseLevel, payload); err != nil {
		return fmt.Errorf("raise the feature level to %d: %w", to, err)
	}
	if err := s.reads.await(ctx); err != nil {
		return fmt.Errorf("raised the feature level to %d: wait for the local replica: %w", to, err)
	}
	return nil
}

// holdLevel keeps others from raising the feature level, and from adding a replica, until
// release is called.
func (s *Store) holdLevel(ctx context.Context) (release func(), err error) {
	select {
	case s.raising <- struct{}{}:
		return func() { <-s.raising }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the feature level is being raised: %w", errNotLeader, ctx.Err())
	}
}

// serveRaise raises the feature level. Only the leader calls it.
func (s *Store) serveRaise(ctx context.Context, payload []byte) error {
	r := &reader{b: payload}
	to := r.uint32()
	if r.err != nil || len(r.b) != 0 {
		return fmt.Errorf("%w: feature level: %w", ErrInvalidTxn, errDecode)
	}
	release, err := s.holdLevel(ctx)
	if err != nil {
		return err
	}
	defer release()
	if _, err := s.termReady(); err != nil {
		return err
	}
	state := s.history.current().tree
	now, err := levelOf(state)
	switch {
	case err != nil:
		return err
	case to == now.level:
		return nil
	case to < now.level:
		return fmt.Errorf("%w: the feature level is %d and cannot be lowered", ErrInvalidTxn, now.level)
	}
	if err := s.askLevels(ctx, to); err != nil {
		return err
	}
	record, ok := state.Get(&stored{key: levelKey})
	if !ok {
		record = &stored{}
	}
	_, err = s.commit(ctx, Txn{
		If:  []Condition{{levelKey, record.modRevision}},
		Ops: []Op{{Key: levelKey, Value: groupLevel{to, s.cfg.Version}.encode()}},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotLeader, err)
	}
	s.log.Info("the feature level was raised", "from", now.level, "to", to)
	return nil
}

// askLevels returns an error that names the hosts that do not know a level, or do not say
// whether they do.
func (s *Store) askLevels(ctx context.Context, level uint32) error {
	hosts, err := s.hostsToAsk()
	if err != nil {
		return leaderError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC/2)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	holders := map[string]string{}
	if !s.levels.known.Contains(level) {
		holders[s.cfg.NodeID] = s.group.self.name() + " knows " + s.levels.known.String()
	}
	// All at once: hosts that are dead must not take the time of the others.
	for host, addr := range hosts {
		asking.Go(func() {
			why := s.askLevel(ctx, host, addr, level)
			if why == "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			holders[host] = why
		})
	}
	asking.Wait()
	if len(holders) == 0 {
		return nil
	}
	var list []string
	for _, host := range slices.Sorted(maps.Keys(holders)) {
		if len(list) == hostsNamed {
			list = append(list, fmt.Sprintf("and %d more", len(holders)-hostsNamed))
			break
		}
		list = append(list, holders[host])
	}
	return fmt.Errorf("%w %d: %s", ErrHeldUp, level, strings.Join(list, "; "))
}

// hostsToAsk returns the addresses of all other hosts: those with a replica, whether it
// follows or not, and those that are members.
func (s *Store) hostsToAsk() (map[string]string, error) {
	servers, err := s.servers()
	if err != nil {
		return nil, err
	}
	hosts := map[string]string{}
	for node, k := range s.followers.judge(s.SilenceLimit(), s.raft.LastIndex()) {
		hosts[node] = k.Addr
	}
	for _, srv := range servers {
		hosts[nodeOf(srv.ID)] = string(srv.Address)
	}
	for id, m := range s.members() {
		if m.Addr != "" || hosts[id] == "" {
			hosts[id] = m.Addr
		}
	}
	delete(hosts, s.cfg.NodeID)
	return hosts, nil
}

// askLevel asks a host whether it knows a level, and returns why not in words.
func (s *Store) askLevel(ctx context.Context, host, addr string, level uint32) string {
	if addr == "" {
		return fmt.Sprintf("host %q has no address", host)
	}
	payload, err := s.peers.call(ctx, addr, opStats, nil)
	if err != nil {
		return fmt.Sprintf("host %q does not answer (%s): start it, or take it out of the mesh", host, plainCause(err))
	}
	var st stats
	if err := json.Unmarshal(payload, &st); err != nil {
		return fmt.Sprintf("host %q does not say which levels it knows: %v", host, err)
	}
	theirs := greeting{node: st.Host, version: st.Version}
	switch {
	case st.Host != host:
		return fmt.Sprintf("%s answers at %s, the address of host %q", theirs.name(), addr, host)
	case !st.Levels.Contains(level):
		return theirs.name() + " knows " + st.Levels.String()
	}
	return ""
}

// plainCause returns why a peer did not answer, without the words that say what a retry may
// conclude from it.
func plainCause(err error) string {
	text := err.Error()
	for _, class := range []error{errNotLeader, errUnsettled} {
		text = strings.ReplaceAll(text, class.Error()+": ", "")
	}
	return text
}
