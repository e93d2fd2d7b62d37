package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"virtmesh/storage/durable"
)

// Names below the state directory.
const (
	folder        = "identity"
	stagingPrefix = ".identity-"
	fileInfo      = "mesh.json"
	fileBundle    = "ca.crt"
	fileNode      = "node.pem"
	fileGossip    = "gossip.keys"
	fileCAKey     = "ca.key"
	fileSeed      = "seed.pending"
)

// GossipKeyLen is the length of a gossip key: AES-256.
const GossipKeyLen = 32

var (
	// ErrInitialised is returned by init and join for a directory that already holds
	// an identity.
	ErrInitialised = errors.New("already a member of a mesh")
	// ErrNotInitialised is returned for a directory that holds no identity.
	ErrNotInitialised = errors.New("not a member of a mesh: init or join first")
)

// Info is what a host knows about itself and its mesh.
type Info struct {
	MeshID        string   `json:"meshID"`
	Host          string   `json:"host"`
	HostID        string   `json:"hostID"`
	MeshAddress   string   `json:"meshAddress"`
	GossipAddress string   `json:"gossipAddress"`
	SANs          []string `json:"sans,omitempty"`
	// Seeds are the other members as last known, to find the mesh by without the
	// replicated store: at the first start, and after its copy here was lost.
	Seeds  []Seed    `json:"seeds,omitempty"`
	Joined time.Time `json:"joined"`
}

// node returns whom the host's certificate names.
func (i Info) node() Node { return Node{Name: i.Host, ID: i.HostID} }

// Seed is where a member can be reached.
type Seed struct {
	Host          string `json:"host"`
	MeshAddress   string `json:"meshAddress"`
	GossipAddress string `json:"gossipAddress"`
}

// State is the whole content of an identity folder.
type State struct {
	Info Info
	// Chain is the host's certificate and its CA, PEM.
	Chain []byte
	// Key is the host's private key, PEM.
	Key []byte
	// CABundle is every CA certificate the host trusts, PEM.
	CABundle []byte
	// GossipKeys are 32 bytes each, the first encrypts.
	GossipKeys [][]byte
	// CAKey is the private key of the first CA in CABundle, PEM. With it the host can
	// sign for itself while the replicated store does not answer; empty: it cannot.
	CAKey []byte
	// Founder says that the replicated store does not have all this yet: this is a mesh's
	// first host before Seed. Only such a host may make the store; the marker goes when
	// all this is in it.
	Founder bool
}

// Initialised reports whether the state directory holds an identity.
func Initialised(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, folder))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state directory: %w", err)
	}
	return true, nil
}

// stateDirMode lets QEMU's unprivileged user pass through the state directory to the
// disks that it may open, and lets nobody but root list what is in it.
const stateDirMode fs.FileMode = 0o711

// MakeStateDir makes the state directory, and lets other users pass through one that
// exists. Guests cannot start where QEMU's user cannot pass, whatever made the
// directory and with whichever umask. It may be repeated, and every start does.
func MakeStateDir(dir string) error {
	if err := os.MkdirAll(dir, stateDirMode); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&stateDirMode != stateDirMode {
		if err := os.Chmod(dir, mode|stateDirMode); err != nil {
			return fmt.Errorf("let QEMU pass through the state directory: %w", err)
		}
	}
	return nil
}

// CreateState writes an identity folder that was not there, as a whole or not at
// all; ErrInitialised if there is one. A state whose parts do not belong together is
// refused. It is on the disk when CreateState returns.
func CreateState(dir string, st State) error {
	if err := checkNew(dir); err != nil {
		return err
	}
	if _, err := st.check(); err != nil {
		return fmt.Errorf("create identity: %w", err)
	}
	if err := MakeStateDir(dir); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(dir, stagingPrefix) // 0700
	if err != nil {
		return fmt.Errorf("create identity: %w", err)
	}
	if err := writeState(staging, st); err != nil {
		return errors.Join(fmt.Errorf("create identity: %w", err), os.RemoveAll(staging))
	}
	// A rename never replaces a folder that has files, so of two that run at the same
	// time one loses, and it loses here.
	if err := durable.Rename(staging, filepath.Join(dir, folder)); err != nil {
		if lost := checkNew(dir); lost != nil {
			err = lost
		}
		return errors.Join(fmt.Errorf("create identity: %w", err), os.RemoveAll(staging))
	}
	return nil
}

// RemoveState deletes the identity folder: the host has left its mesh. It is no error
// if there is none.
func RemoveState(dir string) error {
	gone := filepath.Join(dir, stagingPrefix+"left")
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove identity: %w", err)
	}
	// Renamed first, so that an interrupted removal does not leave half a member.
	if err := durable.Rename(filepath.Join(dir, folder), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove identity: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove identity: %w", err)
	}
	return nil
}

// check says why the parts of a state do not belong together.
func (st State) check() (*material, error) {
	if err := st.Info.node().Validate(); err != nil {
		return nil, err
	}
	if err := ValidateGossipKeys(st.GossipKeys); err != nil {
		return nil, err
	}
	key, err := ParseKey(st.Key)
	if err != nil {
		return nil, err
	}
	if len(st.CAKey) > 0 {
		if _, err := ParseCA(st.CABundle, st.CAKey); err != nil {
			return nil, err
		}
	} else if st.Founder {
		return nil, errors.New("the first host of a mesh must have the key of the CA")
	}
	return newMaterial(st.Info.node(), key, st.Chain, st.CABundle)
}

func checkNew(dir string) error {
	done, err := Initialised(dir)
	if err == nil && done {
		return fmt.Errorf("%s: %w", dir, ErrInitialised)
	}
	return err
}

func writeState(at string, st State) error {
	info, err := encodeInfo(st.Info)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		fileInfo:   info,
		fileBundle: st.CABundle,
		fileNode:   nodePEM(st.Key, st.Chain),
		fileGossip: encodeGossipKeys(st.GossipKeys),
	}
	if len(st.CAKey) > 0 {
		files[fileCAKey] = st.CAKey
	}
	if st.Founder {
		files[fileSeed] = nil
	}
	for name, data := range files {
		if err := durable.WriteFile(filepath.Join(at, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// readState reads the identity folder of a state directory.
func readState(dir string) (State, error) {
	done, err := Initialised(dir)
	if err != nil {
		return State{}, err
	}
	if !done {
		return State{}, fmt.Errorf("%s: %w", dir, ErrNotInitialised)
	}
	at := filepath.Join(dir, folder)
	var st State
	if st.Info, err = ReadInfo(dir); err != nil {
		return State{}, err
	}
	if st.CABundle, err = os.ReadFile(filepath.Join(at, fileBundle)); err != nil {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	node, err := os.ReadFile(filepath.Join(at, fileNode))
	if err != nil {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	st.Key, st.Chain = node, node // each parser takes its own kind of block
	keys, err := os.ReadFile(filepath.Join(at, fileGossip))
	if err != nil {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	if st.GossipKeys, err = parseGossipKeys(string(keys)); err != nil {
		return State{}, fmt.Errorf("read identity: %s: %w", fileGossip, err)
	}
	st.CAKey, err = os.ReadFile(filepath.Join(at, fileCAKey))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	_, err = os.Stat(filepath.Join(at, fileSeed))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	st.Founder = err == nil
	return st, nil
}

// ReadInfo reads what the host knows about itself and its mesh. Unlike Open it may be
// called while the agent runs.
func ReadInfo(dir string) (Info, error) {
	data, err := os.ReadFile(filepath.Join(dir, folder, fileInfo))
	if err != nil {
		return Info{}, fmt.Errorf("read identity: %w", err)
	}
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return Info{}, fmt.Errorf("read identity: %s: %w", fileInfo, err)
	}
	return info, nil
}

func encodeInfo(info Info) ([]byte, error) {
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", fileInfo, err)
	}
	return append(data, '\n'), nil
}

func nodePEM(key, chain []byte) []byte {
	return append(append([]byte(nil), key...), chain...)
}

func encodeGossipKeys(keys [][]byte) []byte {
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(k))
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

func parseGossipKeys(text string) ([][]byte, error) {
	var keys [][]byte
	for line := range strings.Lines(text) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("gossip key %d is not base64", len(keys)+1)
		}
		keys = append(keys, key)
	}
	return keys, ValidateGossipKeys(keys)
}

// ValidateGossipKeys says why keys cannot be a gossip keyring.
func ValidateGossipKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("no gossip key")
	}
	for i, k := range keys {
		if len(k) != GossipKeyLen {
			return fmt.Errorf("gossip key %d has %d bytes, want %d", i+1, len(k), GossipKeyLen)
		}
	}
	return nil
}
