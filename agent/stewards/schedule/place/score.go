package place

import corev1 "k8s.io/api/core/v1"

// Weights of the parts of a score. Each part is 0 to 100, except for the soft
// taints, which only lower a score.
const (
	weightRoom     = 10 // room left, or used, by strategy
	weightLoad     = 1
	weightImage    = 1
	weightKVM      = 20
	weightAffinity = 4 // preferred node affinity
	weightTogether = 4 // preferred affinity to other instances
	weightSpread   = 4
	softTaint      = 200
)

// candidate is a host that fits.
type candidate struct {
	host     *hostState
	score    int64
	tie      uint64
	affinity int64
	together int64
}

// score fills in the scores. Parts without an upper limit are scaled to the
// best candidate, so that no weight in a manifest can outweigh everything else.
func (s *Snapshot) score(r *Request, rel *relations, found []candidate, seed uint64) {
	var maxAffinity, maxTogether int64
	for i := range found {
		c := &found[i]
		c.tie = mix(seed ^ c.host.seed)
		c.score = r.hostScore(c.host)
		if r.preferred != nil {
			c.affinity = r.preferred.Score(r.nodeOf(c.host))
			maxAffinity = max(maxAffinity, abs(c.affinity))
		}
		if rel != nil {
			c.together = rel.together(r, c.host)
			maxTogether = max(maxTogether, abs(c.together))
			c.score += weightSpread * rel.evenness(c.host)
		}
	}
	for i := range found {
		c := &found[i]
		if maxAffinity > 0 {
			c.score += weightAffinity * 100 * c.affinity / maxAffinity
		}
		if maxTogether > 0 {
			c.score += weightTogether * 100 * c.together / maxTogether
		}
	}
}

// hostScore is the part that concerns the host alone.
func (r *Request) hostScore(h *hostState) int64 {
	room := r.room(h)
	if r.policy.Strategy == Pack {
		room = 100 - room
	}
	score := weightRoom*room + weightLoad*int64(100*(1-min(1, max(0, h.Load))))
	if h.KVM {
		score += weightKVM * 100
	}
	if len(r.Images) > 0 {
		have := int64(0)
		for _, img := range r.Images {
			if _, ok := h.images[img]; ok {
				have++
			}
		}
		score += weightImage * 100 * have / int64(len(r.Images))
	}
	for i := range h.Taints {
		if t := &h.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !r.tolerates(t) {
			score -= softTaint
		}
	}
	return score
}

// room is the percentage of processor and memory that is left once the instance
// is on the host. The scarcer of the two counts double, so that a host does not
// run out of one while the other is idle.
func (r *Request) room(h *hostState) int64 {
	cpu := percent(h.free.CPUMilli-r.Resources.CPUMilli, h.Allocatable.CPUMilli)
	mem := percent(h.free.MemoryBytes-r.Resources.MemoryBytes, h.Allocatable.MemoryBytes)
	return (cpu + mem + min(cpu, mem)) / 3
}

func percent(part, whole int64) int64 {
	if whole <= 0 {
		return 0
	}
	part = max(0, min(part, whole))
	// Dividing first keeps bytes of large hosts from overflowing.
	if whole > 1<<40 {
		part, whole = part>>20, whole>>20
	}
	return 100 * part / whole
}

// together sums the weights of the preferred terms that the host satisfies.
func (rel *relations) together(r *Request, h *hostState) int64 {
	var sum int64
	for i := range r.weighted {
		t := &r.weighted[i]
		if v, ok := h.Labels[t.topologyKey]; ok {
			sum += t.weight * int64(rel.weighted[i][v])
		}
	}
	return sum
}

// evenness is lower the more instances the host's topology domains have in
// excess of the others.
func (rel *relations) evenness(h *hostState) int64 {
	if len(rel.spread) == 0 {
		return 0
	}
	var sum int64
	for i := range rel.spread {
		if skew, ok := rel.spread[i].skew(h); ok {
			sum += 100 / int64(max(1, skew))
		}
	}
	return sum / int64(len(rel.spread))
}

func abs(x int64) int64 { return max(x, -x) }
