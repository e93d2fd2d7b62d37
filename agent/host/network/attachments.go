package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"

	"virtmesh/netplug/nad"
	"virtmesh/storage/durable"
)

// attachments keeps in a file the network that each card in a secondary network was
// attached to when its guest started. As in KubeVirt, a NetworkAttachmentDefinition is
// read only at the start: editing or deleting it afterwards, or a restart of the
// agent, must not move a running guest to another network or cut it off. The methods
// may be called at once.
type attachments struct {
	path string

	mu    sync.Mutex
	byKey map[string]nad.Network // by leaseKey
	// unsaved is set while the file still holds attachments that were removed.
	unsaved bool
}

// openAttachments reads the file at path, which need not exist.
func openAttachments(path string) (*attachments, error) {
	a := &attachments{path: path, byKey: map[string]nad.Network{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read attachments: %w", err)
	}
	if err := json.Unmarshal(data, &a.byKey); err != nil {
		return nil, fmt.Errorf("read attachments from %s: %w", path, err)
	}
	return a, nil
}

// of returns the attachment that is stored under the key.
func (a *attachments) of(key string) (nad.Network, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	network, ok := a.byKey[key]
	return network, ok
}

// putAttachment stores an attachment. When it returns without an error, the attachment
// is on disk.
func (a *attachments) putAttachment(key string, network nad.Network) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, ok := a.byKey[key]
	if ok && before == network {
		return nil
	}
	a.byKey[key] = network
	err := a.save()
	if err != nil {
		delete(a.byKey, key)
		if ok {
			a.byKey[key] = before
		}
	}
	return err
}

// removeAttachments removes the attachments for whose key gone returns true. An error
// says that the file still holds them; flush or the next putAttachment writes it
// again.
func (a *attachments) removeAttachments(gone func(key string) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.byKey)
	maps.DeleteFunc(a.byKey, func(key string, _ nad.Network) bool { return gone(key) })
	if len(a.byKey) == before {
		return nil
	}
	a.unsaved = true
	return a.save()
}

// flush saves what could not be saved before.
func (a *attachments) flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.unsaved {
		return nil
	}
	return a.save()
}

func (a *attachments) save() error {
	data, err := json.MarshalIndent(a.byKey, "", "\t")
	if err == nil {
		err = durable.WriteFile(a.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write attachments: %w", err)
	}
	a.unsaved = false
	return nil
}
