//go:build !race

package gossip_test

// smallMeshes is set where large meshes take minutes.
const smallMeshes = false
