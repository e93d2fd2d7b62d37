package membership

import (
	"context"
	"time"

	"virtmesh/agent/identity"
)

// tokenInterval is how often tokens that cannot be used any more are removed.
const tokenInterval = time.Hour

// PruneTokens removes join tokens that cannot be used any more, until ctx ends.
// One host at a time does, whose turn it is, though two would do no harm.
func (m *Member) PruneTokens(ctx context.Context, myTurn func() bool) error {
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
			if _, err := identity.NewTokens(m.store).Prune(ctx); err != nil {
				m.log.Warn("old tokens could not be removed", "err", err)
			}
		}
	}
}
