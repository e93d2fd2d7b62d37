package gossip

import (
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// metaVersion is the first byte of the metadata. Fields behind it are tagged like facts,
// so later versions add fields and leave it as it is.
const metaVersion = 2

// nodeMeta is the metadata that memberlist itself carries for every member. It is
// known as soon as the member is, and no loss of facts affects it.
type nodeMeta struct {
	MeshAddr           string
	LowestFeatureLevel int
	FeatureLevel       int
}

func metaOf(f *Facts) nodeMeta {
	return nodeMeta{MeshAddr: f.MeshAddr, LowestFeatureLevel: f.LowestFeatureLevel, FeatureLevel: f.FeatureLevel}
}

func (m nodeMeta) encode() []byte {
	f := Facts{MeshAddr: m.MeshAddr, LowestFeatureLevel: m.LowestFeatureLevel, FeatureLevel: m.FeatureLevel}
	return append([]byte{metaVersion}, encodeSection(sectionHost, &f)...)
}

// decodeMeta decodes metadata. Metadata of an unknown version gives an empty result.
func decodeMeta(b []byte) nodeMeta {
	var f Facts
	if len(b) == 0 || b[0] != metaVersion || decodeSection(b[1:], &f) != nil {
		return nodeMeta{}
	}
	return metaOf(&f)
}

// delegate receives memberlist's callbacks. memberlist holds its own lock during some
// of them, so no callback may call memberlist or wait for anything but Gossip.mu,
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
	if err := d.g.receiveMessage(msg); err != nil {
		d.g.log.Debug("discarding a malformed message", "err", err)
	}
}

// GetBroadcasts implements memberlist.Delegate.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (d delegate) LocalState(join bool) []byte { return d.g.localState(join) }

// MergeRemoteState implements memberlist.Delegate. It may keep the buffer.
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
	d.g.countSuspects()
}

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	d.g.detector.departed(time.Now(), n.Name)
	d.g.countSuspects()
}

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	if p := d.g.detector.updated(n.Name, endpoint{n.Addr, n.Port}, n.Address(), decodeMeta(n.Meta)); p != nil {
		d.g.emitEvent(EventFacts, p)
	}
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.conflicts.Add(1)
	d.g.log.Error("two members use the same name", "name", existing.Name,
		"addr", existing.Address(), "otherAddr", other.Address())
}

// AckPayload implements memberlist.PingDelegate.
func (d delegate) AckPayload() []byte { return nil }

// NotifyPingComplete implements memberlist.PingDelegate.
func (d delegate) NotifyPingComplete(_ *memberlist.Node, rtt time.Duration, _ []byte) {
	d.g.metrics.probe.Observe(rtt.Seconds())
}

// heardIncoming is called for rumours in received packets, before memberlist handles
// them. It only looks for members that announce their own leave.
func (g *Gossip) heardIncoming(_ byte, r rumour) {
	if r.Node != r.From {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.detector.goodbye(time.Now(), r.Node, r.Incarnation)
}

// heardOutgoing is called for rumours that memberlist passes on in this process, and
// so has accepted.
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
	g.countSuspects()
}

// packetFrom is called for every packet that was made with one of the keys.
func (g *Gossip) packetFrom(from net.Addr) {
	if g.suspects.Load() == 0 {
		return
	}
	addr := from.String()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.detector.packetFrom(time.Now(), addr)
}

// countSuspects updates g.suspects after a change of the detector. Signs of life are
// frequent, and they are read only while a verdict is pending. The caller holds the
// lock.
func (g *Gossip) countSuspects() { g.suspects.Store(int32(len(g.detector.pending))) }
