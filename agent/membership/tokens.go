package membership

import (
	"context"
	"time"

	"virtmesh/agent/identity"
)

// tokenInterval is how often tokens that can no longer be used are deleted.
const tokenInterval = time.Hour

// PruneTokens periodically deletes join tokens that can no longer be used, until ctx
// ends. Only the host for which myTurn returns true does this, to avoid double work;
// two hosts at once would do no harm.
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
			if _, err := identity.NewTokens(m.records).Prune(ctx); err != nil {
				m.log.Warn("old tokens could not be removed", "err", err)
			}
		}
	}
}
