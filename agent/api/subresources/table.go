package subresources

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/guests"
)

// Config holds what the subresources need.
type Config struct {
	Objects   Objects
	Instances guests.Instances
}

// expandVMSpec is the resource that expands a virtual machine which a request brings along.
const expandVMSpec = "expand-vm-spec"

// table returns all subresources of KubeVirt.
func table(c Config) []subresource {
	const get, put = http.MethodGet, http.MethodPut
	p := power{c.Objects}
	i := instances{objects: c.Objects, hosts: c.Instances}
	g := graphs{c.Objects}
	later := func(of owner, method string, paths ...string) (list []subresource) {
		for _, path := range paths {
			list = append(list, subresource{of: of, path: path, method: method, serve: notYet(of, path)})
		}
		return list
	}
	return slices.Concat([]subresource{
		{of: vmKind, path: "start", method: put, serve: putAction(p.startVM)},
		{of: vmKind, path: "stop", method: put, serve: putAction(p.stopVM)},
		{of: vmKind, path: "restart", method: put, serve: putAction(p.restartVM)},
		{of: vmKind, path: "migrate", method: put, serve: putAction(p.migrateVM)},
		{of: vmKind, path: "expand-spec", method: get, serve: getAnswer(i.expandStored)},
		{of: vmKind, path: "objectgraph", method: get, serve: g.serveVM},
		{of: vmKind, path: "evacuate/cancel", method: put, serve: putAnswered(http.StatusOK, i.cancelVMEvacuation)},
		{of: vmKind, path: portForward, method: get, arguments: 2, serve: i.serveForward(i.instanceOfVM)},

		{of: vmiKind, path: "pause", method: put, serve: putAction(i.pauseGuest)},
		{of: vmiKind, path: "unpause", method: put, serve: putAction(i.unpauseGuest)},
		{of: vmiKind, path: "freeze", method: put, serve: putAction(i.freezeGuest)},
		{of: vmiKind, path: "unfreeze", method: put, serve: putAction(i.unfreezeGuest)},
		{of: vmiKind, path: "softreboot", method: put, serve: putAction(i.rebootGuest)},
		{of: vmiKind, path: "reset", method: put, serve: putAction(i.resetGuest)},
		{of: vmiKind, path: "evacuate/cancel", method: put, serve: putAnswered(http.StatusOK, i.cancelEvacuation)},
		{of: vmiKind, path: "guestosinfo", method: get, serve: getAnswer(i.guestOSInfo)},
		{of: vmiKind, path: "userlist", method: get, serve: getAnswer(i.guestUsers)},
		{of: vmiKind, path: "filesystemlist", method: get, serve: getAnswer(i.guestFilesystems)},
		{of: vmiKind, path: "objectgraph", method: get, serve: g.serveInstance},
		{of: vmiKind, path: "console", method: get, serve: i.serveConsole},
		{of: vmiKind, path: "vnc", method: get, serve: i.serveDisplay},
		{of: vmiKind, path: "vnc/screenshot", method: get, serve: i.serveScreenshot},
		{of: vmiKind, path: portForward, method: get, arguments: 2, serve: i.serveForward(i.storedInstance)},
	},
		later(vmKind, put, "addvolume", "removevolume", "memorydump", "removememorydump"),
		later(vmiKind, put, "addvolume", "removevolume", "backup", "redefine-checkpoint", "sev/setupsession", "sev/injectlaunchsecret"),
		later(vmiKind, get, "usbredir", "vsock", "sev/fetchcertchain", "sev/querylaunchmeasurement"),
	)
}

// notYet answers that a subresource is not implemented. It is registered all the same, so
// that a client learns what is missing, and not that there is no such machine.
func notYet(of owner, path string) serveFunc {
	return func(_ http.ResponseWriter, _ *http.Request, about target) error {
		return notImplemented(of.resource(), about.name, fmt.Sprintf("virtmesh does not implement the subresource %s of %s yet", path, of.resource()))
	}
}

// NoGuestFS answers the question for KubeVirt's image of libguestfs, which runs as a pod.
func NoGuestFS() error {
	return notImplemented("guestfs", "", "virtmesh runs no containers, and so no libguestfs beside a machine")
}

func notImplemented(resource, name, sentence string) error {
	return statusError(fault.Of(fault.NotImplemented), GroupVersion.WithResource(resource).GroupResource(), name, sentence)
}

// Storage returns the storage of the subresources, by their paths below the namespace.
// Subresources whose paths begin alike have one storage.
func Storage(c Config) map[string]rest.Storage {
	storage := map[string]rest.Storage{vmKind.resource(): parent{vmKind}, vmiKind.resource(): parent{vmiKind}}
	for _, s := range table(c) {
		first, _, _ := strings.Cut(s.path, "/")
		path := s.of.resource() + "/" + first
		with, _ := storage[path].(connecter)
		with.parent = parent{s.of}
		with.served = append(with.served, s)
		storage[path] = with
	}
	return storage
}

// Resources returns what discovery lists: KubeVirt's subresources by the names that roles
// use. The library lists a storage, and so only the first segment of a path.
func Resources() []metav1.APIResource {
	verbs := map[string]metav1.Verbs{http.MethodGet: {"get"}, http.MethodPut: {"update"}}
	list := []metav1.APIResource{{
		Name: expandVMSpec, Namespaced: true, Kind: vmKind.gvk.Kind, Group: vmKind.gvk.Group, Version: vmKind.gvk.Version, Verbs: verbs[http.MethodPut],
	}}
	for _, of := range []owner{vmKind, vmiKind} {
		list = append(list, metav1.APIResource{
			Name: of.resource(), SingularName: of.singular, Namespaced: true,
			Kind: of.gvk.Kind, Group: of.gvk.Group, Version: of.gvk.Version, Verbs: metav1.Verbs{},
		})
	}
	for _, s := range table(Config{}) {
		list = append(list, metav1.APIResource{
			Name: s.of.resource() + "/" + s.path, Namespaced: true,
			Kind: s.of.gvk.Kind, Group: s.of.gvk.Group, Version: s.of.gvk.Version, Verbs: verbs[s.method],
		})
	}
	slices.SortFunc(list, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Streams returns the names of the subresources whose requests last as long as the
// client wants.
func Streams() []string { return []string{string(guests.Console), string(guests.VNC), portForward} }

// Resolver names subresources as KubeVirt's roles do. For the library the subresource of a
// request is the first segment after the object's name; some of KubeVirt's have two. What
// follows portforward, port and protocol, is no part of its name.
type Resolver struct {
	genericapirequest.RequestInfoResolver
}

// NewRequestInfo implements genericapirequest.RequestInfoResolver.
func (r Resolver) NewRequestInfo(req *http.Request) (*genericapirequest.RequestInfo, error) {
	info, err := r.RequestInfoResolver.NewRequestInfo(req)
	const resourceAndName = 2
	if err != nil || info.APIGroup != GroupVersion.Group || len(info.Parts) <= resourceAndName || info.Subresource == portForward {
		return info, err
	}
	info.Subresource = strings.Join(info.Parts[resourceAndName:], "/")
	return info, nil
}
