package dir

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"virtmesh/storage"
	"virtmesh/storage/durable"
)

// marker is the content of pool.json, and of Config.Memory.
type marker struct {
	ID string `json:"id"`
}

func (p *Pool) markerFile() string { return filepath.Join(p.cfg.Dir, "pool.json") }

// identifyPool finds out which pool is in Dir. A directory without pool.json becomes
// a new pool, unless Config.Memory has the ID of an earlier pool: then that pool's
// file system is not mounted.
func (p *Pool) identifyPool() error {
	var known string
	var err error
	if p.cfg.Memory != "" {
		if known, err = readMarker(p.cfg.Memory); err != nil {
			return err
		}
	}
	found, err := readMarker(p.markerFile())
	if err != nil {
		return err
	}
	if known != "" && found != known {
		return p.unavailable(found, known)
	}
	if found == "" {
		if found, err = p.markPool(); err != nil {
			return err
		}
	}
	p.id = found
	if p.cfg.Memory == "" || known != "" {
		return nil
	}
	return writeMarker(p.cfg.Memory, found)
}

// unavailable returns the error for a pool with the ID found ("" for none) where the
// pool with the ID known was expected.
func (p *Pool) unavailable(found, known string) error {
	what := "there is no pool.json"
	if found != "" {
		what = fmt.Sprintf("there is the pool with ID %s", found)
	}
	err := fmt.Errorf("%w: in %s %s, and not the pool with ID %s that this host has used: see that its file system is mounted",
		storage.ErrUnavailable, p.cfg.Dir, what, known)
	if p.cfg.Memory != "" {
		err = fmt.Errorf("%w; to use what is there instead, remove %s", err, p.cfg.Memory)
	}
	return err
}

// classifyMissing turns ErrNotFound into ErrUnavailable if the pool itself is not
// there.
func (p *Pool) classifyMissing(err error) error {
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	found, merr := readMarker(p.markerFile())
	if merr != nil {
		return merr
	}
	if found != p.id {
		return p.unavailable(found, p.id)
	}
	return err
}

// markPool writes a new pool.json into the directory. If two hosts do so at once, one
// wins. It returns the winner's ID.
func (p *Pool) markPool() (string, error) {
	if err := os.MkdirAll(p.cfg.Dir, 0o711); err != nil {
		return "", err
	}
	own := fmt.Sprintf("%s.%s-%s", p.markerFile(), p.cfg.Host, rand.Text())
	if err := writeMarker(own, rand.Text()); err != nil {
		return "", err
	}
	defer os.Remove(own)
	if err := os.Link(own, p.markerFile()); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if err := durable.Sync(p.cfg.Dir); err != nil {
		return "", err
	}
	return readMarker(p.markerFile())
}

// readMarker returns the ID in a file, or "" if the file does not exist.
func readMarker(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if isMissing(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var m marker
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if m.ID == "" {
		return "", fmt.Errorf("%s: field id is empty", path)
	}
	return m.ID, nil
}

// writeMarker replaces a file in one step: with half a file the pool could not be
// opened.
func writeMarker(path, id string) error {
	raw, err := json.Marshal(marker{id})
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(raw, '\n'), 0o644)
}
