package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// quarantined returns why an instance may not start yet after a recovery of the mesh, or
// "". A host in quarantine may run any machine that existed when the recovered copy was
// made, whatever the copy says about it: the lost part of the mesh may have started,
// stopped and moved machines since. Whether a machine existed then is told by the
// revision at which its record was created. The copy of this host knows who is in
// quarantine, because only a host with the recovered state runs this, and none is added.
func (c *Controller) quarantined(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (string, error) {
	missing := c.cfg.Claims.Quarantine()
	if len(missing) == 0 {
		return "", nil
	}
	key := objects.KeyOf(vmi)
	old := false
	for _, storeKey := range []string{
		objects.KindFor[*kubevirtv1.VirtualMachineInstance]().StoreKey(key), objects.KindFor[*kubevirtv1.VirtualMachine]().StoreKey(key),
	} {
		rec, _, err := c.cfg.Store.Get(ctx, storeKey, raftstore.ReadOptions{Consistency: raftstore.Local})
		if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
			return "", fmt.Errorf("find out whether it existed before the mesh was recovered: %w", err)
		}
		old = old || err == nil && rec.CreateRevision <= missing[0].Began
	}
	if !old {
		return "", nil
	}
	hosts := make([]string, len(missing))
	for i, q := range missing {
		hosts[i] = q.Host
	}
	return fmt.Sprintf("the mesh was recovered from a copy, and this machine may still run on %s: "+
		"it starts when each of these hosts has the recovered state (virtmesh agent resync) or was removed (virtmesh node remove)",
		strings.Join(hosts, ", ")), nil
}
