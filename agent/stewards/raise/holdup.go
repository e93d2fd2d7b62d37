package raise

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
)

// holdup is that the mesh could use a higher level and cannot be raised to it.
type holdup struct {
	// since is when this host first saw it; zero if there is none.
	since time.Time
	// told is the reason that the last event gives, and toldAt its time.
	told   string
	toldAt time.Time
}

// reportHoldup says in an event why the mesh is not raised: each reason once, not in the
// first ten minutes, which an upgrade may well take, and at most once in ten minutes
// however often the reason changes.
func (r *Raiser) reportHoldup(config *meshv1alpha1.MeshConfig, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, now := &r.holdup, time.Now()
	if h.since.IsZero() {
		h.since = now
	}
	if reason == h.told || now.Sub(h.since) < patience || now.Sub(h.toldAt) < patience {
		return
	}
	h.told, h.toldAt = reason, now
	r.log.Warn("the mesh's feature level cannot be raised", "reason", reason)
	r.recorder.Event(config, corev1.EventTypeWarning, "FeatureLevelHeldUp", reason)
}

// endHoldup notes that nothing holds up a raise any more.
func (r *Raiser) endHoldup() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holdup = holdup{toldAt: r.holdup.toldAt}
}

// behind says which hosts do not know the level that others know.
func behind(o level.Outlook) string {
	return fmt.Sprintf("Feature level %d waits for %s: upgrade what is behind, or take it out of the mesh with 'virtmesh node remove'",
		o.Newest, level.NameHosts(o.HeldUpBy))
}

// unheard says which hosts are not heard.
func unheard(o level.Outlook) string {
	return fmt.Sprintf("Feature level %d waits for %s, from which nothing is heard: start what is down, or take it out of the mesh with 'virtmesh node remove'",
		o.Reachable, level.NameHosts(o.Unheard))
}
