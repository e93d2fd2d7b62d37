// Package raise is the steward of the mesh's feature level. Where the MeshConfig says
// "Automatic", it raises the level once every host of the mesh has known a higher one for
// ten minutes. The wait leaves time to see that an upgrade goes wrong: after a raise no
// host can go back to the version of before. Where a raise is held up, an event of the
// MeshConfig says by whom.
//
// The steward only chooses the moment. Whether the raise is safe is checked again by
// whoever carries it out, which asks every host (raftstore.Store.RaiseFeatureLevel).
package raise
