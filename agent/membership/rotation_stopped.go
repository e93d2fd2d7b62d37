package membership

import (
	"context"
	"slices"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
)

// hasStopped reports whether the operation with a UID has ended without success: what it had begun
// goes on only if somebody asks for it again. Of one that is not found, or cannot be read, it is
// not known.
func hasStopped(ctx context.Context, store objects.Store, uid string) bool {
	op := operationOf(ctx, store, uid)
	return op != nil && op.Status.Phase.Final() && op.Status.Phase != meshv1alpha1.OperationSucceeded
}

// operationOf returns the operation with a UID by this host's copy of the state, nil if there is
// none.
func operationOf(ctx context.Context, store objects.Store, uid string) *meshv1alpha1.Operation {
	all, _, err := objects.List[*meshv1alpha1.Operation](ctx, store, "", localRead)
	i := slices.IndexFunc(all, func(op *meshv1alpha1.Operation) bool { return string(op.UID) == uid })
	if err != nil || i < 0 {
		return nil
	}
	return all[i]
}

// unfinishedCA warns of a replacement of the CA that has begun and that no operation goes on with:
// hosts trust more than one CA until there is another one.
func (m *Member) unfinishedCA(ctx context.Context) []string {
	rec, err := identity.ReadCARecord(ctx, m.store, localRead)
	if err != nil || rec.Rotation == "" || rec.Stage == identity.CAReplaced {
		return nil
	}
	if op := operationOf(ctx, objects.FromRaft(m.store, nil), rec.Rotation); op != nil && !op.Status.Phase.Final() {
		return nil
	}
	const again = ": 'virtmesh ca rotate' does it"
	if rec.Stage == identity.CASigning {
		return []string{"a replacement of the mesh's CA stopped after the new CA had begun to sign, and hosts still trust the one of before, whoever has its key" + again}
	}
	return []string{"a replacement of the mesh's CA stopped before the new CA signed, so the CA that was to be replaced is still the mesh's" + again}
}
