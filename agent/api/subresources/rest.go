package subresources

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/port/guests"
)

// maxBody bounds the body of a request; all bodies have only a few fields.
const maxBody = 1 << 20

// Config holds what the subresources need.
type Config struct {
	Objects   Objects
	Instances guests.Instances
}

// Storage returns the storage of each subresource, by its path below the namespace.
func Storage(c Config) map[string]rest.Storage {
	p := power{c.Objects}
	i := instances{objects: c.Objects, hosts: c.Instances}
	return map[string]rest.Storage{
		"virtualmachines":         parent{of: vmKind},
		"virtualmachines/start":   putAction(vmKind, p.startVM),
		"virtualmachines/stop":    putAction(vmKind, p.stopVM),
		"virtualmachines/restart": putAction(vmKind, p.restartVM),
		"virtualmachines/migrate": putAction(vmKind, p.migrateVM),

		"virtualmachineinstances":                parent{of: vmiKind},
		"virtualmachineinstances/pause":          putAction(vmiKind, i.pauseGuest),
		"virtualmachineinstances/unpause":        putAction(vmiKind, i.unpauseGuest),
		"virtualmachineinstances/guestosinfo":    getAnswer(vmiKind, i.guestOSInfo),
		"virtualmachineinstances/userlist":       getAnswer(vmiKind, i.guestUsers),
		"virtualmachineinstances/filesystemlist": getAnswer(vmiKind, i.guestFilesystems),
		"virtualmachineinstances/console":        serveStream(i, guests.Console),
		"virtualmachineinstances/vnc":            serveStream(i, guests.VNC),
	}
}

// Streams returns the names of the subresources whose requests last as long as the
// client wants.
func Streams() []string { return []string{string(guests.Console), string(guests.VNC)} }

// owner is the kind that a subresource belongs to.
type owner struct {
	gvk      schema.GroupVersionKind
	singular string
	newFunc  func() runtime.Object
}

var (
	vmKind = owner{kubevirtv1.VirtualMachineGroupVersionKind, "virtualmachine",
		func() runtime.Object { return &kubevirtv1.VirtualMachine{} }}
	vmiKind = owner{kubevirtv1.VirtualMachineInstanceGroupVersionKind, "virtualmachineinstance",
		func() runtime.Object { return &kubevirtv1.VirtualMachineInstance{} }}
)

// parent is the resource to which subresources belong; the library requires it. It has
// no verbs.
type parent struct{ of owner }

var (
	_ rest.Storage                  = parent{}
	_ rest.Scoper                   = parent{}
	_ rest.SingularNameProvider     = parent{}
	_ rest.GroupVersionKindProvider = parent{}
)

// New implements rest.Storage.
func (p parent) New() runtime.Object { return p.of.newFunc() }

// Destroy implements rest.Storage.
func (p parent) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (p parent) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (p parent) GetSingularName() string { return p.of.singular }

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (p parent) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind { return p.of.gvk }

// serveFunc answers one request about an instance or virtual machine. If it returns an
// error, the error becomes the response.
type serveFunc func(w http.ResponseWriter, r *http.Request, namespace, name string) error

// connecter serves one subresource.
type connecter struct {
	parent
	method string
	serve  serveFunc
}

var _ rest.Connecter = connecter{}

// ConnectMethods implements rest.Connecter.
func (c connecter) ConnectMethods() []string { return []string{c.method} }

// NewConnectOptions implements rest.Connecter.
func (c connecter) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

// Connect implements rest.Connecter.
func (c connecter) Connect(ctx context.Context, name string, _ runtime.Object, responder rest.Responder) (http.Handler, error) {
	namespace, ok := genericapirequest.NamespaceFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("the request names no namespace")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.serve(w, r.WithContext(ctx), namespace, name); err != nil {
			responder.Error(err)
		}
	}), nil
}

// putAction serves an action whose options are in the request body, which may be empty.
func putAction[T any](of owner, act func(ctx context.Context, namespace, name string, opts *T) error) rest.Storage {
	return connecter{parent{of}, http.MethodPut, func(w http.ResponseWriter, r *http.Request, namespace, name string) error {
		opts := new(T)
		err := yaml.NewYAMLOrJSONDecoder(http.MaxBytesReader(w, r.Body, maxBody), 1024).Decode(opts)
		if err != nil && !errors.Is(err, io.EOF) {
			return apierrors.NewBadRequest("Can not unmarshal Request body to struct, error: " + err.Error())
		}
		if err := act(r.Context(), namespace, name, opts); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}}
}

// getAnswer serves a query, answered in JSON.
func getAnswer(of owner, ask func(ctx context.Context, namespace, name string) (any, error)) rest.Storage {
	return connecter{parent{of}, http.MethodGet, func(w http.ResponseWriter, r *http.Request, namespace, name string) error {
		answer, err := ask(r.Context(), namespace, name)
		if err != nil {
			return err
		}
		body, err := json.Marshal(answer)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		w.Header().Set("Content-Type", runtime.ContentTypeJSON)
		_, _ = w.Write(body) // fails only when the client has disconnected
		return nil
	}}
}
