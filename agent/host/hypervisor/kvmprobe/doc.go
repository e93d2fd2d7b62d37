// Package kvmprobe finds out whether guests really run with KVM on this host.
//
// That /dev/kvm opens is not enough. Where the host is itself a guest, of a hypervisor
// that offers no hardware virtualization to its guests, KVM may be there and execute
// each of the guest's instructions in software, thousands of times slower than QEMU's
// own emulation: firmware takes a minute, and a kernel seems to hang. So the probe
// runs something. A payload in place of the firmware goes through real, protected and
// long mode, with paging and the local APIC's timer, and executes eleven million
// instructions on the way: some milliseconds of work with KVM that works, a quarter of
// a second for QEMU's emulation, and a minute or more where instructions are
// interpreted one by one. Each stage has a deadline that leaves room for a host so busy
// that the probe gets a hundredth of a CPU.
//
// What it does not show: that nested guests, large guests or many CPUs work.
package kvmprobe
