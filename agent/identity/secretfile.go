package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"virtmesh/agent/hostseal"
	"virtmesh/storage/durable"
)

// secretFiles are the files of an identity folder that hold the keyring's private keys, which
// nothing but this type reads and writes. How they are kept on disk is decided here alone: in
// clear until the host begins to seal (package hostseal), and sealed from then on. It is not safe
// for concurrent use.
type secretFiles struct {
	at    string
	seals *hostseal.Seals
	// sealing says that files must be sealed from now on.
	sealing bool
	// shut are the files that are sealed and that the host cannot open, with the reasons. For
	// the host they are not there; on the disk they stay.
	shut map[string]error
}

// secretFileNames are the names of all secret files.
var secretFileNames = []string{fileCAKey, fileSecretKeys}

// read returns the content of a secret file; nil if there is none, or the host cannot open it.
func (f *secretFiles) read(name string) ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(f.at, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the secret file %s: %w", name, err)
	}
	if _, sealed := hostseal.SealedWith(content); !sealed {
		return content, nil
	}
	plain, err := f.seals.Unseal(name, content)
	if errors.Is(err, hostseal.ErrShut) {
		if f.shut == nil {
			f.shut = map[string]error{}
		}
		f.shut[name] = err
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the secret file %s: %w", name, err)
	}
	delete(f.shut, name)
	return plain, nil
}

// write replaces a secret file, completely or not at all. It is on the disk when write returns.
// One that the host cannot open is put aside, not replaced. Without data the file is deleted, and
// what was put aside of it: keys that end on a host end in every form. It is no error if there is
// none.
func (f *secretFiles) write(name string, data []byte) error {
	path := filepath.Join(f.at, name)
	if len(data) == 0 {
		if err := f.remove(path); err != nil {
			return fmt.Errorf("delete the secret file %s: %w", name, err)
		}
		delete(f.shut, name)
		return nil
	}
	content := data
	if f.sealing {
		err := f.seals.Begin()
		if err == nil {
			content, err = f.seals.Seal(name, data)
		}
		if err != nil {
			return fmt.Errorf("write the secret file %s: %w", name, err)
		}
	}
	if f.shut[name] != nil {
		aside := path + asideMark + time.Now().UTC().Format("20060102T150405.000")
		if err := durable.Rename(path, aside); err != nil {
			return fmt.Errorf("put aside the secret file %s: %w", name, err)
		}
		delete(f.shut, name)
	}
	if err := durable.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write the secret file %s: %w", name, err)
	}
	return nil
}

// asideMark follows the name of a file that was put aside.
const asideMark = ".unopened-"

func (f *secretFiles) remove(path string) error {
	gone, err := filepath.Glob(path + asideMark + "*")
	if err != nil {
		return err
	}
	for _, file := range append(gone, path) {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.Sync(f.at)
}

// sealAll seals the files that are in clear, or sealed with another key than the one that seals
// now, and lets the keys go that seal nothing any more. It may be interrupted and called again.
func (f *secretFiles) sealAll() error {
	f.sealing = true
	if err := f.seals.Begin(); err != nil {
		return err
	}
	active, _ := f.seals.Active()
	for _, name := range secretFileNames {
		content, err := os.ReadFile(filepath.Join(f.at, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the secret file %s: %w", name, err)
		}
		if with, sealed := hostseal.SealedWith(content); sealed && with == active {
			continue
		}
		plain, err := f.read(name)
		if err == nil && plain != nil {
			err = f.write(name, plain)
		}
		if err != nil {
			return err
		}
	}
	used, err := f.sealedWith()
	if err != nil {
		return err
	}
	return f.seals.DropBut(used)
}

// sealedWith returns the names of the keys with which files of the folder are sealed, those that
// were put aside too.
func (f *secretFiles) sealedWith() ([]string, error) {
	entries, err := os.ReadDir(f.at)
	if err != nil {
		return nil, fmt.Errorf("read the identity folder: %w", err)
	}
	var used []string
	for _, e := range entries {
		if name, _, _ := strings.Cut(e.Name(), asideMark); name != fileCAKey && name != fileSecretKeys {
			continue
		}
		content, err := os.ReadFile(filepath.Join(f.at, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the secret file %s: %w", e.Name(), err)
		}
		if with, sealed := hostseal.SealedWith(content); sealed {
			used = append(used, with)
		}
	}
	return used, nil
}
