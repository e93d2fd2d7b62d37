package mesh

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Limits bound what a mesh may write.
type Limits struct {
	// PerMinute is the most entries in any minute, in the whole mesh.
	PerMinute int
}

// Check returns what the history shows that a mesh promises never to do:
//
//   - no instance runs on two hosts, and replicas do not differ;
//   - an epoch of a name belongs to one instance and one host, and epochs only grow;
//   - no claim is made beyond the capacity of a host;
//   - writes are bounded, whatever fails.
func (h *History) Check(limits Limits) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	wrong := slices.Clone(h.faults)
	wrong = append(wrong, h.checkClaims()...)
	return append(wrong, h.checkWrites(limits)...)
}

// checkWrites finds the busiest minute. The caller holds h.mu.
func (h *History) checkWrites(limits Limits) []string {
	first := 0
	for i, write := range h.writes {
		for write.At.Sub(h.writes[first].At) >= time.Minute {
			first++
		}
		if n := i - first + 1; n > limits.PerMinute {
			return []string{fmt.Sprintf("more than %d entries within the minute before %s:%s", limits.PerMinute, write.At.Format("15:04:05"), countWrites(h.writes[first:i+1]))}
		}
	}
	return nil
}

// countWrites lists who wrote what how often, the most frequent first.
func countWrites(writes []Write) string {
	counts := map[string]int{}
	for _, w := range writes {
		line := w.Host + " " + w.Writer + ": " + w.Kinds
		if w.Err != nil {
			line += ", refused"
		}
		counts[line]++
	}
	lines := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	var b strings.Builder
	for _, line := range lines[:min(len(lines), 10)] {
		fmt.Fprintf(&b, "\n  %d times %s", counts[line], line)
	}
	return b.String()
}

// Store keys of package claims.
const (
	instances  = claims.Prefix + "vmi/"
	capacities = claims.Prefix + "capacity/"
)

// owner is who has an epoch of a name.
type owner struct{ uid, host string }

// ledger is the state of the claims while the changes are gone through.
type ledger struct {
	instances  map[string]claims.Instance
	capacities map[string]claims.Capacity
	owners     map[string]owner  // by name and epoch
	epochs     map[string]uint64 // the highest, by name
	wrong      []string
}

// checkClaims goes through all changes of claims in their order. The caller holds h.mu.
func (h *History) checkClaims() []string {
	l := ledger{map[string]claims.Instance{}, map[string]claims.Capacity{}, map[string]owner{}, map[string]uint64{}, nil}
	order := slices.SortedFunc(maps.Keys(h.changes), func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	for _, c := range order {
		value := h.changes[c]
		switch {
		case strings.HasPrefix(c.key, instances):
			l.setInstance(c, value)
		case strings.HasPrefix(c.key, capacities):
			l.setCapacity(c, value)
		}
	}
	return l.wrong
}

func (l *ledger) fail(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

func (l *ledger) setCapacity(c change, value string) {
	var capacity claims.Capacity
	if value == deleted {
		delete(l.capacities, strings.TrimPrefix(c.key, capacities))
	} else if err := json.Unmarshal([]byte(value), &capacity); err != nil {
		l.fail("%s: %v", c.key, err)
	} else {
		l.capacities[capacity.Host] = capacity
	}
}

func (l *ledger) setInstance(c change, value string) {
	before, existed := l.instances[c.key]
	delete(l.instances, c.key)
	if value == deleted {
		return
	}
	var claim claims.Instance
	if err := json.Unmarshal([]byte(value), &claim); err != nil {
		l.fail("%s: %v", c.key, err)
		return
	}
	name := claim.Key().String()
	epoch, now := fmt.Sprintf("%s, epoch %d", name, claim.Epoch), owner{string(claim.UID), claim.Host}
	if had, ok := l.owners[epoch]; ok && had != now {
		l.fail("%s belongs to %v and to %v", epoch, had, now)
	}
	l.owners[epoch] = now
	if claim.Epoch < l.epochs[name] {
		l.fail("%s: epoch %d comes after %d", name, claim.Epoch, l.epochs[name])
	}
	l.epochs[name] = max(l.epochs[name], claim.Epoch)
	for _, host := range claim.Hosts() {
		if !existed || !slices.Contains(before.Hosts(), host) {
			l.checkRoom(host, claim)
		}
	}
	l.instances[c.key] = claim
}

// checkRoom checks that a new claim fits on a host.
func (l *ledger) checkRoom(host string, claim claims.Instance) {
	free := l.capacities[host].Allocatable
	for _, other := range l.instances {
		if slices.Contains(other.Hosts(), host) {
			free = free.Sub(other.Resources)
		}
	}
	if lacking := free.Lacking(claim.Resources); len(lacking) > 0 {
		l.fail("%s is claimed on %s, which has too little %s", claim.Key(), host, strings.Join(lacking, ", "))
	}
}

// Disagreement compares the members with each other: their replicas, and their caches
// with their replicas. It returns what differs, and must be empty some time after all
// faults have ended.
func (m *Mesh) Disagreement(ctx context.Context) []string {
	members := m.members()
	if len(members) == 0 {
		return []string{errNobody.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, userTimeout)
	defer cancel()
	var wrong []string
	want, err := members[0].store.List(ctx, raftstore.ListRequest{Prefix: "/"})
	if err != nil {
		return []string{fmt.Sprintf("%s cannot read: %v", members[0].host.Name, err)}
	}
	for _, a := range members {
		h := a.host
		got, err := a.store.List(ctx, raftstore.ListRequest{Prefix: "/"})
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s cannot read: %v", h.Name, err))
			continue
		}
		same := slices.EqualFunc(got.Records, want.Records, func(a, b raftstore.Record) bool {
			return a.Key == b.Key && a.ModRevision == b.ModRevision && string(a.Value) == string(b.Value)
		})
		if !same {
			wrong = append(wrong, fmt.Sprintf("the replicas of %s (revision %d) and %s (revision %d) differ", h.Name, got.Revision, members[0].host.Name, want.Revision))
		}
		wrong = append(wrong, a.compareCaches(got.Records)...)
		if a.stewardship.HoldsStill() {
			wrong = append(wrong, h.Name+": its stewards hold still")
		}
		if live := a.peers.Members(); len(live) != len(members) {
			wrong = append(wrong, fmt.Sprintf("%s takes %v for the live hosts", h.Name, live))
		}
	}
	return wrong
}

// compareCaches compares the caches with the records.
func (a *agent) compareCaches(records []raftstore.Record) []string {
	var wrong []string
	compare := func(what string, want, got map[string]string) {
		if !maps.Equal(want, got) {
			wrong = append(wrong, fmt.Sprintf("%s: its cache of %s has %v, the store %v", a.host.Name, what, got, want))
		}
	}
	claimed, held := map[string]string{}, map[string]string{}
	for _, rec := range records {
		if strings.HasPrefix(rec.Key, instances) {
			claimed[rec.Key] = fmt.Sprint(rec.ModRevision)
		}
	}
	for _, in := range a.claims.Instances() {
		held[instances+string(in.UID)] = fmt.Sprint(in.Revision)
	}
	compare("claims", claimed, held)
	compare("nodes", versions(records, kinds.For[*corev1.Node]()), cached[*corev1.Node](a.cache))
	compare("machines", versions(records, kinds.For[*kubevirtv1.VirtualMachine]()), cached[*kubevirtv1.VirtualMachine](a.cache))
	compare("instances", versions(records, kinds.For[*kubevirtv1.VirtualMachineInstance]()), cached[*kubevirtv1.VirtualMachineInstance](a.cache))
	return wrong
}

// versions returns the revisions of the objects of a kind, by key.
func versions(records []raftstore.Record, kind *kinds.Kind) map[string]string {
	all := map[string]string{}
	for _, rec := range records {
		if key, ok := kind.ParseKey(rec.Key); ok {
			all[key.String()] = fmt.Sprint(rec.ModRevision)
		}
	}
	return all
}

// cached returns the revisions of the objects in a cache, by key.
func cached[T objects.Object](cache *objects.Cache) map[string]string {
	all := map[string]string{}
	for _, object := range objects.For[T](cache).List("") {
		all[objects.KeyOf(object).String()] = object.GetResourceVersion()
	}
	return all
}
