package gossip

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"virtmesh/gossip/places"
)

// The gossip port is open to everybody on the network, and who knows none of the mesh's
// keys is a stranger. What strangers can take is bounded here, apart from what members can
// take, and memberlist never sees what strangers send: it would buffer up to 20 MiB a
// stream before it decrypts.
//
// An address is a member's if Config.Known says so, or if something that was made with one
// of the mesh's keys came from it lately: a host that has just joined or got another
// address is not in the records of all others yet, and a host may send from another address
// than it announces. Those get in as strangers, of whom each stream is small: a member that
// has just started knows nobody, so it has little to tell.

const (
	// memberStreams and the others bound the streams that have not proved yet that their
	// sender knows a key, which takes a member a round trip.
	memberStreams, memberStreamsPerSource     = 256, 16
	strangerStreams, strangerStreamsPerSource = 32, 8
	// memberMessage and strangerMessage bound the first message of a stream. That of a
	// member in a mesh of 1,000 has about 0.4 MB, and repaired facts 1 MB.
	memberMessage, strangerMessage = 4 << 20, 128 << 10
	// memberBytes and memberBytesPerSource bound all such messages of members together.
	memberBytes, memberBytesPerSource = 64 << 20, 16 << 20
	// strangerPackets bounds the packets of strangers that are decrypted in a second.
	strangerPackets = 500
	// streamTimeout is how long the first message may take. It is memberlist's own.
	streamTimeout = 5 * time.Second
	// provedFor and provedMost bound the memory of addresses that proved a key.
	provedFor, provedMost = 10 * time.Minute, 1024
)

// refusal is why something was not taken from an address, for the metrics.
type refusal int

// The refusals.
const (
	// refusedPacketRate: strangers send more packets than are looked at.
	refusedPacketRate refusal = iota
	// refusedPacketKey: a packet was made with none of the keys.
	refusedPacketKey
	// refusedStreamPlaces: there is no place for the stream, or somebody else got it.
	refusedStreamPlaces
	// refusedStreamKey: the first message of a stream is too large, was made with none of the
	// keys, or did not come in time from an address that is no host's.
	refusedStreamKey
	refusals
)

// labels returns the channel and the reason in the metrics.
func (r refusal) labels() (channel, reason string) {
	return [...]string{"packet", "packet", "stream", "stream"}[r], [...]string{"rate", "key", "places", "key"}[r]
}

// gatekeeper decides what of the traffic that arrives is taken. Its methods may be called
// from any goroutine.
type gatekeeper struct {
	known   func(netip.Addr) bool // nil: every address may be a member's
	streams *places.Table
	bytes   *places.Table // of members' messages
	packets *rate.Limiter // of strangers

	refused [refusals]atomic.Uint64
	log     *places.RefusalLog

	mu     sync.Mutex
	proved map[netip.Addr]time.Time
}

func newGatekeeper(known func(netip.Addr) bool, log *slog.Logger) *gatekeeper {
	k := &gatekeeper{
		known: known, log: places.NewRefusalLog(log), proved: map[netip.Addr]time.Time{},
		packets: rate.NewLimiter(strangerPackets, strangerPackets),
	}
	limits := places.Limits{
		Members: memberStreams, MembersPerSource: memberStreamsPerSource,
		Strangers: strangerStreams, StrangersPerSource: strangerStreamsPerSource,
	}
	if known == nil {
		limits.MembersPerSource = limits.Members // all members may be on one machine
	}
	k.streams = places.New(limits, k.isMember)
	k.bytes = places.New(places.Limits{Members: memberBytes, MembersPerSource: memberBytesPerSource, Strangers: 1, StrangersPerSource: 1},
		func(netip.Addr) bool { return true })
	return k
}

// isMember reports whether an address is that of a member.
func (k *gatekeeper) isMember(from netip.Addr) bool {
	if k.known == nil || k.known(from) {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.proved[from]) < provedFor
}

// prove remembers that the sender at an address knows a key.
func (k *gatekeeper) prove(from netip.Addr) {
	if k.known == nil || k.known(from) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.proved[from]; !ok && len(k.proved) >= provedMost {
		var oldest netip.Addr
		for addr, at := range k.proved {
			if !oldest.IsValid() || at.Before(k.proved[oldest]) {
				oldest = addr
			}
		}
		delete(k.proved, oldest)
	}
	k.proved[from] = time.Now()
}

// takePacket reports whether a packet is passed on. opens reports whether it was made with
// one of the keys; it is not called for those that are not looked at.
func (k *gatekeeper) takePacket(addr net.Addr, opens func() bool) bool {
	from := places.AddrOf(addr)
	member := k.isMember(from)
	if !member && !k.packets.Allow() {
		k.refuse(refusedPacketRate, from)
		return false
	}
	if !opens() {
		k.refuse(refusedPacketKey, from)
		return false
	}
	k.prove(from)
	return true
}

// takeStream gives a stream a place until it has proved that its sender knows a key.
func (k *gatekeeper) takeStream(from netip.Addr, evict func()) (*places.Place, bool) {
	place, ok := k.streams.Take(from, 1, func() {
		k.refuse(refusedStreamPlaces, from)
		evict()
	})
	if !ok {
		k.refuse(refusedStreamPlaces, from)
	}
	return place, ok
}

func (k *gatekeeper) refuse(why refusal, from netip.Addr) {
	k.refused[why].Add(1)
	channel, reason := why.labels()
	k.log.Record("gossip of a stranger was refused", "from", from, "channel", channel, "reason", reason)
}
