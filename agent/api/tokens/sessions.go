package tokens

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/bearer"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Sessions are the lasting requests of this host that were made with tokens. Each ends when its
// token does: at its time, with its account, with the Secret that it is bound to, or with the key
// that has signed it. Its methods may be called concurrently.
type Sessions struct {
	store objects.Store
	valid func(context.Context, bearer.Token) bool

	mu sync.Mutex
	// byKey are the sessions by the store keys of the objects that they end with.
	byKey map[string]map[*session]bool
}

// session is one request.
type session struct {
	in     *Sessions
	cancel context.CancelFunc

	// The following are guarded by in.mu.
	token bearer.Token
	keys  []string
	timer *time.Timer
	done  bool
}

type sessionKey struct{}

func newSessions(store objects.Store, valid func(context.Context, bearer.Token) bool) *Sessions {
	return &Sessions{store: store, valid: valid, byKey: map[string]map[*session]bool{}}
}

// Begin returns the context of a lasting request, which ends when the token of the request does.
// The caller calls end when the request has ended.
func (s *Sessions) Begin(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	one := &session{in: s, cancel: cancel}
	return context.WithValue(ctx, sessionKey{}, one), one.end
}

// bind makes a request end with a token, if it is a lasting one.
func (s *Sessions) bind(ctx context.Context, token bearer.Token) {
	one, ok := ctx.Value(sessionKey{}).(*session)
	if !ok || one.in != s {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.done || one.timer != nil {
		return
	}
	one.token, one.keys = token, keysOf(token.Account)
	one.timer = time.AfterFunc(time.Until(token.Ends()), one.cancel)
	for _, key := range one.keys {
		if s.byKey[key] == nil {
			s.byKey[key] = map[*session]bool{}
		}
		s.byKey[key][one] = true
	}
}

// keysOf returns the store keys of the objects that a token ends with.
func keysOf(account bearer.Account) []string {
	keys := []string{kinds.For[*corev1.ServiceAccount]().StoreKey(kinds.Key{Namespace: account.Namespace, Name: account.ServiceAccount.Name})}
	if account.Secret != nil {
		keys = append(keys, kinds.For[*corev1.Secret]().StoreKey(kinds.Key{Namespace: account.Namespace, Name: account.Secret.Name}))
	}
	return keys
}

// end forgets the session.
func (one *session) end() {
	one.cancel()
	one.in.mu.Lock()
	defer one.in.mu.Unlock()
	one.done = true
	if one.timer == nil {
		return
	}
	one.timer.Stop()
	for _, key := range one.keys {
		if delete(one.in.byKey[key], one); len(one.in.byKey[key]) == 0 {
			delete(one.in.byKey, key)
		}
	}
}

// Run ends sessions until ctx ends or the store stops.
func (s *Sessions) Run(ctx context.Context) {
	var watches sync.WaitGroup
	for _, prefix := range []string{kinds.For[*corev1.ServiceAccount]().Prefix(), kinds.For[*corev1.Secret]().Prefix(), identity.KeyTokenKeys} {
		watches.Go(func() { s.follow(ctx, prefix) })
	}
	watches.Wait()
}

// follow judges sessions when records below a prefix change.
func (s *Sessions) follow(ctx context.Context, prefix string) {
	for ctx.Err() == nil {
		watch, err := s.store.Watch(ctx, raftstore.WatchRequest{Prefix: prefix, Compact: true})
		if err != nil {
			return // the store has stopped, and the server stops with it
		}
		s.judge(ctx, s.all()) // what has changed before the watch began
		for event := range watch.Events() {
			if prefix == identity.KeyTokenKeys {
				s.judge(ctx, s.all())
				continue
			}
			s.judge(ctx, s.of(event.Record.Key))
		}
		watch.Stop()
	}
}

func (s *Sessions) all() (all []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, some := range s.byKey {
		for one := range some {
			all = append(all, one)
		}
	}
	return all
}

func (s *Sessions) of(key string) (some []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.byKey[key] {
		some = append(some, one)
	}
	return some
}

// judge ends those of some sessions whose token is not valid any more.
func (s *Sessions) judge(ctx context.Context, some []*session) {
	for _, one := range some {
		if !s.valid(ctx, one.token) {
			one.cancel()
		}
	}
}
