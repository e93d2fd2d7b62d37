package vm

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// full is a store in which a quota allows no instance, while it is on.
type full struct {
	objects.Store
	on atomic.Bool
}

func (f *full) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	kind := kinds.For[*kubevirtv1.VirtualMachineInstance]()
	for _, op := range t.Ops {
		if name, ok := kind.ParseKey(op.Key); ok && f.on.Load() {
			return raftstore.TxnResult{}, apierrors.NewForbidden(kind.GroupResource(), name.Name, errors.New("exceeded quota: q"))
		}
	}
	return f.Store.Commit(ctx, t)
}

func failureOf(vm *kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineCondition {
	for i, c := range vm.Status.Conditions {
		if c.Type == kubevirtv1.VirtualMachineFailure && c.Status == corev1.ConditionTrue {
			return &vm.Status.Conditions[i]
		}
	}
	return nil
}

// A machine whose instance a quota refuses says so, writes no more than that, and starts when there
// is room.
func TestAMachineSaysWhyItsInstanceIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var quota *full
		b := setUp(t, func(c *Config) {
			quota = &full{Store: c.Store}
			quota.on.Store(true)
			c.Store = quota
		})
		defer b.stop()
		b.create(kubevirtv1.RunStrategyAlways)
		time.Sleep(time.Minute)
		failure := failureOf(b.vm())
		if failure == nil || failure.Reason != reasonCreateFailed || !strings.Contains(failure.Message, `"web" is forbidden: exceeded quota: q`) {
			t.Errorf("the machine says %+v", failure)
		}
		before := b.vm().ResourceVersion
		time.Sleep(time.Hour)
		if now := b.vm().ResourceVersion; now != before || b.vmi() != nil {
			t.Errorf("written again, from %s to %s", before, now)
		}
		quota.on.Store(false)
		time.Sleep(time.Hour)
		if b.vmi() == nil || failureOf(b.vm()) != nil {
			t.Errorf("with room, the machine is %+v", b.vm().Status)
		}
	})
}
