// Package hypervisortest says by example what the contract of package hypervisor
// means: Run is the suite that every implementation passes, Fake is an implementation
// in memory for the tests of those who use the contract, and BootDisk is the guest
// that the suite runs, small enough to boot in a second without KVM.
//
// It is for tests only.
package hypervisortest
