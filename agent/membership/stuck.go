package membership

import (
	"context"
	"errors"
	"time"

	"virtmesh/raftstore"
)

// errCopyDeleted ends the wait of awaitHelp. The service manager starts the agent again.
var errCopyDeleted = errors.New("the unusable copy of the mesh's state was deleted; the next start fetches a new one")

// isUnusable reports whether a replica that cannot be opened fails in the same way at every
// start, until somebody installs another version or deletes the copy.
func isUnusable(err error) bool {
	for _, lasting := range []error{raftstore.ErrHalted, raftstore.ErrReplaced, raftstore.ErrDiverged, raftstore.ErrCorruptLog, raftstore.ErrFeatureLevel} {
		if errors.Is(err, lasting) {
			return true
		}
	}
	return false
}

// awaitHelp keeps the agent alive, and not ready, while this host's copy of the mesh's
// state cannot be used: if the agent ended, it would be started again for ever, and nobody
// could ask it why. It returns when the copy was deleted, when it is certain that the mesh has
// expelled this host, or when ctx ends.
func (m *Member) awaitHelp(ctx context.Context, why error) error {
	m.log.Error("this host cannot use its copy of the mesh's state and waits for help; running guests continue", "err", why)
	if err := raftstore.ReportHalted(m.options.Metrics); err != nil {
		m.log.Warn("the metrics do not show that the replica is halted", "err", err)
	}
	w := m.newWaitingRoom("cannot use its copy of the mesh's state")
	defer w.close()
	w.setReason(why)
	if err := w.open(ctx); err != nil {
		return err
	}
	defer m.startAskingForGossipKeys(ctx)()
	again := time.NewTicker(w.pause)
	defer again.Stop()
	verdict := time.NewTicker(expulsionEvery)
	defer verdict.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
			if raftstore.IsEmpty(m.config.raftDir()) {
				return errCopyDeleted
			}
		case <-verdict.C:
			if m.isExpelled(ctx, m.verdict()) {
				return ErrExpelled
			}
		}
	}
}
