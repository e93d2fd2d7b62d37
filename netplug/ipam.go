package netplug

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrPoolFull is returned when every address of a pool is taken.
var ErrPoolFull = errors.New("no free address in the pool")

// Pick returns an address in the subnet for a network card: the first address that is not
// taken, searching from a place that depends only on the MAC. So the same card tends to
// get the same address on every host and after every restart. Pick is a pure function. It
// never returns the first and the last address of the subnet.
func Pick(subnet netip.Prefix, mac net.HardwareAddr, taken func(netip.Addr) bool) (netip.Addr, error) {
	subnet = subnet.Masked()
	if !subnet.Addr().Is4() || subnet.Bits() > 30 {
		return netip.Addr{}, fmt.Errorf("pick an address in %s: want an IPv4 subnet of length 30 or less", subnet)
	}
	h := fnv.New64a()
	_, _ = h.Write(mac)
	size := uint64(1)<<(32-subnet.Bits()) - 2
	begin := h.Sum64() % size
	base := binary.BigEndian.Uint32(subnet.Addr().AsSlice())
	for i := range size {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+1+uint32((begin+i)%size))
		if a := netip.AddrFrom4(b); !taken(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pick an address in %s: %w", subnet, ErrPoolFull)
}

// Lease is an address that is assigned to a key.
type Lease struct {
	Key     string     `json:"key"`
	MAC     string     `json:"mac"`
	Address netip.Addr `json:"address"`
}

// WriteFile replaces a file atomically and durably: after a crash the file has the old or
// the new content, and once WriteFile has returned it has the new content.
type WriteFile func(path string, data []byte, perm fs.FileMode) error

// Allocator assigns the addresses of one subnet and stores the leases in a file, so that a
// machine keeps its address when the agent restarts. Its methods may be called
// concurrently.
type Allocator struct {
	subnet   netip.Prefix
	reserved []netip.Addr
	path     string
	write    WriteFile

	mu     sync.Mutex
	leases map[string]Lease // by key
	// unsaved is set while the file still holds leases that were released.
	unsaved bool
}

// leaseFile is the content of the file.
type leaseFile struct {
	Subnet netip.Prefix `json:"subnet"`
	Leases []Lease      `json:"leases"`
}

// OpenAllocator returns the allocator of a subnet with the leases in the file at path,
// which need not exist. The allocator changes the file with write. It never assigns
// reserved addresses, such as the gateway's. Leases in the file that lie in another
// subnet, from before the subnet was changed, are dropped.
func OpenAllocator(path string, write WriteFile, subnet netip.Prefix, reserved ...netip.Addr) (*Allocator, error) {
	a := &Allocator{subnet: subnet.Masked(), reserved: reserved, path: path, write: write, leases: map[string]Lease{}}
	if !subnet.Addr().Is4() || subnet.Bits() > 30 {
		return nil, fmt.Errorf("allocate from %s: want an IPv4 subnet of length 30 or less", subnet)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	var f leaseFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("read leases from %s: %w", path, err)
	}
	for _, l := range f.Leases {
		if l.Key != "" && usable(a.subnet, l.Address) && !slices.Contains(reserved, l.Address) {
			a.leases[l.Key] = l
		}
	}
	return a, nil
}

// Allocate returns the address of the key, and picks one if the key has none yet. A key
// keeps its address even if its MAC changes. When Allocate returns without an error, the
// lease is on disk.
func (a *Allocator) Allocate(key string, mac net.HardwareAddr) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l, ok := a.leases[key]; ok {
		return l.Address, nil
	}
	taken := make(map[netip.Addr]bool, len(a.leases)+len(a.reserved))
	for _, l := range a.leases {
		taken[l.Address] = true
	}
	for _, r := range a.reserved {
		taken[r] = true
	}
	addr, err := Pick(a.subnet, mac, func(x netip.Addr) bool { return taken[x] })
	if err != nil {
		return netip.Addr{}, fmt.Errorf("allocate for %s: %w", key, err)
	}
	a.leases[key] = Lease{Key: key, MAC: mac.String(), Address: addr}
	if err := a.save(); err != nil {
		delete(a.leases, key)
		return netip.Addr{}, fmt.Errorf("allocate for %s: %w", key, err)
	}
	return addr, nil
}

// Release frees the address of the key. A key without an address is no error. An error
// means that the file could not be written. The address is free all the same, so that a
// full disk does not keep a machine from being removed. Flush or the next Allocate writes
// the file later; after a crash in between, Retain drops the lease.
func (a *Allocator) Release(key string) error {
	return a.forgetLeases(func(k string) bool { return k == key })
}

// Retain frees the addresses of all keys for which keep returns false. Call it once after
// a start, when it is known which machines still exist. Its error means the same as that
// of Release.
func (a *Allocator) Retain(keep func(key string) bool) error {
	return a.forgetLeases(func(k string) bool { return !keep(k) })
}

func (a *Allocator) forgetLeases(gone func(key string) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.leases)
	maps.DeleteFunc(a.leases, func(key string, _ Lease) bool { return gone(key) })
	if len(a.leases) == before {
		return nil
	}
	a.unsaved = true
	if err := a.save(); err != nil {
		return fmt.Errorf("release addresses: %w", err)
	}
	return nil
}

// Flush writes the file if an earlier write failed after a release.
func (a *Allocator) Flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.unsaved {
		return nil
	}
	return a.save()
}

// Leases returns all leases in the order of their keys.
func (a *Allocator) Leases() []Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sorted()
}

func (a *Allocator) sorted() []Lease {
	out := make([]Lease, 0, len(a.leases))
	for _, l := range a.leases {
		out = append(out, l)
	}
	slices.SortFunc(out, func(x, y Lease) int { return strings.Compare(x.Key, y.Key) })
	return out
}

// save writes all leases to the file.
func (a *Allocator) save() error {
	data, err := json.MarshalIndent(leaseFile{Subnet: a.subnet, Leases: a.sorted()}, "", "\t")
	if err != nil {
		return fmt.Errorf("write leases: %w", err)
	}
	dir := filepath.Dir(a.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write leases: %w", err)
	}
	if err := a.write(a.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write leases: %w", err)
	}
	a.unsaved = false
	return nil
}
