package guests

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
)

// A request about a guest, such as a console with all that is typed into it, goes to the
// host that the claim names, whatever the status says.
func TestRequestsGoWhereTheClaimIs(t *testing.T) {
	store := objectstest.New(claims.Rules()...)
	commit := func(build func(tx *objects.Tx)) {
		t.Helper()
		var tx objects.Tx
		build(&tx)
		if _, err := tx.Commit(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	for name, phase := range map[string]kubevirtv1.VirtualMachineInstancePhase{"claimed": kubevirtv1.Running, "waiting": kubevirtv1.Pending, "ended": kubevirtv1.Failed} {
		vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		vmi.Status.NodeName, vmi.Status.Phase = "elsewhere", phase
		commit(func(tx *objects.Tx) { tx.Create(vmi) })
		if name != "claimed" {
			continue
		}
		commit(func(tx *objects.Tx) {
			claims.Publish(tx, claims.Capacity{Host: "here"})
		})
		commit(func(tx *objects.Tx) {
			claims.Place(tx, claims.Instance{UID: vmi.UID, Namespace: "ns", Name: name, Host: "here"}, claims.Epoch{})
		})
	}
	config := objects.DefaultCacheConfig()
	config.Store, config.Logger = store, slog.New(slog.DiscardHandler)
	cache, err := objects.NewCache(config)
	if err != nil {
		t.Fatal(err)
	}
	instances, held := objects.For[*kubevirtv1.VirtualMachineInstance](cache), claims.NewCache(cache, config.Logger)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); cache.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := errors.Join(instances.WaitForSync(ctx), held.WaitForSync(ctx)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		host string
		err  error
	}{
		"claimed": {"here", nil}, "waiting": {"", fault.NotRunning}, "ended": {"", fault.NotRunning}, "unknown": {"", fault.NotFound},
	} {
		if host, err := HostOf(instances, held)(ctx, "ns", name); host != want.host || !errors.Is(err, want.err) {
			t.Errorf("%s: host %q, %v; want %q, %v", name, host, err, want.host, want.err)
		}
	}
}
