// Package hypervisortest tests the contract of package hypervisor. Run is the suite
// that every implementation must pass. Fake is an implementation in memory, for the
// tests of packages that use the contract. BootDisk is the guest that the suite runs;
// it is small enough to boot in a second without KVM.
//
// It is for tests only.
package hypervisortest
