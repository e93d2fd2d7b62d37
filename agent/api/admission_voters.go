package api

import (
	"context"
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

// voterNames warns of names in spec.voters of the MeshConfig that are of no host, and if it leaves
// out so many hosts that one votes alone. Neither is refused: hosts can be named before they join.
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
	hosts, err := v.hosts(ctx)
	if err != nil {
		return fault.Of(err).StatusError(a.GetResource().GroupResource(), a.GetName())
	}
	var unknown []string
	for _, name := range slices.Concat(config.Spec.Voters.Hosts, config.Spec.Voters.Exclude) {
		if !slices.Contains(hosts, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		warning.AddWarning(ctx, "", "spec.voters names what is no host of this mesh (yet): "+strings.Join(unknown, ", "))
	}
	if len(config.Spec.Voters.Hosts) > 0 {
		return nil // too few names are warned of by the kind; names of no host are above
	}
	if few := kinds.WarnOfFewVoters(kinds.VoterLimit(config), hosts); few != "" {
		warning.AddWarning(ctx, "", few)
	}
	return nil
}

// hosts returns the names of the mesh's hosts, by their Nodes.
func (v *voterNames) hosts(ctx context.Context) (names []string, err error) {
	nodes := kinds.For[*corev1.Node]()
	list, err := v.store.List(ctx, raftstore.ListRequest{Prefix: nodes.Prefix(), ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
	if err != nil {
		return nil, fmt.Errorf("list the hosts: %w", err)
	}
	for _, record := range list.Records {
		if key, ok := nodes.ParseKey(record.Key); ok {
			names = append(names, key.Name)
		}
	}
	return names, nil
}
