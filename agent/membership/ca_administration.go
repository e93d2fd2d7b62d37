package membership

import (
	"context"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/admin"
)

// CA implements admin.Mesh.
func (a administration) CA(context.Context) (*admin.CAStatus, error) {
	return nil, fault.New(fault.Conflict, "this version cannot replace the mesh's CA")
}

// RotateCA implements admin.Mesh.
func (a administration) RotateCA(context.Context, string, time.Duration) error {
	return fault.New(fault.Conflict, "this version cannot replace the mesh's CA")
}
