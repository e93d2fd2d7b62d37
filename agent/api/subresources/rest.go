package subresources

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// maxBody bounds the body of a request; all bodies have only a few fields.
const maxBody = 1 << 20

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

// resource is the plural name of the kind.
func (o owner) resource() string { return o.singular + "s" }

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

// target is what a request is about.
type target struct {
	namespace, name string
	// arguments are the segments of the path after that of the subresource.
	arguments []string
}

// serveFunc answers one request about an instance or virtual machine. If it returns an
// error, the error becomes the response.
type serveFunc func(w http.ResponseWriter, r *http.Request, about target) error

// subresource is one subresource of a kind.
type subresource struct {
	of owner
	// path is its path below the object, of one segment or two.
	path   string
	method string
	// arguments is how many segments may follow the path.
	arguments int
	serve     serveFunc
}

// connecter serves the subresources of a kind whose paths have the same first segment.
type connecter struct {
	parent
	served []subresource
}

var _ rest.Connecter = connecter{}

// ConnectMethods implements rest.Connecter.
func (c connecter) ConnectMethods() []string {
	var methods []string
	for _, s := range c.served {
		methods = append(methods, s.method)
	}
	slices.Sort(methods)
	return slices.Compact(methods)
}

// NewConnectOptions implements rest.Connecter. Options are read by those who serve.
func (c connecter) NewConnectOptions() (options runtime.Object, hasSubpath bool, subpathKey string) {
	for _, s := range c.served {
		hasSubpath = hasSubpath || s.arguments > 0 || strings.Contains(s.path, "/")
	}
	return nil, hasSubpath, "path"
}

// Connect implements rest.Connecter.
func (c connecter) Connect(ctx context.Context, name string, _ runtime.Object, responder rest.Responder) (http.Handler, error) {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	namespace, named := genericapirequest.NamespaceFrom(ctx)
	if !ok || !named {
		return nil, apierrors.NewBadRequest("the request names no namespace")
	}
	found, arguments, err := c.find(info, name)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := found.serve(w, r.WithContext(ctx), target{namespace, name, arguments}); err != nil {
			responder.Error(err)
		}
	}), nil
}

// find returns the subresource that a request names, and the arguments in its path.
func (c connecter) find(info *genericapirequest.RequestInfo, name string) (subresource, []string, error) {
	const resourceAndName = 2
	named := info.Parts[min(resourceAndName, len(info.Parts)):]
	otherMethod := false
	for _, s := range c.served {
		path := strings.Split(s.path, "/")
		if len(named) < len(path) || len(named) > len(path)+s.arguments || !slices.Equal(path, named[:len(path)]) {
			continue
		}
		if s.method == requestMethod(info) {
			return s, named[len(path):], nil
		}
		otherMethod = true
	}
	gr := GroupVersion.WithResource(c.of.resource() + "/" + strings.Join(named, "/")).GroupResource()
	if otherMethod {
		return subresource{}, nil, apierrors.NewMethodNotSupported(gr, info.Verb)
	}
	return subresource{}, nil, apierrors.NewNotFound(gr, name)
}

// requestMethod returns the HTTP method of a request, of those that subresources have.
func requestMethod(info *genericapirequest.RequestInfo) string {
	if info.Verb == "update" {
		return http.MethodPut
	}
	return http.MethodGet
}

// putAction serves an action whose options are in the request body, which may be empty.
func putAction[T any](act func(ctx context.Context, namespace, name string, opts *T) error) serveFunc {
	return putAnswered(http.StatusAccepted, act)
}

// putAnswered is putAction with another status for success.
func putAnswered[T any](status int, act func(ctx context.Context, namespace, name string, opts *T) error) serveFunc {
	return func(w http.ResponseWriter, r *http.Request, about target) error {
		opts := new(T)
		if err := readOptions(w, r, opts); err != nil {
			return err
		}
		if err := act(r.Context(), about.namespace, about.name, opts); err != nil {
			return err
		}
		w.WriteHeader(status)
		return nil
	}
}

// readOptions reads the body of a request, which may be empty, into opts.
func readOptions(w http.ResponseWriter, r *http.Request, opts any) error {
	err := yaml.NewYAMLOrJSONDecoder(http.MaxBytesReader(w, r.Body, maxBody), 1024).Decode(opts)
	if err != nil && !errors.Is(err, io.EOF) {
		return apierrors.NewBadRequest("Can not unmarshal Request body to struct, error: " + err.Error())
	}
	return nil
}

// getAnswer serves a query, answered in JSON.
func getAnswer(ask func(ctx context.Context, namespace, name string) (any, error)) serveFunc {
	return func(w http.ResponseWriter, r *http.Request, about target) error {
		answer, err := ask(r.Context(), about.namespace, about.name)
		if err != nil {
			return err
		}
		return writeAnswer(w, answer)
	}
}

func writeAnswer(w http.ResponseWriter, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	_, _ = w.Write(body) // fails only when the client has disconnected
	return nil
}
