// Package e2e drives the real binary in a lab of its own: real agents, real
// libvirt, real guests. Its tests are built with the tag e2e and need root;
// 'make e2e' runs them.
//
// One lab of three hosts serves all tests, one after the other. A test that
// kills or cuts a host heals it again, and removes what it created.
package e2e
