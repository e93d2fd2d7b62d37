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

	"virtmesh/agent/hostseal"
	"virtmesh/agent/sealed"
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
	// Seeds are the last known addresses of the other members. The host finds the mesh
	// by them when it cannot read the replicated store: at its first start, and after
	// it lost its copy of the store.
	Seeds  []Seed    `json:"seeds,omitempty"`
	Joined time.Time `json:"joined"`
	// GossipGeneration is the version of the gossip keys in the folder.
	GossipGeneration uint64 `json:"gossipGeneration,omitempty"`
	// TrustGeneration is the version of the CAs that the host trusts; see CARecord.Generation.
	TrustGeneration uint64 `json:"trustGeneration,omitempty"`
}

// node returns the name and ID that the host's certificate carries.
func (i Info) node() Node { return Node{Name: i.Host, ID: i.HostID} }

// Seed is where a member can be reached, and who it is.
type Seed struct {
	Host          string `json:"host"`
	MeshAddress   string `json:"meshAddress"`
	GossipAddress string `json:"gossipAddress"`
	// HostID and KeyPin are the ID and the pin of the key that the member keeps; empty if
	// they are not known, or the member does not keep its key.
	HostID string `json:"hostID,omitempty"`
	KeyPin string `json:"keyPin,omitempty"`
}

// KeepsKey reports whether it is known by which key the member is recognised.
func (s Seed) KeepsKey() bool { return s.KeyPin != "" }

// Is reports whether the holder of a key, with a certificate for a host, is the member.
func (s Seed) Is(node Node, key Pin) bool {
	return s.KeepsKey() && node == Node{Name: s.Host, ID: s.HostID} && key.String() == s.KeyPin
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
	// CAKey are the private keys of CAs, PEM, one after the other. With that of a CA in
	// CABundle the host can sign its own certificate while the replicated store does not
	// answer. If it is empty, the host cannot.
	CAKey []byte
	// SecretKeys are the private keys for Secrets; a host that does not vote has none.
	SecretKeys []sealed.PrivateKey
	// Seals seal the keyring when it is written by CreateState; nil: it is written in clear.
	Seals *hostseal.Seals
	// Founder marks the first host of a mesh until Seed has written this state to the
	// replicated store. Only such a host may create the store; the marker is removed
	// when the store holds everything.
	Founder bool
	// Bundle is the newest recovery bundle that the host's keyring knows; nil if it knows none.
	// That of a founder was made together with the mesh, and Seed puts its note into the
	// replicated store.
	Bundle *BundleMade
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

// stateDirMode lets QEMU's unprivileged user traverse the state directory to the disks
// that it may open, and lets only root list the directory.
const stateDirMode fs.FileMode = 0o711

// MakeStateDir creates the state directory and sets its mode so that other users can
// traverse it and not list it, even if it exists already. Guests cannot start where
// QEMU's user cannot traverse the directory, so neither its creator nor the umask may
// decide the mode. It may be called again; the agent calls it at every start.
func MakeStateDir(dir string) error {
	if err := os.MkdirAll(dir, stateDirMode); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if info.Mode() == fs.ModeDir|stateDirMode {
		return nil
	}
	if err := os.Chmod(dir, stateDirMode); err != nil {
		return fmt.Errorf("set the mode of the state directory: %w", err)
	}
	return nil
}

// CreateState writes a new identity folder completely or not at all. It returns
// ErrInitialised if there is one already, and refuses a state whose parts do not belong
// together. The folder is synced to disk when CreateState returns.
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
	// A rename never replaces a non-empty folder, so if two calls run at the same time,
	// one of them fails here.
	if err := durable.Rename(staging, filepath.Join(dir, folder)); err != nil {
		if lost := checkNew(dir); lost != nil {
			err = lost
		}
		return errors.Join(fmt.Errorf("create identity: %w", err), os.RemoveAll(staging))
	}
	return nil
}

// check returns an error if the parts of a state do not belong together.
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
	if _, err := st.caKeys(); err != nil {
		return nil, err
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
	secrets := map[string][]byte{fileCAKey: st.CAKey}
	if secrets[fileSecretKeys], err = encodeSecretKeys(st.SecretKeys); err != nil {
		return err
	}
	if st.Bundle != nil {
		if files[fileKnownBundle], err = json.Marshal(st.Bundle); err != nil {
			return fmt.Errorf("encode %s: %w", fileKnownBundle, err)
		}
	}
	if st.Founder {
		if files[fileSeed], err = json.Marshal(pendingSeed{Bundle: st.Bundle}); err != nil {
			return fmt.Errorf("encode %s: %w", fileSeed, err)
		}
	}
	for name, data := range files {
		if err := durable.WriteFile(filepath.Join(at, name), data, 0o600); err != nil {
			return err
		}
	}
	keyring := secretFiles{at: at, seals: st.Seals, sealing: st.Seals != nil}
	if keyring.sealing {
		if err := keyring.seals.Begin(); err != nil {
			return err
		}
	}
	for name, data := range secrets {
		if err := keyring.write(name, data, false); err != nil {
			return err
		}
	}
	return nil
}

// readState reads the identity folder of a state directory, whose secret files are files.
func readState(dir string, files *secretFiles) (State, error) {
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
	if st.CAKey, err = files.read(fileCAKey); err != nil {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	secrets, err := files.read(fileSecretKeys)
	if err != nil {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	if st.SecretKeys, err = parseSecretKeys(string(secrets)); err != nil {
		return State{}, fmt.Errorf("read identity: %s: %w", fileSecretKeys, err)
	}
	if st.Bundle, err = readKnownBundle(filepath.Join(at, fileKnownBundle)); err != nil {
		return State{}, err
	}
	_, err = os.Stat(filepath.Join(at, fileSeed))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("read identity: %w", err)
	}
	st.Founder = err == nil
	return st, nil
}

// pendingSeed is what Seed writes and the other files do not hold. Earlier versions left the
// file empty.
type pendingSeed struct {
	Bundle *BundleMade `json:"bundle,omitempty"`
}

// readSeed returns the recovery bundle that was made together with the mesh; nil if none was.
func readSeed(dir string) (*BundleMade, error) {
	data, err := os.ReadFile(filepath.Join(dir, folder, fileSeed))
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	if len(data) == 0 {
		return nil, nil
	}
	var pending pendingSeed
	if err := json.Unmarshal(data, &pending); err != nil {
		return nil, fmt.Errorf("read identity: %s: %w", fileSeed, err)
	}
	return pending.Bundle, nil
}

// ReadInfo reads what the host knows about itself and its mesh. Unlike Open, it may be
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

// ValidateGossipKeys returns an error if keys cannot be a gossip keyring.
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
