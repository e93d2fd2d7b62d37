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

// maxBody bounds the body of a request; all are a few fields.
const maxBody = 1 << 20

// Config is what the subresources work on.
type Config struct {
	Objects   Objects
	Instances guests.Instances
}

// Storage returns what serves each subresource, by its path below the namespace.
func Storage(c Config) map[string]rest.Storage {
	p := power{c.Objects}
	i := instances{objects: c.Objects, hosts: c.Instances}
	return map[string]rest.Storage{
		"virtualmachines":         parent{of: vmKind},
		"virtualmachines/start":   put(vmKind, p.start),
		"virtualmachines/stop":    put(vmKind, p.stop),
		"virtualmachines/restart": put(vmKind, p.restart),
		"virtualmachines/migrate": put(vmKind, p.migrate),

		"virtualmachineinstances":                parent{of: vmiKind},
		"virtualmachineinstances/pause":          put(vmiKind, i.pause),
		"virtualmachineinstances/unpause":        put(vmiKind, i.unpause),
		"virtualmachineinstances/guestosinfo":    get(vmiKind, i.osInfo),
		"virtualmachineinstances/userlist":       get(vmiKind, i.users),
		"virtualmachineinstances/filesystemlist": get(vmiKind, i.filesystems),
		"virtualmachineinstances/console":        stream(i, guests.Console),
		"virtualmachineinstances/vnc":            stream(i, guests.VNC),
	}
}

// Streams are the subresources that last as long as their client likes.
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

// parent stands for the resource that subresources need above them. It has no
// verbs of its own.
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

// serveFunc answers one request about an instance or machine. An error it returns
// becomes the response.
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

// put serves an act with options, which are in the body or left out.
func put[T any](of owner, act func(ctx context.Context, namespace, name string, opts *T) error) rest.Storage {
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

// get serves a question, answered in JSON.
func get(of owner, ask func(ctx context.Context, namespace, name string) (any, error)) rest.Storage {
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
		_, _ = w.Write(body) // an error here is the client's going away
		return nil
	}}
}
