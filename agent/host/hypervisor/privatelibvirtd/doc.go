// Package privatelibvirtd runs a complete libvirt of its own (virtlogd and
// libvirtd, with their sockets, state, configuration and logs in one directory)
// beside any other libvirt on the machine.
//
// The lab gives each of its hosts one; the tests of the libvirt driver run
// against one. On a production host the agent uses the system's libvirt and
// never imports this package.
//
// libvirt's paths are compiled in: qemu.conf is read from /etc/libvirt, the log
// daemon's socket is /run/libvirt/virtlogd-sock, guests' monitors live below
// /var/lib/libvirt. So two libvirts on one machine need different file systems
// at those paths, which is what Binds lists: directories of Config.Dir to be
// bind-mounted over the compiled-in ones. The caller chooses who mounts them:
//
//   - Config.Isolate false: the caller has already made the mounts in the mount
//     namespace it calls Start from (a lab host has one namespace for its
//     libvirt, its agent and its shell), for example by running MountScript.
//   - Config.Isolate true: each daemon is started in a mount namespace of its own
//     with the mounts made. The caller needs no namespace and reaches libvirt
//     through Instance.URI.
//
// Invariants: daemons listen on UNIX sockets only; the guests' processes run as
// Config.User; guests outlive Stop, a crash and a restart of the daemons, as they
// do with a packaged libvirt. The package does not stop guests, does not create
// namespaces other than mount namespaces, and needs neither systemd nor D-Bus.
package privatelibvirtd
