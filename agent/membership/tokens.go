package membership

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// tokenInterval is how often tokens that can no longer be used are deleted.
const tokenInterval = time.Hour

// tokenAges measures for how long the join tokens have been as they are. Their records have
// times of the hosts that made or used them, whose clocks may be hours off: a token would be
// expired at once, or live for hours more. Methods may be called concurrently.
type tokenAges struct {
	seen stewards.Sightings[tokenState]

	mu      sync.Mutex
	known   map[string]bool // the tokens that were seen, by ID
	watches bool            // every token that is new now was made now
}

// tokenState is what a token is; at is the time that its record names.
type tokenState struct {
	used bool
	at   int64
}

// unchanged returns for how long a token has been as it is. Only of a token that was there
// before this host began to watch does it take the times in the record for a hint.
func (a *tokenAges) unchanged(token identity.TokenRecord) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.age(token)
}

// age is unchanged for a caller that holds a.mu.
func (a *tokenAges) age(token identity.TokenRecord) time.Duration {
	stamped := time.Duration(0)
	if !a.watches {
		stamped = time.Since(token.Changed())
	}
	return a.seen.Age(token.ID, tokenState{token.UsedBy != nil, token.Changed().UnixNano()}, stamped)
}

// note takes in which tokens there are.
func (a *tokenAges) note(tokens []identity.TokenRecord) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := map[string]bool{}
	for _, token := range tokens {
		known[token.ID] = true
		a.age(token)
	}
	for id := range a.known {
		if !known[id] {
			a.seen.Forget(id)
		}
	}
	a.known, a.watches = known, true
}

// follow notes the tokens whenever one changes, until ctx ends or the store stops.
func (a *tokenAges) follow(ctx context.Context, store *raftstore.Store, log *slog.Logger) {
	for ctx.Err() == nil {
		watch, err := store.Watch(ctx, raftstore.WatchRequest{Prefix: identity.TokensPrefix})
		if err != nil {
			return // the store has stopped, and the agent stops with it
		}
		a.read(ctx, store, log)
		for range watch.Events() {
			a.read(ctx, store, log)
		}
	}
}

// read notes the tokens that this host's copy of the state has.
func (a *tokenAges) read(ctx context.Context, store *raftstore.Store, log *slog.Logger) {
	tokens, err := identity.NewTokens(store).ListLocal(ctx)
	if err != nil {
		log.Warn("the join tokens cannot be read", "err", err)
		return
	}
	a.note(tokens)
}

// PruneTokens measures how old the join tokens are, and periodically deletes those that can
// no longer be used, and the records of people's certificates that ended long ago, until ctx ends. Only the host for which myTurn returns true does this, to avoid double work;
// two hosts at once would do no harm.
func (m *Member) PruneTokens(ctx context.Context, myTurn func() bool) error {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { m.tokens.follow(ctx, m.store, m.log) })
	ticker := time.NewTicker(tokenInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if !myTurn() {
				continue
			}
			if _, err := identity.NewTokens(m.records).Prune(ctx, m.tokens.unchanged); err != nil {
				m.log.Warn("old tokens could not be removed", "err", err)
			}
			if _, err := identity.NewClients(m.records).Prune(ctx); err != nil {
				m.log.Warn("records of old certificates could not be removed", "err", err)
			}
		}
	}
}
