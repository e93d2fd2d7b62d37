package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Unschedulable says why no host fits.
type Unschedulable struct {
	// Hosts is how many hosts there are.
	Hosts int
	// Reasons counts the hosts by the reason they do not fit.
	Reasons map[string]int
	// Disk says that room on disk is what some host lacked.
	Disk bool
}

// Error gives the reasons the way the scheduler of Kubernetes does:
// "0/3 hosts are available: 1 Insufficient memory, 2 cordoned".
func (u *Unschedulable) Error() string {
	msg := fmt.Sprintf("0/%d hosts are available", u.Hosts)
	if len(u.Reasons) == 0 {
		return msg
	}
	var parts []string
	for reason, n := range u.Reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return msg + ": " + strings.Join(parts, ", ")
}

var _ error = (*Unschedulable)(nil)

// Place chooses a host for the request. The error is *Unschedulable if no host
// fits. The snapshot is not changed: the caller adds the instance with
// SetInstance when it acts on the decision.
//
// Place looks at the hosts in order, beginning at a position that the uid of
// the instance determines, until enough of them fit. So in a large mesh not
// every host is scored, and different instances sample different hosts.
func (s *Snapshot) Place(r *Request) (host string, err error) {
	rel := s.relate(r)
	found := s.scratch[:0]
	seed := hashString(r.UID)
	n := len(s.hosts)
	for looked := 0; looked < n && len(found) < r.policy.SampleHosts; looked++ {
		h := s.hosts[(int(seed%uint64(n))+looked)%n]
		if s.feasible(r, rel, h) {
			found = append(found, candidate{host: h})
		}
	}
	s.scratch = found
	if len(found) == 0 {
		return "", s.explain(r, rel)
	}
	s.score(r, rel, found, seed)
	return best(found).host.Name, nil
}

// feasible reports whether the host fits. It applies the same filters as
// reasons, but the cheap ones first, and builds no list of reasons.
func (s *Snapshot) feasible(r *Request, rel *relations, h *hostState) bool {
	return h.Problem == "" && h.free.Fits(&r.Resources) &&
		(rel == nil || rel.admits(s, r, h) == "") && r.refuses(h) == ""
}

// explain counts the reasons over all hosts.
func (s *Snapshot) explain(r *Request, rel *relations) *Unschedulable {
	u := &Unschedulable{Hosts: len(s.hosts), Reasons: map[string]int{}}
	for _, h := range s.hosts {
		for _, reason := range s.reasons(r, rel, h) {
			u.Reasons[reason]++
			u.Disk = u.Disk || reason == r.lacksRoom(h) || reason == insufficient+"ephemeral-storage"
		}
	}
	return u
}

// insufficient begins the reason of a host whose claims leave too little of a resource.
const insufficient = "Insufficient "

// reasons applies the filters in order and returns the reasons of the first
// that refuses the host.
func (s *Snapshot) reasons(r *Request, rel *relations, h *hostState) []string {
	if reason := r.refuses(h); reason != "" {
		return []string{reason}
	}
	if lacking := h.free.Lacking(r.Resources); len(lacking) > 0 {
		for i, name := range lacking {
			lacking[i] = insufficient + name
		}
		return lacking
	}
	if rel != nil {
		if reason := rel.admits(s, r, h); reason != "" {
			return []string{reason}
		}
	}
	return nil
}

// refuses holds the filters that look at one host only.
func (r *Request) refuses(h *hostState) string {
	if h.Problem != "" {
		return h.Problem
	}
	if reason, ok := r.Exclude[h.Name]; ok {
		return reason
	}
	if h.Cordoned && !r.tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return "cordoned"
	}
	if t := r.untolerated(h); t != nil {
		return fmt.Sprintf("had untolerated taint {%s: %s}", t.Key, t.Value)
	}
	if r.OnlyHosts != nil {
		if _, ok := r.OnlyHosts[h.Name]; !ok {
			return r.OnlyReason
		}
	}
	if reason := r.lacksRoom(h); reason != "" {
		return reason
	}
	if r.hasRequired {
		if ok, err := r.required.Match(r.nodeOf(h)); err != nil || !ok {
			return "didn't match node affinity or selector"
		}
	}
	if arch := h.Labels[corev1.LabelArchStable]; r.architecture != "" && arch != "" && arch != r.architecture {
		return "lacked architecture " + r.architecture
	}
	if h.Emulator != nil {
		if lacks := h.Emulator.Lacks(r.Needs); len(lacks) > 0 {
			return "lacked " + lacks[0].What
		}
	}
	return r.refusesProcessor(h)
}

func (r *Request) refusesProcessor(h *hostState) string {
	if !h.KVM && !r.policy.AllowEmulation {
		return "without working KVM"
	}
	// Emulation can provide any model and feature that QEMU knows.
	if !h.KVM {
		return r.lacksLabel(h, r.nodeLabels)
	}
	if r.cpuModel != "" && !h.hasCPUModel(r.cpuModel) {
		return "lacked CPU model " + r.cpuModel
	}
	if reason := r.lacksLabel(h, r.cpuFeatures); reason != "" {
		return reason
	}
	for _, l := range r.forbidden {
		if h.Labels[l] == "true" {
			return "had forbidden label " + l
		}
	}
	return r.lacksLabel(h, r.nodeLabels)
}

func (r *Request) lacksLabel(h *hostState, wanted []string) string {
	for _, l := range wanted {
		if h.Labels[l] != "true" {
			return "lacked label " + l
		}
	}
	return ""
}

// untolerated returns the first taint that keeps the request off the host.
func (r *Request) untolerated(h *hostState) *corev1.Taint {
	for i := range h.Taints {
		t := &h.Taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !r.tolerates(t) {
			return t
		}
	}
	return nil
}

func (r *Request) tolerates(t *corev1.Taint) bool {
	for i := range r.tolerations {
		if r.tolerations[i].ToleratesTaint(klog.Logger{}, t, false) {
			return true
		}
	}
	return false
}

// best returns the best of the candidates, of which there is at least one.
func best(c []candidate) candidate {
	return slices.MaxFunc(c, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.tie, b.tie))
	})
}
