// Package kvmprobe finds out whether guests really run with KVM on this host.
//
// It is not enough that /dev/kvm can be opened. If the host is itself a guest, and its
// hypervisor offers no hardware virtualization to guests, KVM may exist and yet execute
// every instruction of the guest in software, thousands of times slower than QEMU's own
// emulation: firmware takes a minute, and a kernel seems to hang. So the probe runs a
// test guest. Its payload, which takes the place of the firmware, goes through real,
// protected and long mode, uses paging and the timer of the local APIC, and executes
// eleven million instructions. That takes some milliseconds with working KVM, a quarter
// of a second with QEMU's emulation, and a minute or more where instructions are
// interpreted one by one. Each stage has a deadline that is long enough even on a host
// so busy that the probe gets a hundredth of a CPU.
//
// The probe does not show that nested guests, large guests or guests with many CPUs
// work.
package kvmprobe
