package api

import (
	"context"

	"k8s.io/apiserver/pkg/admission"

	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
)

// requester writes into a new Operation which user creates it, in place of what the
// client says about that.
type requester struct{ *admission.Handler }

var _ admission.MutationInterface = requester{}

func newRequester() requester { return requester{admission.NewHandler(admission.Create)} }

// Admit implements admission.MutationInterface.
func (requester) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != kinds.For[*meshv1alpha1.Operation]().GroupResource() || a.GetSubresource() != "" {
		return nil
	}
	if op, ok := a.GetObject().(*meshv1alpha1.Operation); ok {
		op.Spec.RequestedBy = ""
		if user := a.GetUserInfo(); user != nil {
			op.Spec.RequestedBy = user.GetName()
		}
	}
	return nil
}
