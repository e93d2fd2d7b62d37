package reviews

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// resourceRequest returns a request of a user for what a review names. A part of a selector that
// cannot be read is left out, which makes the request wider, and is its parsing error.
func resourceRequest(u user.Info, res *authorizationv1.ResourceAttributes) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{
		User: u, ResourceRequest: true, Verb: res.Verb, Namespace: res.Namespace,
		APIGroup: res.Group, APIVersion: cmp.Or(res.Version, "*"), Resource: res.Resource, Subresource: res.Subresource, Name: res.Name,
	}
	if s := res.LabelSelector; s != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(s)
	}
	if s := res.FieldSelector; s != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(s)
	}
	return a
}

func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if len(s.Requirements) == 0 {
		selector, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := selector.Requirements()
		return requirements, nil
	}
	var out labels.Requirements
	var errs []error
	for _, r := range s.Requirements {
		selector, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{r}})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		requirements, _ := selector.Requirements()
		out = append(out, requirements...)
	}
	return out, utilerrors.NewAggregate(errs)
}

func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if len(s.Requirements) == 0 {
		selector, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return selector.Requirements(), nil
	}
	operators := map[metav1.FieldSelectorOperator]selection.Operator{
		metav1.FieldSelectorOpIn: selection.Equals, metav1.FieldSelectorOpNotIn: selection.NotEquals,
	}
	var out fields.Requirements
	var errs []error
	for _, r := range s.Requirements {
		operator, known := operators[r.Operator]
		if !known || len(r.Values) != 1 {
			errs = append(errs, fmt.Errorf("field %s: want In or NotIn with one value, not %s with %d", r.Key, r.Operator, len(r.Values)))
			continue
		}
		out = append(out, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
	}
	return out, utilerrors.NewAggregate(errs)
}

// evaluationError says what went wrong in a decision, and which selectors were not understood.
func evaluationError(err error, a authorizer.AttributesRecord) string {
	var words []string
	if err != nil {
		words = append(words, err.Error())
	}
	note := func(name string, used int, err error) {
		switch {
		case err != nil && used > 0:
			words = append(words, "spec.resourceAttributes."+name+" partially ignored due to parse error")
		case err != nil:
			words = append(words, "spec.resourceAttributes."+name+" ignored due to parse error")
		}
	}
	note("fieldSelector", len(a.FieldSelectorRequirements), a.FieldSelectorParsingErr)
	note("labelSelector", len(a.LabelSelectorRequirements), a.LabelSelectorParsingErr)
	return strings.Join(words, "; ")
}

// checkSelectors returns what is wrong with the form of the selectors of a review.
func checkSelectors(path *field.Path, res *authorizationv1.ResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	if s := res.FieldSelector; s != nil {
		operators := []metav1.FieldSelectorOperator{metav1.FieldSelectorOpIn, metav1.FieldSelectorOpNotIn, metav1.FieldSelectorOpExists, metav1.FieldSelectorOpDoesNotExist}
		at := path.Child("fieldSelector")
		errs = append(errs, checkForm(at, s.RawSelector, len(s.Requirements))...)
		for i, r := range s.Requirements {
			takesValues := slices.Contains(operators[:2], r.Operator)
			errs = append(errs, checkRequirement(at.Child("requirements").Index(i), r.Key, len(r.Values), takesValues, slices.Contains(operators[2:], r.Operator))...)
		}
	}
	if s := res.LabelSelector; s != nil {
		operators := []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}
		at := path.Child("labelSelector")
		errs = append(errs, checkForm(at, s.RawSelector, len(s.Requirements))...)
		for i, r := range s.Requirements {
			takesValues := slices.Contains(operators[:2], r.Operator)
			errs = append(errs, checkRequirement(at.Child("requirements").Index(i), r.Key, len(r.Values), takesValues, slices.Contains(operators[2:], r.Operator))...)
		}
	}
	return errs
}

// checkForm requires either a selector as text or its requirements.
func checkForm(path *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}

// checkRequirement checks one requirement. Operators that neither take values nor go without may
// be those of a newer client, and are left to who decides.
func checkRequirement(path *field.Path, key string, values int, takesValues, takesNone bool) field.ErrorList {
	var errs field.ErrorList
	if key == "" {
		errs = append(errs, field.Required(path.Child("key"), "must be specified"))
	}
	if takesValues && values == 0 {
		errs = append(errs, field.Required(path.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
	}
	if takesNone && values > 0 {
		errs = append(errs, field.Forbidden(path.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
	}
	return errs
}
