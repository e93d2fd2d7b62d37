package subresources

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/json"

	machine "virtmesh/agent/vmi"
)

// instancetypeGroup is KubeVirt's group of instance types and preferences.
const instancetypeGroup = "instancetype.kubevirt.io"

// expand refuses a machine that names an instance type or a preference: they are stored, and
// nothing writes them out yet. A machine without either is expanded as it is.
func expand(vm *kubevirtv1.VirtualMachine) error {
	refuse := func(kind, ofCluster, name string) error {
		if kind == "" {
			kind = ofCluster
		}
		gr := metav1.GroupKind{Group: instancetypeGroup, Kind: kind}
		return fmt.Errorf("%s %q cannot be written out: %s", gr.String(), name, machine.InstancetypesAreNotApplied)
	}
	if t := vm.Spec.Instancetype; t != nil {
		return refuse(t.Kind, "VirtualMachineClusterInstancetype", t.Name)
	}
	if p := vm.Spec.Preference; p != nil {
		return refuse(p.Kind, "VirtualMachineClusterPreference", p.Name)
	}
	return nil
}

// expandStored answers with a stored machine.
func (i instances) expandStored(ctx context.Context, namespace, name string) (any, error) {
	vm, err := i.objects.VirtualMachine(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if err := expand(vm); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	vm.SetGroupVersionKind(vmKind.gvk)
	return vm, nil
}

// IsExpansion reports whether a request is to expand a machine that it brings along. Such a
// request belongs to a namespace and to no object, for which the library has no place;
// ServeExpansion serves it.
func IsExpansion(r *http.Request) bool {
	info, ok := genericapirequest.RequestInfoFrom(r.Context())
	return ok && info.IsResourceRequest && info.APIGroup == GroupVersion.Group && info.APIVersion == GroupVersion.Version &&
		info.Resource == expandVMSpec && len(info.Parts) == 1 && info.Namespace != ""
}

// ServeExpansion answers such a request. An error, which is one of the API, becomes the
// response.
func ServeExpansion(w http.ResponseWriter, r *http.Request) error {
	info, _ := genericapirequest.RequestInfoFrom(r.Context())
	if r.Method != http.MethodPut {
		return apierrors.NewMethodNotSupported(GroupVersion.WithResource(expandVMSpec).GroupResource(), info.Verb)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", long.Limit))
	case err != nil:
		return apierrors.NewBadRequest(err.Error())
	case len(body) == 0:
		return apierrors.NewBadRequest("empty request body")
	}
	vm := &kubevirtv1.VirtualMachine{}
	unfit, err := json.UnmarshalStrict(body, vm)
	if err != nil {
		return apierrors.NewBadRequest("Can not unmarshal Request body to struct, error: " + err.Error())
	}
	if vm.Kind != "" && vm.GroupVersionKind() != vmKind.gvk {
		unfit = append(unfit, fmt.Errorf("the object is a %s", vm.GroupVersionKind()))
	}
	if len(unfit) > 0 {
		refusal := apierrors.NewBadRequest("Object is not a valid VirtualMachine")
		refusal.ErrStatus.Details = &metav1.StatusDetails{}
		for _, err := range unfit {
			refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{Message: err.Error()})
		}
		return refusal
	}
	if vm.Namespace != "" && vm.Namespace != info.Namespace {
		return apierrors.NewBadRequest("VM namespace must be empty or " + info.Namespace)
	}
	vm.Namespace = info.Namespace
	if err := expand(vm); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	vm.SetGroupVersionKind(vmKind.gvk)
	return writeAnswer(w, vm)
}
