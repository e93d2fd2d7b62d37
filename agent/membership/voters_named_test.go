package membership

import (
	"fmt"
	"testing"

	"virtmesh/raftstore/raftstoretest"
)

// Status names a voter whose record does not name its key: the list of the mesh's voters waits for it.
func TestStatusNamesAVoterThatHoldsUpTheList(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	if found := warned(t, m, "do not name their keys yet (host1)"); len(found) != 1 {
		t.Errorf("before the record names the key: %v", found)
	}
	if err := m.startRecord(t.Context()); err != nil {
		t.Fatal(err)
	}
	raftstoretest.Eventually(t, func() error {
		if found := warned(t, m, "do not name their keys yet"); len(found) > 0 {
			return fmt.Errorf("it still warns: %v", found)
		}
		return nil
	})
}
