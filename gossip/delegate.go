package gossip

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// metaVersion is the first byte of the metadata.
const metaVersion = 1

// nodeMeta is the little that memberlist itself carries for every member, so
// that it is known together with the member and survives any loss of facts.
type nodeMeta struct {
	MeshAddr     string
	FeatureLevel int
}

func (m nodeMeta) encode() []byte {
	b := binary.AppendVarint([]byte{metaVersion}, int64(m.FeatureLevel))
	return append(b, m.MeshAddr...)
}

// decodeMeta returns what it can: metadata that makes no sense is empty.
func decodeMeta(b []byte) nodeMeta {
	r := reader{b: b}
	if r.byte() != metaVersion {
		return nodeMeta{}
	}
	m := nodeMeta{FeatureLevel: int(r.varint())}
	m.MeshAddr = string(r.b)
	return m
}

// delegate is what memberlist calls. Some calls come with memberlist's lock
// held, so none of them may call memberlist or wait for anything but our lock,
// which is never held across a call of memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.PingDelegate     = delegate{}
)

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.own.meta.encode()
}

// NotifyMsg implements memberlist.Delegate.
func (d delegate) NotifyMsg(msg []byte) {
	if err := d.g.receive(msg); err != nil {
		d.g.log.Debug("discarding a message", "err", err)
	}
}

// GetBroadcasts implements memberlist.Delegate.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (d delegate) LocalState(join bool) []byte { return d.g.localState(join) }

// MergeRemoteState implements memberlist.Delegate. The buffer is ours.
func (d delegate) MergeRemoteState(buf []byte, join bool) {
	if err := d.g.mergeState(buf, join); err != nil {
		d.g.log.Warn("discarding the state of another member", "err", err)
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	d.g.detector.joined(time.Now(), n.Name, endpoint{n.Addr, n.Port}, n.Address(), decodeMeta(n.Meta))
	d.g.watching()
}

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	d.g.detector.departed(time.Now(), n.Name)
	d.g.watching()
}

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	if p := d.g.detector.updated(n.Name, endpoint{n.Addr, n.Port}, n.Address(), decodeMeta(n.Meta)); p != nil {
		d.g.emit(EventFacts, p)
	}
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.conflicts.Add(1)
	d.g.log.Error("two members claim one name", "name", existing.Name,
		"addr", existing.Address(), "other", other.Address())
}

// AckPayload implements memberlist.PingDelegate.
func (d delegate) AckPayload() []byte { return nil }

// NotifyPingComplete implements memberlist.PingDelegate.
func (d delegate) NotifyPingComplete(_ *memberlist.Node, rtt time.Duration, _ []byte) {
	d.g.metrics.probe.Observe(rtt.Seconds())
}

// heardIncoming is called for rumours in packets that memberlist has yet to
// judge. Only a goodbye is of interest.
func (g *Gossip) heardIncoming(_ byte, r rumour) {
	if r.Node != r.From {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.detector.goodbye(time.Now(), r.Node, r.Incarnation)
}

// heardOutgoing is called for rumours that our memberlist passes on, and so
// has accepted.
func (g *Gossip) heardOutgoing(kind byte, r rumour) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch kind {
	case wireSuspect:
		g.detector.suspected(now, r.Node, r.Incarnation)
	case wireAlive:
		g.detector.refuted(now, r.Node, r.Incarnation)
	case wireDead:
		g.detector.buried(now, r.Node, r.Incarnation, r.Node == r.From)
	}
	g.watching()
}

// seen is called for every genuine packet.
func (g *Gossip) seen(from net.Addr) {
	if g.suspects.Load() == 0 {
		return
	}
	addr := from.String()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.detector.seen(time.Now(), addr)
}

// watching notes whether signs of life are of interest: they are frequent, and
// matter only while somebody is suspected. The caller holds the lock.
func (g *Gossip) watching() { g.suspects.Store(int32(len(g.detector.pending))) }
