//go:build !race

package gossip_test

// smallMeshes is set in builds in which tests with large meshes take minutes.
const smallMeshes = false
