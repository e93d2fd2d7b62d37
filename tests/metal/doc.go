// Package metal tests virtmesh on hosts that are whole machines: Debian with its own
// kernel, systemd, AppArmor and libvirtd, started by 'virtmesh lab up --metal'. What the
// lab of namespaces shows as well is tested there, in less time; here belongs what needs
// a package installed, a service manager, a power cut, or a kernel of the host's own.
//
// The tests are behind the build tag metal. With -short they are those that CI runs, on
// one host. The lab's directory keeps the images of hosts and guests between runs.
package metal
