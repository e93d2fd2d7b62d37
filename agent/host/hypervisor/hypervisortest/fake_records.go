package hypervisortest

import (
	"context"
	"strings"

	"virtmesh/agent/host/hypervisor"
)

// SetRecord implements hypervisor.Recorder.
func (f *Fake) SetRecord(ctx context.Context, ref hypervisor.Ref, name, value string) error {
	return f.on(ctx, "SetRecord", ref, func(_ *Machine, d *fakeDomain) error {
		records, err := hypervisor.WithRecord(d.records, name, value)
		if err != nil {
			return err
		}
		d.records = records
		return nil
	})
}

// SetOwner implements hypervisor.Recorder.
func (f *Fake) SetOwner(ctx context.Context, owner hypervisor.Owner) error {
	return f.on(ctx, "SetOwner", owner.Ref, func(_ *Machine, d *fakeDomain) error {
		d.xml = strings.Replace(d.xml, d.owner.Metadata(), owner.Metadata(), 1)
		d.owner = owner
		return nil
	})
}
