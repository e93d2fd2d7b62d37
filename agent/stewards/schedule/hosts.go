package schedule

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
)

// stale are the hosts whose line in the snapshot may be out of date.
type stale struct {
	mu    sync.Mutex
	names map[string]struct{}
	all   bool
	wake  chan struct{} // holds a token while there is something to read
}

func newStale() *stale { return &stale{names: map[string]struct{}{}, wake: make(chan struct{}, 1)} }

// note notes that something about a host has changed, or about any if name is empty.
func (s *stale) note(name string) {
	s.mu.Lock()
	if name == "" {
		s.all = true
	} else {
		s.names[name] = struct{}{}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// takeNames returns the names noted so far and begins anew.
func (s *stale) takeNames() (names map[string]struct{}, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, all = s.names, s.all
	s.names, s.all = map[string]struct{}{}, false
	return names, all
}

// followHosts reads again what has changed about hosts, until ctx ends. It does not wait
// for more to come: a host may have died.
func (v *View) followHosts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.stale.wake:
			v.refreshHosts()
		}
	}
}

// refreshHosts makes the lines of the stale hosts up to date. One goroutine at a time
// calls it, and it holds no lock while it reads and describes hosts: decisions go on.
func (v *View) refreshHosts() {
	names, all := v.stale.takeNames()
	if all {
		for _, m := range v.facts.Members() {
			names[m.Name] = struct{}{}
		}
		for name := range v.lines {
			names[name] = struct{}{}
		}
	}
	for name := range names {
		v.refreshHost(name)
	}
}

// line is a host as the snapshot has it, and the data from which it was described. A
// description reads a hundred labels and more, while comparing the data costs a
// fraction of that.
type line struct {
	from source
	host *place.Prepared
}

// refreshHost makes the line of one host up to date.
func (v *View) refreshHost(name string) {
	from, exists := v.sourceOf(name)
	last, known := v.lines[name]
	if !exists {
		if known {
			delete(v.lines, name)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.snapshot.RemoveHost(name)
		}
		return
	}
	now := &line{from: from}
	switch described := known && last.from.same(&from); {
	case described && last.host.Load == from.facts.Load:
		return
	case described: // the load alone changes all the time
		now.host = last.host.WithLoad(from.facts.Load)
	default:
		now.host = place.Prepare(describe(name, from))
	}
	v.lines[name] = now
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snapshot.SetPrepared(now.host)
	switch {
	case !known || admitsMore(&last.host.Host, &now.host.Host):
		v.tellRoom(false)
	case hasMoreDisk(&last.host.Host, &now.host.Host):
		v.tellRoom(true)
	}
}

// node is what placement reads of a Node. It is kept, because the Node itself would have
// to be decoded for each news of its host.
type node struct {
	Labels                     map[string]string
	Taints                     []corev1.Taint
	Cordoned, Leaving, Witness bool
}

// onNode follows the Nodes.
func (v *View) onNode(c objects.Change[*corev1.Node]) {
	v.nodeMu.Lock()
	if c.IsDelete() {
		delete(v.described, c.Key.Name)
	} else {
		v.described[c.Key.Name] = &node{
			Labels: c.New.Labels,
			Taints: slices.DeleteFunc(slices.Clone(c.New.Spec.Taints), func(t corev1.Taint) bool {
				return t.Key == corev1.TaintNodeUnschedulable // Cordoned covers it
			}),
			Cordoned: c.New.Spec.Unschedulable, Leaving: c.New.DeletionTimestamp != nil, Witness: objects.IsWitness(c.New),
		}
	}
	v.nodeMu.Unlock()
	v.stale.note(c.Key.Name)
}

// source is the data from which a host is described.
type source struct {
	known     bool // gossip knows the member
	state     gossip.State
	facts     gossip.Facts
	node      *node // nil if there is none
	capacity  claims.Capacity
	published bool
	// taken is what volumes take in its pools.
	taken map[string]int64
}

// sourceOf reads what is known of a host now; false if that is nothing, or if the host never
// takes an instance: it would count among the domains that instances are spread over.
func (v *View) sourceOf(name string) (source, bool) {
	var s source
	if m, ok := v.facts.Member(name); ok {
		s.known, s.state, s.facts = true, m.State, m.Facts
	}
	v.nodeMu.Lock()
	s.node = v.described[name]
	v.nodeMu.Unlock()
	if s.node != nil && s.node.Witness {
		return source{}, false
	}
	s.capacity, s.published = v.claims.Capacity(name)
	s.taken = v.claims.SpaceOn(name)
	return s, s.known || s.published || s.node != nil
}

// same reports whether both describe a host alike, apart from its load. Every change of a Node makes a
// new node, and one of a capacity has a new revision; facts have neither.
func (s *source) same(o *source) bool {
	return s.known == o.known && s.state == o.state && s.published == o.published &&
		s.capacity.Revision == o.capacity.Revision && s.node == o.node && maps.Equal(s.taken, o.taken) && sameFacts(&s.facts, &o.facts)
}

// sameFacts compares the facts that describe reads, but not the load.
func sameFacts(a, b *gossip.Facts) bool {
	return a.KVM == b.KVM && a.Unschedulable == b.Unschedulable && a.Zone == b.Zone &&
		maps.Equal(a.Pools, b.Pools) && slices.Equal(a.CPUModels, b.CPUModels) && slices.Equal(a.Images, b.Images) && sameLabels(a.Labels, b.Labels)
}

// sameLabels compares labels. Those of facts that have not changed are mostly the same
// map, which nobody changes.
func sameLabels(a, b map[string]string) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer() || maps.Equal(a, b)
}

// describe builds the description of a host from its facts, Node object and
// capacity.
func describe(name string, s source) place.Host {
	h := place.Host{Name: name, Allocatable: s.capacity.Allocatable, Labels: map[string]string{}}
	for _, d := range s.capacity.Disks {
		h.Disks = append(h.Disks, place.Disk{State: d.State, Pools: d.Pools, Left: d.Bytes - sumOf(d.Pools, s.taken)})
	}
	if s.known {
		f := s.facts
		h.KVM, h.CPUModels, h.Images, h.Load = f.KVM, f.CPUModels, f.Images, f.Load
		h.Cordoned = f.Unschedulable
		h.Pools = make(map[string]int64, len(f.Pools))
		for name, pool := range f.Pools {
			h.Pools[name] = pool.Free
		}
		if f.Zone != "" {
			h.Labels[corev1.LabelTopologyZone] = f.Zone
		}
		maps.Copy(h.Labels, f.Labels)
	}
	if s.node != nil {
		maps.Copy(h.Labels, s.node.Labels)
		h.Taints, h.Cordoned = s.node.Taints, s.node.Cordoned
	}
	if emulator, known := machine.EmulatorOf(h.Labels); known {
		h.Emulator = &emulator
	}
	switch {
	case !s.known || !s.state.Live():
		h.Problem = "not alive"
	case s.state == gossip.Suspect:
		h.Problem = "not answering"
	case !s.published:
		h.Problem = "without published capacity"
	case s.node != nil && s.node.Leaving:
		h.Problem = "leaving"
	case h.Labels[kubevirtv1.NodeSchedulable] == "false":
		h.Problem = "not schedulable"
	}
	return h
}

// admitsMore reports whether a host may now take an instance that it did not
// take before, whatever it lacked. A change of load or images, or a loss of
// capacity, never has this effect; for more room on disk see hasMoreDisk.
func admitsMore(old, now *place.Host) bool {
	if now.Problem != "" {
		return false
	}
	allocatable := now.Allocatable
	allocatable.EphemeralBytes = old.Allocatable.EphemeralBytes
	return old.Problem != "" || old.Cordoned && !now.Cordoned || !old.KVM && now.KVM ||
		!sameLabels(old.Labels, now.Labels) || !reflect.DeepEqual(old.Taints, now.Taints) ||
		!slices.Equal(old.CPUModels, now.CPUModels) || len(old.Allocatable.Lacking(allocatable)) > 0
}

// hasMoreDisk reports whether a host may now take an instance for which it had no room on disk.
func hasMoreDisk(old, now *place.Host) bool {
	return now.Problem == "" && (hasMoreRoom(old.Pools, now.Pools) || promisesMore(old.Disks, now.Disks) ||
		now.Allocatable.EphemeralBytes > old.Allocatable.EphemeralBytes)
}

// hasMoreRoom reports whether a pool has more room than before, or can be used again.
func hasMoreRoom(old, now map[string]int64) bool {
	for name, room := range now {
		if before, usable := old[name]; !usable || room > before {
			return true
		}
	}
	return false
}

// promisesMore reports whether more may be promised on a file system than before.
func promisesMore(old, now []place.Disk) bool {
	for i, d := range now {
		if i >= len(old) || !slices.Equal(d.Pools, old[i].Pools) || d.Left > old[i].Left {
			return true
		}
	}
	return len(now) < len(old)
}

func sumOf(pools []string, bytes map[string]int64) (sum int64) {
	for _, pool := range pools {
		sum += bytes[pool]
	}
	return sum
}
