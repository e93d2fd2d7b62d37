package fault

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Code is a kind of error. It is an error itself, for errors.Is and for faults that
// need no other text than the code's own.
type Code string

// The kinds of errors. These names are sent over the wire and must not change.
const (
	// Invalid: the request must be corrected.
	Invalid Code = "Invalid"
	// NotFound: the object does not exist.
	NotFound Code = "NotFound"
	// AlreadyExists: the object exists already.
	AlreadyExists Code = "AlreadyExists"
	// Conflict: the state of the object does not allow the request.
	Conflict Code = "Conflict"
	// Unauthorized: the caller is not authenticated, or its credentials are no longer
	// valid.
	Unauthorized Code = "Unauthorized"
	// Forbidden: the caller is not allowed to do this.
	Forbidden Code = "Forbidden"
	// Unavailable: the mesh or this host cannot do it now; a later attempt can succeed.
	Unavailable Code = "Unavailable"
	// TooMany: as many requests of this sort are under way as the host allows; when some have
	// ended, a later attempt can succeed. To versions that do not know it, it is Internal.
	TooMany Code = "TooMany"
	// Unreachable: the host that must do it does not answer.
	Unreachable Code = "Unreachable"
	// UnknownOutcome: the change may or may not have been made.
	UnknownOutcome Code = "UnknownOutcome"
	// TooLarge: the request is larger than the mesh accepts.
	TooLarge Code = "TooLarge"
	// NotImplemented: this version, or that of the host which must do it, cannot do it.
	NotImplemented Code = "NotImplemented"
	// Internal: an error in the program or on its host.
	Internal Code = "Internal"

	// NotRunning: the instance exists, but its guest does not run.
	NotRunning Code = "NotRunning"
	// NoGuestAgent: the guest agent is not connected.
	NoGuestAgent Code = "NoGuestAgent"

	// TokenInvalid: the join token does not belong to this mesh.
	TokenInvalid Code = "TokenInvalid"
	// TokenExpired: the join token has expired.
	TokenExpired Code = "TokenExpired"
	// TokenUsed: another host has joined with the join token.
	TokenUsed Code = "TokenUsed"
	// ClockSkew: the clocks of two hosts are too far apart.
	ClockSkew Code = "ClockSkew"
	// HostTaken: another host has the name.
	HostTaken Code = "HostTaken"
	// TooOld: the program is too old for the mesh's feature level, for the other side's
	// protocol or for the data.
	TooOld Code = "TooOld"
	// TooNew: the program is too new: it knows no level as low as the one that the mesh has.
	TooNew Code = "TooNew"
	// BadProof: a request is not signed by the host that it names.
	BadProof Code = "BadProof"
	// NoHost: the mesh has no such host.
	NoHost Code = "NoHost"
	// Expelled: the machine was removed from the mesh.
	Expelled Code = "Expelled"
)

// class is how HTTP and the Kubernetes API express a code.
type class struct {
	status int
	reason metav1.StatusReason
	text   string
}

// classOf returns the class of a code. A code of a newer version, unknown here, is
// handled as Internal.
func classOf(c Code) class {
	switch c {
	case Invalid:
		return class{http.StatusBadRequest, metav1.StatusReasonBadRequest, "invalid request"}
	case NotFound:
		return class{http.StatusNotFound, metav1.StatusReasonNotFound, "not found"}
	case NoHost:
		return class{http.StatusNotFound, metav1.StatusReasonNotFound, "no such host in the mesh"}
	case AlreadyExists:
		return class{http.StatusConflict, metav1.StatusReasonAlreadyExists, "exists already"}
	case HostTaken:
		return class{http.StatusConflict, metav1.StatusReasonAlreadyExists, "the host name is taken"}
	case Conflict:
		return class{http.StatusConflict, metav1.StatusReasonConflict, "the object's state does not allow it"}
	case NotRunning:
		return class{http.StatusConflict, metav1.StatusReasonConflict, "instance is not running"}
	case NoGuestAgent:
		return class{http.StatusConflict, metav1.StatusReasonConflict, "guest agent is not connected"}
	case Unauthorized:
		return class{http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "not authorized"}
	case Forbidden:
		return forbidden("not allowed")
	case TokenInvalid:
		return forbidden("the token is not valid in this mesh")
	case TokenExpired:
		return forbidden("the token has expired")
	case TokenUsed:
		return forbidden("the token has been used")
	case ClockSkew:
		return forbidden("the clocks are too far apart")
	case TooOld:
		return forbidden("the version is too old for this mesh")
	case TooNew:
		return forbidden("the version is too new for this mesh")
	case BadProof:
		return forbidden("the renewal is not signed by a host of this mesh")
	case Expelled:
		return forbidden("the machine was removed from the mesh")
	case Unavailable:
		return class{http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "not available now"}
	case TooMany:
		return class{http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "too many requests are under way"}
	case Unreachable:
		return class{http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "host is unreachable"}
	case UnknownOutcome:
		return class{http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "it may or may not have happened"}
	case NotImplemented:
		return class{http.StatusNotImplemented, "NotImplemented", "not implemented"}
	case TooLarge:
		return class{http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, "too large"}
	}
	return class{http.StatusInternalServerError, metav1.StatusReasonInternalError, "internal error"}
}

func forbidden(text string) class {
	return class{http.StatusForbidden, metav1.StatusReasonForbidden, text}
}

// Error returns the text of the code.
func (c Code) Error() string { return classOf(c).text }

// CodeOf returns the code of err, "" if it is nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return Of(err).Code
}

// codeOfReason returns the code for the reason in an answer of the Kubernetes API.
func codeOfReason(reason metav1.StatusReason) Code {
	switch reason {
	case metav1.StatusReasonBadRequest, metav1.StatusReasonInvalid:
		return Invalid
	case metav1.StatusReasonNotFound:
		return NotFound
	case metav1.StatusReasonAlreadyExists:
		return AlreadyExists
	case metav1.StatusReasonConflict:
		return Conflict
	case metav1.StatusReasonUnauthorized:
		return Unauthorized
	case metav1.StatusReasonForbidden:
		return Forbidden
	case metav1.StatusReasonServiceUnavailable, metav1.StatusReasonTooManyRequests, metav1.StatusReasonServerTimeout:
		return Unavailable
	case metav1.StatusReasonTimeout:
		return UnknownOutcome
	case metav1.StatusReasonRequestEntityTooLarge:
		return TooLarge
	case "NotImplemented":
		return NotImplemented
	}
	return Internal
}
