// Package lab runs a whole mesh on one machine, for the quickstart, the demo
// and the end-to-end tests.
//
// A lab host is a set of Linux namespaces (network, mount, PID, UTS, IPC) with
// its own libvirtd and its own agent, joined to the lab's bridge by a veth
// pair. The first process in it plays PID 1: when it is killed the kernel
// kills everything else in the host, which is what a power loss does.
//
// Or, in a metal lab, it is a machine of its own under QEMU, which runs Debian with
// Debian's kernel, systemd, AppArmor and libvirtd; see machines.
//
// Invariants:
//   - everything a lab owns is under its directory or carries its ID in its
//     name, so two labs in different directories do not disturb each other;
//   - Down removes what the lab made and nothing else, whatever the directory holds;
//   - Up and Down are idempotent, and one of them at a time works on a lab;
//   - the machine's own libvirt, network addresses and files are not touched:
//     the hosts see private copies by bind mounts.
//
// The package is a client of the product: it starts the same binary with the
// same commands that an operator types on a real host.
package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"virtmesh/storage/durable"
)

// DefaultDir is the lab's directory unless --dir names another.
const DefaultDir = "/var/lib/virtmesh-lab"

// Ports that every lab host uses inside its own network namespace.
const (
	MeshPort    = 7443
	MetricsPort = 7480
)

// ErrNoLab is returned when the directory holds no lab.
var ErrNoLab = errors.New("there is no lab here; start one with 'virtmesh lab up'")

// Lab is a lab on disk. Its methods may be called by several processes; those
// that change the lab take the lab's lock.
type Lab struct {
	dir        string
	executable string
	state      state
}

// state is what a lab remembers between commands, stored as lab.json.
type state struct {
	// ID distinguishes this lab's interfaces from another lab's.
	ID string `json:"id"`
	// Network is the third octet of the lab's 10.201.N.0/24.
	Network int `json:"network"`
	// RegistryPort is the loopback port of the lab's image registry, the
	// same on this machine and inside every host.
	RegistryPort int `json:"registryPort"`
	// Metal says that each host is a whole machine.
	Metal bool   `json:"metal,omitempty"`
	Hosts []Host `json:"hosts"`
}

// Host is one lab host.
type Host struct {
	Name    string `json:"name"`
	Index   int    `json:"index"`
	Address string `json:"address"`
	// Witness says that the host votes and runs no guests.
	Witness bool `json:"witness,omitempty"`
}

// Open reads the lab in dir. The lab need not exist yet: Up makes it.
func Open(dir string) (*Lab, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve lab directory %s: %w", dir, err)
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the running program: %w", err)
	}
	l := &Lab{dir: abs, executable: executable}
	return l, l.readState()
}

// readState reads what the lab remembers; nothing if there is no lab.
func (l *Lab) readState() error {
	l.state = state{}
	data, err := os.ReadFile(l.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the lab's state: %w", err)
	}
	if err := json.Unmarshal(data, &l.state); err != nil {
		return fmt.Errorf("read the lab's state in %s: %w", l.statePath(), err)
	}
	return nil
}

// madeEntries are the entries of the directory that a lab makes, with its state last:
// while that is there, the others are known to be the lab's. The guest images and the
// lock do not belong to one life of a lab.
func madeEntries() []string {
	return []string{"hosts", "shared", "registry", "registry.json", "registry.log", "registry.sock", sshKey, sshKey + ".pub", "lab.json"}
}

// Exists reports whether the lab was started and not taken down.
func (l *Lab) Exists() bool { return l.state.ID != "" }

// Hosts lists the lab's hosts in the order they were made.
func (l *Lab) Hosts() []Host { return append([]Host(nil), l.state.Hosts...) }

// Host finds a host by name; an empty name means the first one.
func (l *Lab) Host(name string) (Host, error) {
	if !l.Exists() {
		return Host{}, ErrNoLab
	}
	for _, h := range l.state.Hosts {
		if h.Name == name || name == "" {
			return h, nil
		}
	}
	return Host{}, fmt.Errorf("the lab has no host %q; 'virtmesh lab ls' lists them", name)
}

// Registry is the address of the lab's image registry, valid on this machine
// and inside every host.
func (l *Lab) Registry() string { return fmt.Sprintf("127.0.0.1:%d", l.state.RegistryPort) }

// Kubeconfig is the path of the administrator's kubeconfig for one host.
func (l *Lab) Kubeconfig(h Host) string { return filepath.Join(l.hostDir(h), "kubeconfig") }

// LogDir is where the host's agent, libvirtd and init write their logs.
func (l *Lab) LogDir(h Host) string { return filepath.Join(l.hostDir(h), "log") }

func (l *Lab) hostDir(h Host) string  { return filepath.Join(l.dir, "hosts", h.Name) }
func (l *Lab) statePath() string      { return filepath.Join(l.dir, "lab.json") }
func (l *Lab) imagesDir() string      { return filepath.Join(l.dir, "images") }
func (l *Lab) sharedDir() string      { return filepath.Join(l.dir, "shared") }
func (l *Lab) registrySocket() string { return filepath.Join(l.dir, "registry.sock") }
func (l *Lab) bridge() string         { return "vml-" + l.state.ID }
func (l *Lab) guestBridge() string    { return "vmg-" + l.state.ID }
func (l *Lab) gateway() string        { return fmt.Sprintf("10.201.%d.1", l.state.Network) }

func (l *Lab) saveState() error {
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the lab's state: %w", err)
	}
	if err := durable.WriteFile(l.statePath(), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	return nil
}

// lockLab makes this process the only one that changes the lab until the
// returned function is called. It reads the state again, which another command may
// have changed since Open.
func (l *Lab) lockLab() (func(), error) {
	unlock, err := lockIn(l.dir, "the lab in "+l.dir)
	if err != nil {
		return nil, err
	}
	if err := l.readState(); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// lockHost makes this process the only one that switches the host's power until the
// returned function is called.
func (l *Lab) lockHost(h Host) (func(), error) { return lockIn(l.hostDir(h), h.Name) }

// lockIn takes the lock in a directory, which it makes. what names the thing that is
// changed.
func lockIn(dir, what string) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another virtmesh command is changing %s", what)
	}
	return func() { f.Close() }, nil
}

// labID derives a short name part from the directory. The longest name of an interface
// that has it just fits into the kernel's 15 bytes.
func labID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:3])
}
