package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
	"virtmesh/raftstore"
)

// Choice is the host on which an instance should run, and the state on which
// the decision is based.
type Choice struct {
	Host   string
	Regard claims.Regard
	Sight  claims.Sight
}

// errClaimed reports that the instance has a claim already, so that no host is
// chosen for it.
var errClaimed = errors.New("the instance has a claim already")

// Decide chooses a host and, if it finds one, assumes that the instance is
// there until its claim is seen or Forget is called.
func (v *View) Decide(ctx context.Context, r *place.Request) (Choice, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.claims.Instance(types.UID(r.UID)); ok {
		return Choice{}, errClaimed
	}
	var c Choice
	c.Regard.Counted, c.Regard.KeptOut = r.Regards()
	if len(c.Regard.Counted) > 0 || v.guards[r.Namespace] != 0 || v.guards[claims.AllNamespaces] != 0 {
		if err := v.readUp(ctx); err != nil {
			return Choice{}, err
		}
	}
	host, err := v.snapshot.Place(r)
	if err != nil {
		return Choice{}, err
	}
	c.Host, c.Sight = host, v.sight(r.Namespace, c.Regard)
	v.snapshot.SetInstance(place.Instance{
		UID: r.UID, Namespace: r.Namespace, Labels: r.Labels, Hosts: []string{host}, Resources: r.Resources, Affinity: r.Affinity,
	})
	v.assumed[r.UID] = host
	return c, nil
}

// sight returns how much of the data that a decision depends on the view has
// seen. The caller holds v.mu.
func (v *View) sight(namespace string, regard claims.Regard) claims.Sight {
	s := claims.Sight{Revision: v.seen, Guards: map[string]uint64{}}
	for _, ns := range append([]string{namespace, claims.AllNamespaces}, regard.KeptOut...) {
		s.Guards[ns] = v.guards[ns]
	}
	if len(regard.Counted) == 0 {
		return s
	}
	for _, uid := range slices.Sorted(maps.Keys(v.assumed)) {
		s.Known = append(s.Known, claims.Known{UID: types.UID(uid), Host: v.assumed[uid]})
	}
	return s
}

// Forget removes the assumption that Decide made, if no claim has followed.
func (v *View) Forget(uid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.assumed[uid]; !ok {
		return
	}
	delete(v.assumed, uid)
	// Another steward may have placed the instance on another host.
	if in, ok := v.claims.Instance(types.UID(uid)); ok {
		v.setInstance(in)
		return
	}
	v.snapshot.RemoveInstance(uid)
}

// onClaim follows the claims: capacities of hosts and instances on them.
func (v *View) onClaim(ev claims.Event) {
	switch {
	case ev.Capacity != nil && ev.Capacity.New != nil:
		v.stale.note(ev.Capacity.New.Host)
	case ev.Capacity != nil:
		v.stale.note(ev.Capacity.Old.Host)
	case ev.Space != nil:
		v.stale.note(*ev.Space)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case ev.Guard != nil:
		v.guards[ev.Guard.Namespace] = ev.Guard.Revision
	case ev.Instance != nil && ev.Instance.New != nil:
		v.setInstance(*ev.Instance.New)
	case ev.Instance != nil:
		uid := string(ev.Instance.Old.UID)
		delete(v.assumed, uid)
		delete(v.unread, uid)
		v.snapshot.RemoveInstance(uid)
		v.tellRoom(false)
	}
	v.seen = max(v.seen, ev.Revision)
}

// setInstance records a claimed instance, with the labels and the affinity of
// its object. The caller holds v.mu.
func (v *View) setInstance(in claims.Instance) {
	vmi, ok := v.vmis.Get(in.Key())
	if !ok || vmi.UID != in.UID {
		vmi = nil
	}
	// The claim was written together with the object. So if the informer shows
	// an older version of the object, it is behind.
	if rev, err := revision(vmi); err != nil || rev < in.Revision {
		v.unread[string(in.UID)] = in
	} else {
		delete(v.unread, string(in.UID))
	}
	v.recordInstance(in, vmi)
}

func revision(vmi *kubevirtv1.VirtualMachineInstance) (uint64, error) {
	if vmi == nil {
		return 0, nil
	}
	return objects.Revision(vmi)
}

// recordInstance puts a claimed instance into the snapshot; vmi is its object,
// nil if there is none. The caller holds v.mu.
func (v *View) recordInstance(in claims.Instance, vmi *kubevirtv1.VirtualMachineInstance) {
	delete(v.assumed, string(in.UID))
	placed := place.Instance{UID: string(in.UID), Namespace: in.Namespace, Hosts: in.Hosts(), Resources: in.Resources}
	if vmi != nil {
		placed.Labels, placed.Affinity = vmi.Labels, vmi.Spec.Affinity
	}
	v.snapshot.SetInstance(placed)
}

// readUp reads from the replica the instances that the informer does not show
// yet. Otherwise a decision that depends on the labels or the affinity of other
// instances would treat them as having none. The caller holds v.mu.
func (v *View) readUp(ctx context.Context) error {
	for uid, in := range v.unread {
		vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, v.store, in.Key(), raftstore.ReadOptions{Consistency: raftstore.Local})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read instance %s: %w", in.Key(), err)
		}
		if err == nil && vmi.UID == in.UID {
			v.recordInstance(in, vmi)
		}
		delete(v.unread, uid)
	}
	return nil
}

// onInstance follows the labels and affinities of instances with a claim.
func (v *View) onInstance(c objects.Change[*kubevirtv1.VirtualMachineInstance]) {
	if c.New == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	_, unread := v.unread[string(c.New.UID)]
	shown, ok := v.snapshot.Instance(string(c.New.UID))
	if !unread && ok && maps.Equal(shown.Labels, c.New.Labels) && reflect.DeepEqual(shown.Affinity, c.New.Spec.Affinity) {
		return
	}
	if in, ok := v.claims.Instance(c.New.UID); ok {
		v.setInstance(in)
	}
}
