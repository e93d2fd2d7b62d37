package tokens

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"virtmesh/agent/bearer"
	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Signer signs tokens, itself or by asking a host that can. Its methods may be called
// concurrently; SignToken may block on the network until its context ends.
type Signer interface {
	// TokenIssuer returns what the tokens name as their issuer.
	TokenIssuer() string
	// SignToken returns a token of an account that exists.
	SignToken(ctx context.Context, request bearer.Request) (bearer.Signed, error)
}

// REST serves the subresource "token" of service accounts: to create a TokenRequest is to get a
// token. Nothing is stored.
type REST struct {
	store  objects.Store
	signer Signer
	pace   *pace
}

var (
	_ rest.NamedCreater             = (*REST)(nil)
	_ rest.GroupVersionKindProvider = (*REST)(nil)
)

// NewREST returns the storage of the subresource.
func NewREST(cfg Config) *REST { return &REST{store: cfg.Store, signer: cfg.Signer, pace: newPace()} }

// New implements rest.Storage.
func (r *REST) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy implements rest.Storage.
func (r *REST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r *REST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create implements rest.NamedCreater.
func (r *REST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	asked, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	if err := placeRequest(asked, namespace, name); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if errs := validateRequest(&asked.Spec); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.GroupVersionKind(schema.GroupVersion{}).GroupKind(), name, errs)
	}
	leave, err := r.pace.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	account, err := r.account(ctx, namespace, name, asked.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	answer := asked.DeepCopy()
	answer.CreationTimestamp = metav1.Now()
	if len(answer.Spec.Audiences) == 0 {
		answer.Spec.Audiences = []string{r.signer.TokenIssuer()}
	}
	lifetime := min(time.Duration(*answer.Spec.ExpirationSeconds)*time.Second, bearer.MaxLifetime)
	if opts != nil && len(opts.DryRun) > 0 {
		return answer, nil
	}
	signed, err := r.signer.SignToken(ctx, bearer.Request{Account: account, Audiences: answer.Spec.Audiences, Lifetime: lifetime})
	if err != nil {
		return nil, fault.Of(err).StatusError(objects.KindFor[*corev1.ServiceAccount]().GroupResource(), name)
	}
	answer.Status = authenticationv1.TokenRequestStatus{Token: signed.Token, ExpirationTimestamp: metav1.NewTime(signed.Expires)}
	return answer, nil
}

// placeRequest fills in the name and the namespace of a request, which must be those of its path,
// and the lifetime if the request names none.
func placeRequest(asked *authenticationv1.TokenRequest, namespace, name string) error {
	for _, part := range []struct {
		is   *string
		want string
		what string
	}{{&asked.Name, name, "name"}, {&asked.Namespace, namespace, "namespace"}} {
		if *part.is == "" {
			*part.is = part.want
		}
		if *part.is != part.want {
			return apierrors.NewBadRequest(fmt.Sprintf("metadata.%s is %q, and the request is for the token of %q", part.what, *part.is, part.want))
		}
	}
	if asked.Spec.ExpirationSeconds == nil {
		seconds := int64(bearer.DefaultLifetime / time.Second)
		asked.Spec.ExpirationSeconds = &seconds
	}
	return nil
}

// validateRequest returns what is wrong with a request. A lifetime that is too long is none of it:
// as with Kubernetes, who asks for more than there is gets less, and reads in the answer how much.
func validateRequest(spec *authenticationv1.TokenRequestSpec) (errs field.ErrorList) {
	const minimum = int64(bearer.MinLifetime / time.Second)
	path := field.NewPath("spec")
	if s := *spec.ExpirationSeconds; s < minimum || s > math.MaxUint32 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), s, fmt.Sprintf("must be from %d to %d", minimum, uint32(math.MaxUint32))))
	}
	for i, audience := range spec.Audiences {
		if audience == "" {
			errs = append(errs, field.Required(path.Child("audiences").Index(i), "an audience has a name"))
		}
	}
	ref := spec.BoundObjectRef
	if ref == nil {
		return errs
	}
	path = path.Child("boundObjectRef")
	if ref.Kind != "Secret" || ref.APIVersion != "v1" && ref.APIVersion != "" {
		errs = append(errs, field.NotSupported(path.Child("kind"), ref.Kind, []string{"Secret"}))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	return errs
}

// account returns whose the token will be, by the objects that are there.
func (r *REST) account(ctx context.Context, namespace, name string, bound *authenticationv1.BoundObjectReference) (bearer.Account, error) {
	account := bearer.Account{Namespace: namespace}
	var err error
	if account.ServiceAccount, err = refTo[*corev1.ServiceAccount](ctx, r.store, namespace, name, ""); err != nil || bound == nil {
		return account, err
	}
	secret, err := refTo[*corev1.Secret](ctx, r.store, namespace, bound.Name, bound.UID)
	account.Secret = &secret
	return account, err
}

// refTo returns the reference to an object, which must have a UID unless that is empty.
func refTo[T objects.Object](ctx context.Context, store objects.Store, namespace, name string, uid types.UID) (bearer.Ref, error) {
	resource := objects.KindFor[T]().GroupResource()
	meta, err := objects.GetMeta[T](ctx, store, objects.Key{Namespace: namespace, Name: name}, raftstore.ReadOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return bearer.Ref{}, err
	case err != nil:
		return bearer.Ref{}, fault.Of(err).StatusError(resource, name)
	case meta.DeletionTimestamp != nil:
		return bearer.Ref{}, apierrors.NewConflict(resource, name, errors.New("it is being deleted"))
	case uid != "" && meta.UID != uid:
		return bearer.Ref{}, apierrors.NewConflict(resource, name, fmt.Errorf("its UID is %s, and the request names %s", meta.UID, uid))
	}
	return bearer.Ref{Name: name, UID: string(meta.UID)}, nil
}
