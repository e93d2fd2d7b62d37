package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// maxAnswer bounds how many bytes of an answer Read reads.
const maxAnswer = 64 << 10

// retryAfterSeconds is the Retry-After value of an answer that something is
// unavailable, or that there is too much of it.
const retryAfterSeconds = 1

// Types of the causes that carry the parts of a fault for which a Status has no field.
// The field of the first cause is the fault's Field.
const (
	causeCode   metav1.CauseType = "virtmesh.io/"
	causeRemedy metav1.CauseType = "virtmesh.io/remedy"
)

// Status returns f as an answer of the Kubernetes API.
func (f *Fault) Status() metav1.Status {
	class := classOf(f.Code)
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Reason: class.reason, Code: int32(class.status), Message: f.Error(),
		Details: &metav1.StatusDetails{
			Name:   f.Object,
			Causes: []metav1.StatusCause{{Type: causeCode + metav1.CauseType(f.Code), Field: f.Field, Message: f.Sentence}},
		},
	}
	if f.Remedy != "" {
		status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{Type: causeRemedy, Message: f.Remedy})
	}
	if class.status == http.StatusServiceUnavailable || class.status == http.StatusTooManyRequests {
		status.Details.RetryAfterSeconds = retryAfterSeconds
	}
	return status
}

// StatusError returns f as the API's error about an object of a resource. The code, the
// field and the remedy are in its details, where Read finds them.
func (f *Fault) StatusError(resource schema.GroupResource, name string) *apierrors.StatusError {
	status := f.Status()
	status.Details.Group, status.Details.Kind = resource.Group, resource.Resource
	if status.Details.Name == "" {
		status.Details.Name = name
	}
	return &apierrors.StatusError{ErrStatus: status}
}

// ofStatus is the inverse of Status. It takes what it can from a Status that another
// program made.
func ofStatus(status metav1.Status) *Fault {
	f := &Fault{Code: codeOfReason(status.Reason), Sentence: oneLine(status.Message)}
	if status.Details == nil {
		return f
	}
	f.Object = status.Details.Name
	for i, cause := range status.Details.Causes {
		code := len(cause.Type) > len(causeCode) && cause.Type[:len(causeCode)] == causeCode
		switch {
		case cause.Type == causeRemedy:
			f.Remedy = oneLine(cause.Message)
		case code:
			f.Code, f.Field, f.Sentence = Code(cause.Type[len(causeCode):]), cause.Field, oneLine(cause.Message)
		case i == 0:
			f.Field = cause.Field
		}
	}
	return f
}

// Write answers a request with err.
func Write(w http.ResponseWriter, err error) {
	status := Of(err).Status()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(status.Details.RetryAfterSeconds))
	}
	w.WriteHeader(int(status.Code))
	// Ignore the error: it only means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(status)
}

// errNoFault is the cause of a fault for an answer that does not explain itself.
var errNoFault = errors.New("the answer does not say why")

// Read returns the fault in an error answer. If it cannot understand the answer, it
// returns a fault that says so. Read does not close the body.
func Read(response *http.Response) *Fault {
	var status metav1.Status
	err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&status)
	if err != nil || oneLine(status.Message) == "" {
		return New(Internal, "the answer is %q: %w", response.Status, errNoFault)
	}
	f := ofStatus(status)
	if f.Code == "" {
		f.Code = Internal
	}
	if f.Sentence == "" {
		f.Sentence = oneLine(status.Message)
	}
	return f
}
