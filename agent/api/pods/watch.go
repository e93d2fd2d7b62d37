package pods

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Watch implements rest.Watcher.
func (r *REST) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (watch.Interface, error) {
	inner, err := r.instances.Watch(ctx, ofInstances(opts))
	if err != nil {
		return nil, err
	}
	w := follower{opts: opts, told: map[types.UID]bool{}}
	return watch.Filter(inner, w.follow), nil
}

// follower turns the events of instances into those of the Pods that a client asked for.
type follower struct {
	opts *metainternalversion.ListOptions
	// told says of each instance whether the client takes its Pod for there. It has no entry if
	// the client may know the Pod from a list that came before the watch.
	told map[types.UID]bool
}

// follow implements watch.FilterFunc. A Pod that begins to be selected is added, and one that is
// not selected any more is deleted, as the API's rules for watches with selectors are.
func (f follower) follow(in watch.Event) (out watch.Event, keep bool) {
	vmi, ok := in.Object.(*kubevirtv1.VirtualMachineInstance)
	switch {
	case in.Type == watch.Bookmark:
		return bookmark(in), true
	case !ok:
		return in, true // an error
	}
	pod := Of(vmi)
	selected := matches(f.opts, pod)
	told, known := f.told[vmi.UID]
	if in.Type == watch.Deleted {
		delete(f.told, vmi.UID)
		return watch.Event{Type: watch.Deleted, Object: pod}, told || !known && selected
	}
	f.told[vmi.UID] = selected
	switch {
	case selected && (in.Type == watch.Added || known && !told):
		return watch.Event{Type: watch.Added, Object: pod}, true
	case selected:
		return watch.Event{Type: watch.Modified, Object: pod}, true
	}
	gone := told || !known && in.Type == watch.Modified
	return watch.Event{Type: watch.Deleted, Object: pod}, gone
}

// bookmark returns a bookmark of pods for one of instances.
func bookmark(in watch.Event) watch.Event {
	pod := &corev1.Pod{}
	if m, err := meta.Accessor(in.Object); err == nil {
		pod.ResourceVersion, pod.Annotations = m.GetResourceVersion(), m.GetAnnotations()
	}
	return watch.Event{Type: watch.Bookmark, Object: pod}
}
