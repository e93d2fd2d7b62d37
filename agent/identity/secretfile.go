package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/hostseal"
	"virtmesh/storage/durable"
)

// secretFiles are the files of an identity folder that hold the keyring's private keys, which
// nothing but this type reads and writes. How they are kept on disk is decided here alone: in
// clear until the host begins to seal (package hostseal), and sealed from then on. It is not safe
// for concurrent use.
//
// A file that the host cannot open is never replaced, but put aside under another name
// (asideMark), and is opened later if it can be: what it holds is then added to the keyring.
type secretFiles struct {
	at    string
	seals *hostseal.Seals
	// sealing says that files must be sealed from now on.
	sealing bool
	// shut are the files, also those that were put aside, that are sealed and that the host cannot
	// open, with the reasons. For the host they are not there; on the disk they stay.
	shut map[string]error
	// spare are the files that were put aside and that the host has opened meanwhile: whatever
	// they hold is in the keyring, so they go with the next write.
	spare []string
}

// secretFileNames are the names of all secret files.
var secretFileNames = []string{fileCAKey, fileSecretKeys}

// read returns what the host can open of a secret file and of what was put aside of it, oldest
// first; nil if there is nothing.
func (f *secretFiles) read(name string) ([]byte, error) {
	files, err := f.aside(name)
	if err != nil {
		return nil, fmt.Errorf("read the secret file %s: %w", name, err)
	}
	var all []byte
	for _, file := range append(files, name) {
		plain, err := f.open(file)
		switch {
		case errors.Is(err, hostseal.ErrShut):
			f.note(file, err)
		case err != nil:
			return nil, err
		case plain != nil:
			f.note(file, nil)
			all = append(append(all, plain...), '\n')
		}
	}
	return all, nil
}

// note keeps that a file cannot be opened, or with nil that what it holds is in memory.
func (f *secretFiles) note(file string, shut error) {
	if shut != nil {
		if f.shut == nil {
			f.shut = map[string]error{}
		}
		f.shut[file] = shut
		return
	}
	delete(f.shut, file)
	if file != nameOfSecretFile(file) && !slices.Contains(f.spare, file) {
		f.spare = append(f.spare, file)
	}
}

// open returns the content of a file; nil if there is none. It changes nothing of f and may wait
// for the TPM.
func (f *secretFiles) open(file string) ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(f.at, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the secret file %s: %w", file, err)
	}
	if _, sealed := hostseal.SealedWith(content); !sealed {
		return content, nil
	}
	plain, err := f.seals.Unseal(nameOfSecretFile(file), content)
	if err != nil {
		return nil, fmt.Errorf("read the secret file %s: %w", file, err)
	}
	return plain, nil
}

// nameOfSecretFile returns the name of the secret file that a file is, or was before it was put
// aside.
func nameOfSecretFile(file string) string {
	name, _, _ := strings.Cut(file, asideMark)
	return name
}

// write replaces a secret file, completely or not at all, with all that the keyring has in
// memory. It is on the disk when write returns. One that the host cannot open is put aside. Of
// what was put aside, write deletes what is in memory, and all of it if the rest is of no use any
// more (ends). Without data the file itself is deleted, too. The TPM is not asked: Begin of seals
// is for the caller.
func (f *secretFiles) write(name string, data []byte, ends bool) error {
	if len(data) > 0 {
		if err := f.replace(name, data); err != nil {
			return fmt.Errorf("write the secret file %s: %w", name, err)
		}
	}
	var gone []string
	if len(data) == 0 && (ends || f.shut[name] == nil) {
		gone = append(gone, name)
	}
	files, err := f.aside(name)
	for _, file := range files {
		if ends || slices.Contains(f.spare, file) {
			gone = append(gone, file)
		}
	}
	if err == nil {
		err = f.remove(gone)
	}
	if err != nil {
		return fmt.Errorf("delete what is left of the secret file %s: %w", name, err)
	}
	return nil
}

func (f *secretFiles) replace(name string, data []byte) (err error) {
	content := data
	if f.sealing {
		if content, err = f.seals.Seal(name, data); err != nil {
			return err
		}
	}
	path := filepath.Join(f.at, name)
	if shut := f.shut[name]; shut != nil {
		aside := name + asideMark + time.Now().UTC().Format("20060102T150405.000")
		if err := durable.Rename(path, filepath.Join(f.at, aside)); err != nil {
			return fmt.Errorf("put it aside: %w", err)
		}
		delete(f.shut, name)
		f.shut[aside] = shut
	}
	return durable.WriteFile(path, content, 0o600)
}

// asideMark follows the name of a file that was put aside.
const asideMark = ".unopened-"

// aside returns the files that were put aside of a secret file, oldest first.
func (f *secretFiles) aside(name string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(f.at, name+asideMark+"*"))
	var files []string
	for _, path := range paths {
		files = append(files, filepath.Base(path))
	}
	return files, err
}

// leftOver reports whether there are files, of a name or put aside of it, that the host cannot
// open, or that it does not need any more.
func (f *secretFiles) leftOver(name string) bool {
	return slices.ContainsFunc(append(slices.Collect(maps.Keys(f.shut)), f.spare...), func(file string) bool { return nameOfSecretFile(file) == name })
}

func (f *secretFiles) remove(files []string) error {
	if len(files) == 0 {
		return nil
	}
	for _, file := range files {
		if err := os.Remove(filepath.Join(f.at, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		delete(f.shut, file)
		f.spare = slices.DeleteFunc(f.spare, func(spare string) bool { return spare == file })
	}
	return durable.Sync(f.at)
}

// sealAll writes anew what the keyring has in memory, by name, where its file is in clear, or
// sealed with another key than the one that seals now, and lets the keys go that seal nothing any
// more. It may be interrupted and called again.
func (f *secretFiles) sealAll(held map[string][]byte) error {
	active, _ := f.seals.Active()
	for _, name := range secretFileNames {
		content, err := os.ReadFile(filepath.Join(f.at, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read the secret file %s: %w", name, err)
		}
		with, sealed := hostseal.SealedWith(content)
		done := err != nil && len(held[name]) == 0 || sealed && with == active
		if f.shut[name] != nil || done && !slices.ContainsFunc(f.spare, func(file string) bool { return nameOfSecretFile(file) == name }) {
			continue
		}
		if err := f.write(name, held[name], false); err != nil {
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
		if !slices.Contains(secretFileNames, nameOfSecretFile(e.Name())) {
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
