package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"

	"virtmesh/agent/api/store"
	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/raftstore"
)

// voterNames warns of names in spec.voters of the MeshConfig that are of no host. They are not
// refused: hosts can be named before they join.
type voterNames struct {
	*admission.Handler
	store store.Backend
}

var _ admission.ValidationInterface = (*voterNames)(nil)

func newVoterNames(store store.Backend) *voterNames {
	return &voterNames{Handler: admission.NewHandler(admission.Create, admission.Update), store: store}
}

// Validate implements admission.ValidationInterface.
func (v *voterNames) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	config, ok := a.GetObject().(*meshv1alpha1.MeshConfig)
	if !ok || config.Spec.Voters == nil {
		return nil
	}
	var unknown []string
	for _, name := range slices.Concat(config.Spec.Voters.Hosts, config.Spec.Voters.Exclude) {
		_, _, err := v.store.Get(ctx, kinds.For[*corev1.Node]().StoreKey(kinds.Key{Name: name}), raftstore.ReadOptions{Consistency: raftstore.Local})
		switch {
		case errors.Is(err, raftstore.ErrNotFound):
			unknown = append(unknown, name)
		case err != nil:
			return fault.Of(fmt.Errorf("look for host %s: %w", name, err)).StatusError(a.GetResource().GroupResource(), a.GetName())
		}
	}
	if len(unknown) > 0 {
		warning.AddWarning(ctx, "", "spec.voters names what is no host of this mesh (yet): "+strings.Join(unknown, ", "))
	}
	return nil
}
