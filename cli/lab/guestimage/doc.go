// Package guestimage builds the lab's guest images from Debian's own packages, on a
// machine that needs to reach only its configured apt sources.
//
//	tiny    Debian's cloud kernel and a static busybox in an initramfs, started by
//	        syslinux: about 17 MB. It boots in a few seconds even without KVM and
//	        runs in 96 MiB of memory. It has no package manager, no cloud-init and
//	        no guest agent; tiny/init says what it does instead.
//	debian  Debian with systemd, cloud-init and qemu-guest-agent.
//
// An image is built once per recipe and kept: its file name carries a digest of
// the recipe, a build is renamed into place only when it is whole, and builders
// of the same image wait for one another, in this process and in others. Nothing
// is mounted and no loop device is used, so a build runs in a container too; it
// does need root, because packages are unpacked with their owners.
//
// The package also packs any disk image as a container image, which KubeVirt calls a
// containerDisk, and pushes it. It does not run images and does not depend on a lab.
package guestimage
