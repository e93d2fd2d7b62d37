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
)

// marker is the content of pool.json, and of Config.Memory.
type marker struct {
	ID string `json:"id"`
}

func (p *Pool) markerFile() string { return filepath.Join(p.cfg.Dir, "pool.json") }

// identify finds out which pool is in Dir. A directory without a mark becomes a
// pool, unless this host has seen one before: then it is not mounted.
func (p *Pool) identify() error {
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
		if found, err = p.mark(); err != nil {
			return err
		}
	}
	p.id = found
	if p.cfg.Memory == "" || known != "" {
		return nil
	}
	return writeMarker(p.cfg.Memory, found)
}

// unavailable says that found, "" for nothing, is in the place of the pool.
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

// missing turns "there is no such volume" into ErrUnavailable when it is the
// pool that is not there.
func (p *Pool) missing(err error) error {
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

// mark makes the directory a pool. Of two hosts that do so at once, one wins.
func (p *Pool) mark() (string, error) {
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
	if err := syncDir(p.cfg.Dir); err != nil {
		return "", err
	}
	return readMarker(p.markerFile())
}

// readMarker returns the ID in a file, "" if there is no file.
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

// writeMarker replaces a file as a whole: half of one would keep the pool shut.
func writeMarker(path, id string) error {
	raw, err := json.Marshal(marker{id})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it has another name when all went well
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(append(raw, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
