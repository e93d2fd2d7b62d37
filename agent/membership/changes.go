package membership

import (
	"errors"
	"time"

	"golang.org/x/time/rate"

	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// refusalsPause is how often the log tells of changes that were refused: a host can ask for as
// many as it likes.
const refusalsPause = time.Minute

// changesOfOthers returns what the leader asks about the changes that other hosts send, see
// keyWriters. In a mesh below level.Access any host changes any record, since versions of before
// put the records of others right when they admit a host again.
func (m *Member) changesOfOthers() func(*raftstore.Store, string, raftstore.Txn) error {
	told := rate.Sometimes{First: 1, Interval: refusalsPause}
	return func(store *raftstore.Store, from string, txn raftstore.Txn) error {
		if store.FeatureLevel() < level.Access {
			return nil
		}
		err := mayWrite(store, store.Voters(), from, txn)
		if errors.Is(err, raftstore.ErrForbidden) {
			told.Do(func() {
				m.log.Warn("a host was refused a change of what is not its to write", "host", from, "err", err)
			})
		}
		return err
	}
}
