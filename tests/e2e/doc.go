// Package e2e drives the real binary in a lab of its own: real agents, real
// libvirt, real guests. Its tests are built with the tag e2e and need root;
// 'make e2e' runs them.
//
// One lab of three hosts serves all tests. A test that kills or cuts a host, or counts
// what the whole mesh does, has the lab for itself; it heals the host again. Tests that only
// look at machines of their own run beside each other after those: they wait for guests to
// boot and for timeouts. Every test works in a namespace of its own, and removes it.
package e2e
