package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxName bounds a member's name; a Kubernetes node name is no longer.
	maxName = 253
	// maxMesh bounds Config.Mesh; maxMessage relies on it.
	maxMesh = 64
)

// Config configures a member. DefaultConfig sets everything but Name.
type Config struct {
	// Name of this member, unique in the mesh.
	Name string
	// Mesh names the mesh. Packets of another mesh are discarded, so that two
	// meshes that share a network by mistake stay apart. At most 64 bytes, because
	// the name is part of every packet.
	Mesh string

	// BindAddr and BindPort are the address and port that UDP and TCP are bound
	// to. Port 0 lets the kernel choose. They are ignored when Transport is set.
	BindAddr string
	BindPort int
	// AdvertiseAddr and AdvertisePort are the address and port announced to other
	// members; empty and 0 mean the bound ones.
	AdvertiseAddr string
	AdvertisePort int

	// Keys are the AES keys (16, 24 or 32 bytes) accepted from others; the
	// first one encrypts. With no key, nothing is encrypted.
	Keys [][]byte

	// Profile holds the timing.
	Profile Profile

	// Facts are the first facts announced about this member. SetFacts replaces
	// them.
	Facts Facts

	// DeadRetention and LeftRetention are how long a member that died or left
	// is remembered.
	DeadRetention time.Duration
	LeftRetention time.Duration

	// Seeds returns the members that the mesh has according to a source other than
	// gossip. It may be nil, and must not block for long. The members that gossip
	// does not list as live are contacted for as long as Seeds names them.
	Seeds func() []Seed
	// Known reports whether an address is that of a member of the mesh, according to
	// another source than gossip. Members at other addresses get in as well, if they know
	// a key, but strangers can get in their way. It is called for every packet, from any
	// goroutine, and must not block. With nil, every address may be a member's.
	Known func(netip.Addr) bool
	// ReconnectInterval is how often the whole mesh contacts a member that has just
	// died, which heals the mesh after a partition. The interval grows with the
	// time that the member has been missing, up to ReconnectMax.
	ReconnectInterval time.Duration
	ReconnectMax      time.Duration

	// Clock reads the wall clock, by which the versions of facts are in order across
	// restarts; nil stands for time.Now.
	Clock func() time.Time
	// Transport replaces UDP and TCP.
	Transport memberlist.Transport
	// Logger receives logs; nil discards them.
	Logger *slog.Logger
	// Registerer receives the metrics; nil for none.
	Registerer prometheus.Registerer

	// protocol is the versions of this package's protocol that the member speaks. Tests
	// set it.
	protocol protocolRange
}

// The versions of this package's protocol, which is the messages of facts, the digests and
// the metadata. Members tell each other their ranges, and memberlist refuses to join where
// one does not speak what another one does. Fields, sections and kinds of messages are
// added without a new version, because members skip and relay what they do not know.
const (
	lowestProtocol  = 1
	highestProtocol = 1
)

// protocolRange is versions of this package's protocol; the lowest is spoken.
type protocolRange struct{ lowest, highest uint8 }

// Seed is a member by which the mesh can be found.
type Seed struct {
	Name string
	// Addr is the host:port the member gossips on.
	Addr string
}

// Profile holds the timing of failure detection and gossip. In a mesh of n members:
//
//	first probe of a dead member   about ProbeInterval, rarely 5 of them
//	memberlist's own verdict       SuspicionMult * max(1, log10 n) * ProbeInterval
//	published as Dead              HoldFor(n) after it was first Suspect
//
// The intervals are short, because then a dead member is probed sooner and more
// members can confirm a suspicion. The verdict is then held back: a wrongly
// suspected member (mostly suspected by one that is starved of CPU) refutes the
// suspicion within a few gossip rounds, and nobody should have acted on it by then.
type Profile struct {
	ProbeInterval time.Duration
	// ProbeTimeout is how long a probe waits for a direct answer. The members that
	// are then asked for an indirect probe report failure after another
	// ProbeTimeout. Both have to fit into ProbeInterval. Otherwise the member takes
	// the missing reports as a sign that it is unhealthy itself, and slows down.
	ProbeTimeout time.Duration
	// IndirectProbes is how many other members are asked to probe a silent member.
	IndirectProbes int
	// SuspicionMult sets the shortest suspicion, see above. It also sets how many
	// other members have to confirm a suspicion to shorten it to that:
	// SuspicionMult-2.
	SuspicionMult int
	// SuspicionMaxMult times the shortest suspicion is the time after which
	// memberlist declares a member dead that no other member suspects.
	SuspicionMaxMult int
	// HealthMax bounds the factor by which a member stretches its probe interval
	// and timeout when it finds that it is slow itself.
	HealthMax int

	GossipInterval time.Duration
	GossipNodes    int
	// RetransmitMult * log10 n is how often a member retransmits a message.
	RetransmitMult int
	// SyncInterval is the time between two push-pulls, each of which compares the
	// whole state with a random member. It grows with log2 n above 32 members.
	SyncInterval time.Duration

	// Hold is how long a member stays Suspect before it is Dead, in a mesh of up to
	// 100 members. HoldPerDecade is added for every factor of ten above that.
	Hold          time.Duration
	HoldPerDecade time.Duration
}

// DefaultProfile returns the timing for hosts at one site, with round trips of a few
// milliseconds.
func DefaultProfile() Profile {
	return Profile{
		ProbeInterval:    150 * time.Millisecond,
		ProbeTimeout:     50 * time.Millisecond,
		IndirectProbes:   3,
		SuspicionMult:    4,
		SuspicionMaxMult: 8,
		HealthMax:        8,
		GossipInterval:   100 * time.Millisecond,
		GossipNodes:      3,
		RetransmitMult:   6,
		SyncInterval:     20 * time.Second,
		Hold:             1600 * time.Millisecond,
		HoldPerDecade:    3500 * time.Millisecond,
	}
}

// HoldFor returns how long a member stays Suspect before it is Dead, in a mesh of n
// members.
func (p Profile) HoldFor(n int) time.Duration {
	decades := max(0, math.Log10(float64(max(n, 1))/100))
	return p.Hold + time.Duration(decades*float64(p.HoldPerDecade))
}

// suspicionLimit returns the longest time that memberlist keeps a member suspect.
func (p Profile) suspicionLimit(n int) time.Duration {
	scale := max(1, math.Log10(float64(max(n, 1))))
	return time.Duration(float64(p.SuspicionMaxMult*p.SuspicionMult) * scale * float64(p.ProbeInterval))
}

// DefaultConfig returns a configuration that lacks only a Name (and, outside
// tests, Keys).
func DefaultConfig() Config {
	return Config{
		BindAddr:          "0.0.0.0",
		BindPort:          7946,
		Profile:           DefaultProfile(),
		DeadRetention:     24 * time.Hour,
		LeftRetention:     time.Hour,
		ReconnectInterval: 5 * time.Second,
		ReconnectMax:      time.Minute,
	}
}

// Validate reports every field that cannot be used.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Name != "" && len(c.Name) <= maxName, "Name: must have 1 to %d bytes", maxName)
	bad(len(c.Mesh) <= maxMesh, "Mesh: must have at most %d bytes", maxMesh)
	if c.Transport == nil {
		bad(net.ParseIP(c.BindAddr) != nil, "BindAddr: %q is not an IP address", c.BindAddr)
	}
	bad(c.BindPort >= 0 && c.BindPort <= math.MaxUint16, "BindPort: %d is not a port", c.BindPort)
	bad(c.AdvertisePort >= 0 && c.AdvertisePort <= math.MaxUint16, "AdvertisePort: %d is not a port", c.AdvertisePort)
	bad(c.AdvertiseAddr == "" || net.ParseIP(c.AdvertiseAddr) != nil, "AdvertiseAddr: %q is not an IP address", c.AdvertiseAddr)
	for i, k := range c.Keys {
		bad(memberlist.ValidateKey(k) == nil, "Keys[%d]: must have 16, 24 or 32 bytes, has %d", i, len(k))
	}
	bad(c.DeadRetention > 0, "DeadRetention: must be positive")
	bad(c.LeftRetention > 0, "LeftRetention: must be positive")
	bad(c.ReconnectInterval > 0, "ReconnectInterval: must be positive")
	bad(c.ReconnectMax >= c.ReconnectInterval, "ReconnectMax: must be at least ReconnectInterval")
	if err := c.Profile.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("Profile: %w", err))
	}
	return errors.Join(errs...)
}

// Validate reports every field that cannot be used.
func (p Profile) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(p.ProbeInterval > 0, "ProbeInterval: must be positive")
	bad(p.ProbeTimeout > 0 && 2*p.ProbeTimeout < p.ProbeInterval,
		"ProbeTimeout: must be positive and less than half of ProbeInterval")
	bad(p.IndirectProbes >= 0, "IndirectProbes: must not be negative")
	bad(p.SuspicionMult >= 2, "SuspicionMult: must be at least 2")
	bad(p.SuspicionMaxMult >= 1, "SuspicionMaxMult: must be at least 1")
	bad(p.HealthMax >= 1, "HealthMax: must be at least 1")
	bad(p.GossipInterval > 0, "GossipInterval: must be positive")
	bad(p.GossipNodes >= 1, "GossipNodes: must be at least 1")
	bad(p.RetransmitMult >= 1, "RetransmitMult: must be at least 1")
	bad(p.SyncInterval > 0, "SyncInterval: must be positive")
	bad(p.Hold >= 0 && p.HoldPerDecade >= 0, "Hold, HoldPerDecade: must not be negative")
	return errors.Join(errs...)
}
