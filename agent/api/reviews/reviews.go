package reviews

import (
	"context"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// AddToScheme registers the types of the reviews in s. The served version is also the
// internal version.
func AddToScheme(s *runtime.Scheme) error {
	for gv, objects := range map[schema.GroupVersion][]runtime.Object{
		authenticationv1.SchemeGroupVersion: {&authenticationv1.SelfSubjectReview{}, &authenticationv1.TokenReview{}, &authenticationv1.TokenRequest{}},
		authorizationv1.SchemeGroupVersion: {&authorizationv1.SelfSubjectAccessReview{},
			&authorizationv1.SelfSubjectRulesReview{}, &authorizationv1.SubjectAccessReview{}, &authorizationv1.LocalSubjectAccessReview{}},
	} {
		s.AddKnownTypes(gv, objects...)
		s.AddKnownTypes(schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}, objects...)
		metav1.AddToGroupVersion(s, gv)
		if err := s.SetVersionPriority(gv); err != nil {
			return err
		}
	}
	return nil
}

// Rights decide what a user may do, and list it.
type Rights interface {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// Storage returns the storage of the reviews, by group and resource. Reviews of tokens are answered
// by clients, which authenticates requests.
func Storage(a Rights, clients authenticator.Request) map[schema.GroupVersion]map[string]rest.Storage {
	return map[schema.GroupVersion]map[string]rest.Storage{
		authenticationv1.SchemeGroupVersion: {
			"selfsubjectreviews": &review[*authenticationv1.SelfSubjectReview]{singular: "selfsubjectreview",
				new: func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }, answer: whoAmI},
			"tokenreviews": &review[*authenticationv1.TokenReview]{singular: "tokenreview",
				new: func() runtime.Object { return &authenticationv1.TokenReview{} }, answer: tokenJudge{clients}.reviewToken},
		},
		authorizationv1.SchemeGroupVersion: {
			"selfsubjectaccessreviews": &review[*authorizationv1.SelfSubjectAccessReview]{singular: "selfsubjectaccessreview",
				new: func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, answer: judge{a}.reviewSelf},
			"selfsubjectrulesreviews": &review[*authorizationv1.SelfSubjectRulesReview]{singular: "selfsubjectrulesreview",
				new: func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }, answer: judge{a}.listRules},
			"subjectaccessreviews": &review[*authorizationv1.SubjectAccessReview]{singular: "subjectaccessreview",
				new: func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, answer: judge{a}.reviewSubject},
			"localsubjectaccessreviews": &review[*authorizationv1.LocalSubjectAccessReview]{singular: "localsubjectaccessreview", namespaced: true,
				new: func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }, answer: judge{a}.reviewLocalSubject},
		},
	}
}

// review serves one kind of review: a create request returns the answer.
type review[T runtime.Object] struct {
	singular   string
	namespaced bool
	new        func() runtime.Object
	answer     func(ctx context.Context, review T) error
}

var (
	_ rest.Creater              = (*review[*authenticationv1.SelfSubjectReview])(nil)
	_ rest.Scoper               = (*review[*authenticationv1.SelfSubjectReview])(nil)
	_ rest.SingularNameProvider = (*review[*authenticationv1.SelfSubjectReview])(nil)
)

// New implements rest.Storage.
func (r *review[T]) New() runtime.Object { return r.new() }

// Destroy implements rest.Storage.
func (r *review[T]) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (r *review[T]) NamespaceScoped() bool { return r.namespaced }

// GetSingularName implements rest.SingularNameProvider.
func (r *review[T]) GetSingularName() string { return r.singular }

// Create implements rest.Creater.
func (r *review[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	question, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewBadRequest("not a " + r.singular)
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return obj, r.answer(ctx, question)
}

// clientOf returns the user that makes the request.
func clientOf(ctx context.Context) (user.Info, error) {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("the request has no user"))
	}
	return u, nil
}

func whoAmI(ctx context.Context, r *authenticationv1.SelfSubjectReview) error {
	u, err := clientOf(ctx)
	if err != nil {
		return err
	}
	r.Status.UserInfo = infoOf(u)
	return nil
}

// infoOf describes a user.
func infoOf(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// judge answers what a user may do.
type judge struct{ rights Rights }

func (j judge) reviewSelf(ctx context.Context, r *authorizationv1.SelfSubjectAccessReview) error {
	u, err := clientOf(ctx)
	if err != nil {
		return err
	}
	r.Status, err = j.authorizeReview(ctx, "SelfSubjectAccessReview", u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return err
}

// listRules lists what the client may do in a namespace.
func (j judge) listRules(ctx context.Context, r *authorizationv1.SelfSubjectRulesReview) error {
	u, err := clientOf(ctx)
	if err != nil {
		return err
	}
	if r.Spec.Namespace == "" {
		return invalidReview("SelfSubjectRulesReview", field.Required(field.NewPath("spec", "namespace"), ""))
	}
	resources, paths, incomplete, err := j.rights.RulesFor(ctx, u, r.Spec.Namespace)
	r.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete,
	}
	if err != nil {
		r.Status.EvaluationError = err.Error()
	}
	for _, rule := range resources {
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
		})
	}
	for _, rule := range paths {
		r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs(),
		})
	}
	return nil
}

func (j judge) reviewSubject(ctx context.Context, r *authorizationv1.SubjectAccessReview) error {
	var err error
	r.Status, err = j.authorizeReview(ctx, "SubjectAccessReview", subjectOf(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return err
}

func (j judge) reviewLocalSubject(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) error {
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		return invalidReview("LocalSubjectAccessReview", field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	var err error
	r.Status, err = j.authorizeReview(ctx, "LocalSubjectAccessReview", subjectOf(r.Spec), r.Spec.ResourceAttributes, nil)
	return err
}

// subjectOf returns the user that a review asks about.
func subjectOf(spec authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for key, values := range spec.Extra {
		u.Extra[key] = values
	}
	return u
}

func (j judge) authorizeReview(ctx context.Context, kind string, u user.Info, res *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	var status authorizationv1.SubjectAccessReviewStatus
	attributes := authorizer.AttributesRecord{User: u}
	switch {
	case (res == nil) == (path == nil):
		return status, invalidReview(kind, field.Required(field.NewPath("spec", "resourceAttributes"), "exactly one of resourceAttributes and nonResourceAttributes must be set"))
	case u.GetName() == "" && len(u.GetGroups()) == 0:
		return status, invalidReview(kind, field.Required(field.NewPath("spec", "user"), "at least one of user and groups must be set"))
	case path != nil:
		attributes.Verb, attributes.Path = path.Verb, path.Path
	default:
		if errs := checkSelectors(field.NewPath("spec", "resourceAttributes"), res); len(errs) > 0 {
			return status, invalidReview(kind, errs...)
		}
		attributes = resourceRequest(u, res)
	}
	decision, reason, err := j.rights.Authorize(ctx, attributes)
	status.Allowed, status.Denied, status.Reason = decision == authorizer.DecisionAllow, decision == authorizer.DecisionDeny, reason
	status.EvaluationError = evaluationError(err, attributes)
	return status, nil
}

func invalidReview(kind string, errs ...*field.Error) error {
	return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
}
