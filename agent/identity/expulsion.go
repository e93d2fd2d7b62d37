package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"virtmesh/raftstore"
	"virtmesh/storage/durable"
)

// fileExpulsion is in the identity folder, so that it is gone with the membership that it is
// about.
const fileExpulsion = "expelled.json"

// Expulsion is what a host keeps of its own expulsion, once that is certain.
type Expulsion struct {
	// By are the hosts that said so.
	By []string `json:"by"`
	// At is the time of this host's clock when it knew.
	At time.Time `json:"at"`
	// GuestsEnded says that none of the host's guests was left running then.
	GuestsEnded bool `json:"guestsEnded"`
}

// ReadExpulsion reads what the host with a state directory keeps of its expulsion; found is
// false if it keeps nothing. If what it keeps is damaged, found is true and err says so. It may
// be called while the agent runs.
func ReadExpulsion(dir string) (e Expulsion, found bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, folder, fileExpulsion))
	if errors.Is(err, fs.ErrNotExist) {
		return Expulsion{}, false, nil
	}
	if err != nil {
		return Expulsion{}, false, fmt.Errorf("read whether this host was expelled: %w", err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return Expulsion{}, true, fmt.Errorf("read whether this host was expelled: %w", err)
	}
	return e, true, nil
}

// KeepExpulsion keeps that this host was expelled, for later starts.
func (i *Identity) KeepExpulsion(e Expulsion) error {
	data, err := json.Marshal(e)
	if err == nil {
		err = durable.WriteFile(i.path(fileExpulsion), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep that this host was expelled: %w", err)
	}
	return nil
}

// ForgetExpulsion deletes what KeepExpulsion has kept, if anything: this host is one of its mesh
// again, which was recovered from a state of before.
func (i *Identity) ForgetExpulsion() error {
	err := os.Remove(i.path(fileExpulsion))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.Sync(filepath.Dir(i.path(fileExpulsion)))
	}
	if err != nil {
		return fmt.Errorf("the mesh counts this host again, and its agent does not start before %s is deleted: %w", i.path(fileExpulsion), err)
	}
	return nil
}

// Expelled reports whether the mesh has expelled a machine, by a linearizable read. A machine
// that left, that nobody knows, or whose name another machine has now, was not expelled.
func (s *Signer) Expelled(ctx context.Context, node Node) (bool, error) {
	_, mark, err := NewHosts(s.store).departed(ctx, node, raftstore.ReadOptions{})
	if err != nil {
		return false, fmt.Errorf("find out whether %s was expelled: %w", node, err)
	}
	return mark.Expelled, nil
}
