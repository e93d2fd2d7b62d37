package hostseal

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"virtmesh/storage/durable"
)

// The folder of the sealing keys below a state directory, and how the file of a key ends.
const (
	folder     = "seal"
	suffixTPM  = ".tpm"
	suffixFile = ".key"
)

// keyLen is the length of a sealing key in bytes, AES-256.
const keyLen = 32

// Options say how a host seals.
type Options struct {
	// Choice is what the administrator wants.
	Choice Choice
	// Chip is the host's TPM; nil: there is none.
	Chip Chip
}

// Seals are the sealing keys of a state directory: the one that seals, and others for as long
// as something is sealed with them. Its methods may be called at any time from any goroutine.
// Begin and Unseal block on the TPM, which may take minutes; the others never do.
type Seals struct {
	dir     string
	options Options

	// asking is held by who reads or makes keys, and so may wait for the TPM.
	asking sync.Mutex
	// trouble is since when a TPM that has encrypted a key has refused to decrypt it.
	trouble time.Time

	// mu is never held while the TPM is asked.
	mu sync.Mutex
	// opened are the keys that were read so far, by name.
	opened map[string][]byte
	// active names the key that seals; empty as long as none does.
	active string
	// state is told to others; failed is why no key seals.
	state  State
	failed error
}

// Open returns the sealing keys of a state directory. It reads nothing.
func Open(stateDir string, options Options) *Seals {
	return &Seals{dir: filepath.Join(stateDir, folder), options: options, opened: map[string][]byte{}}
}

// Remove deletes the sealing keys of a state directory. What is sealed with them cannot be
// opened any more. It is no error if there are none.
func Remove(stateDir string) error {
	if err := os.RemoveAll(filepath.Join(stateDir, folder)); err != nil {
		return fmt.Errorf("remove the sealing keys: %w", err)
	}
	return nil
}

// State is how a host seals.
type State struct {
	// Kind is what protects the key that seals.
	Kind Kind
	// NoTPM says why no TPM protects it although the administrator did not ask for a file; nil
	// if a TPM does, or a file is wanted.
	NoTPM error
	// FellBack reports whether a TPM has sealed here before, and a file does now against the wish
	// of the administrator.
	FellBack bool
}

// State returns how the host seals now.
func (s *Seals) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Begun reports whether there is a sealing key, so that the host has begun to seal.
func (s *Seals) Begun() (bool, error) {
	keys, err := s.list()
	return len(keys) > 0, err
}

// Begin makes sure that there is a key that seals, of the kind that the administrator wants,
// and makes it if there is none yet that the host can open. It may be called again, and then
// changes nothing. A TPM that has sealed here before and does not answer is waited for, up to
// troublePatience: until then Begin fails.
func (s *Seals) Begin() error {
	s.asking.Lock()
	defer s.asking.Unlock()
	if _, seals := s.Active(); seals {
		return nil
	}
	err := s.begin()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	return err
}

// begin is Begin with s.asking held.
func (s *Seals) begin() error {
	keys, err := s.list()
	if err != nil {
		return err
	}
	before := slices.ContainsFunc(keys, func(file string) bool { return kindOf(file) == KindTPM })
	var state State
	if s.options.Choice != WithFile {
		waits, err := s.beginTPM(keys)
		state.NoTPM = err
		if state.NoTPM == nil {
			return nil
		}
		if waits || s.options.Choice == WithTPM {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.state = state
			return fmt.Errorf("seal with the TPM of this host: %w", state.NoTPM)
		}
		state.FellBack = before
	}
	state.Kind = KindFile
	if err := s.beginWith(keys, state); err != nil {
		return fmt.Errorf("seal with a file: %w", err)
	}
	return nil
}

// troublePatience is for how long a TPM that has sealed here before is waited for when it does
// not answer: busy chips do after seconds, hung ones often after their next reset. Then the host
// seals with another key, so that it can take the mesh's keys from others.
const troublePatience = 10 * time.Minute

// beginTPM seals with a key of the TPM. waits says that an error may pass.
func (s *Seals) beginTPM(keys []string) (waits bool, err error) {
	if s.options.Chip == nil {
		return false, ErrNoChip
	}
	for _, file := range keys {
		if kindOf(file) != KindTPM {
			continue
		}
		_, err := s.open(file)
		if err == nil {
			s.use(nameOf(file), State{Kind: KindTPM})
			return false, nil
		}
		if MayPass(err) && !errors.Is(err, ErrNoChip) && s.waits() {
			return true, err
		}
	}
	name, err := s.makeKey(KindTPM)
	if err == nil {
		s.use(name, State{Kind: KindTPM})
	}
	return false, err
}

// waits reports whether a TPM in trouble is to be waited for. s.asking is held.
func (s *Seals) waits() bool {
	if s.trouble.IsZero() {
		s.trouble = time.Now()
	}
	return time.Since(s.trouble) < troublePatience
}

// beginWith seals with the first key of a kind that opens, or with a new one. s.asking is held.
func (s *Seals) beginWith(keys []string, state State) error {
	for _, file := range keys {
		if kindOf(file) != state.Kind {
			continue
		}
		if _, err := s.open(file); err == nil {
			s.use(nameOf(file), state)
			return nil
		}
	}
	name, err := s.makeKey(state.Kind)
	if err != nil {
		return err
	}
	s.use(name, state)
	return nil
}

// use lets a key that was opened seal from now on.
func (s *Seals) use(name string, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active, s.state, s.failed = name, state, nil
}

// remember keeps an opened key. A TPM that answers again seals again, unless a file is wanted.
func (s *Seals) remember(name string, key []byte, kind Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[name] = key
	if kind == KindTPM && s.active != "" && s.state.Kind == KindFile && s.options.Choice != WithFile {
		s.active, s.state = name, State{Kind: KindTPM}
	}
}

func (s *Seals) remembered(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[name]
}

// makeKey makes a key of a kind, on disk and in memory, and returns its name. s.asking is held.
func (s *Seals) makeKey(kind Kind) (string, error) {
	key, random := make([]byte, keyLen), make([]byte, 8)
	rand.Read(key)
	rand.Read(random)
	name := hex.EncodeToString(random)
	file, content := name+suffixFile, key
	if kind == KindTPM {
		wrapped, err := s.options.Chip.Wrap(key)
		if err != nil {
			return "", err
		}
		file, content = name+suffixTPM, wrapped
	}
	if err := os.Mkdir(s.dir, 0o700); err == nil {
		err = durable.Sync(filepath.Dir(s.dir))
		if err != nil {
			return "", err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make the folder of the sealing keys: %w", err)
	}
	text := base64.StdEncoding.EncodeToString(content) + "\n"
	if err := durable.WriteFile(filepath.Join(s.dir, file), []byte(text), 0o600); err != nil {
		return "", err
	}
	s.remember(name, key, kind)
	return name, nil
}

// open returns the key in a file of the folder. s.asking is held.
func (s *Seals) open(file string) ([]byte, error) {
	if key := s.remembered(nameOf(file)); key != nil {
		return key, nil
	}
	text, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		return nil, fmt.Errorf("read a sealing key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("read a sealing key: %s is not base64", filepath.Join(s.dir, file))
	}
	if kindOf(file) == KindTPM {
		if s.options.Chip == nil {
			return nil, ErrNoChip
		}
		if key, err = s.options.Chip.Unwrap(key); err != nil {
			return nil, &chipError{err}
		}
	}
	if len(key) != keyLen {
		return nil, fmt.Errorf("read a sealing key: that in %s has %d bytes, want %d", filepath.Join(s.dir, file), len(key), keyLen)
	}
	s.remember(nameOf(file), key, kindOf(file))
	return key, nil
}

// find returns the key of a name.
func (s *Seals) find(name string) ([]byte, error) {
	if key := s.remembered(name); key != nil {
		return key, nil
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	keys, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, file := range keys {
		if nameOf(file) == name {
			return s.open(file)
		}
	}
	return nil, fmt.Errorf("its sealing key %s is not in %s", name, s.dir)
}

// DropBut deletes the sealing keys with which nothing is sealed any more: all but the one that
// seals and the named ones.
func (s *Seals) DropBut(used []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == "" {
		return nil
	}
	keys, err := s.list()
	if err != nil {
		return err
	}
	dropped := false
	for _, file := range keys {
		if name := nameOf(file); name == s.active || slices.Contains(used, name) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, file)); err != nil {
			return fmt.Errorf("drop a sealing key: %w", err)
		}
		delete(s.opened, nameOf(file))
		dropped = true
	}
	if dropped {
		return durable.Sync(s.dir)
	}
	return nil
}

// list returns the files of the sealing keys, in the order of their names. What an interrupted
// write has left is none.
func (s *Seals) list() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the sealing keys: %w", err)
	}
	var files []string
	for _, e := range entries {
		if kindOf(e.Name()) != Unsealed && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, e.Name())
		}
	}
	return files, nil
}

func kindOf(file string) Kind {
	switch filepath.Ext(file) {
	case suffixTPM:
		return KindTPM
	case suffixFile:
		return KindFile
	}
	return Unsealed
}

func nameOf(file string) string { return strings.TrimSuffix(file, filepath.Ext(file)) }
