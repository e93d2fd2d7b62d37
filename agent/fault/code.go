package fault

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Code is a kind of trouble. It is an error itself, for errors.Is and for faults
// that need no more words than it has.
type Code string

// The kinds of trouble. They cross the wire by these names, which stay.
const (
	// Invalid: the request must be corrected.
	Invalid Code = "Invalid"
	// NotFound: there is no such thing.
	NotFound Code = "NotFound"
	// AlreadyExists: there is such a thing already.
	AlreadyExists Code = "AlreadyExists"
	// Conflict: the state of the object does not allow the request.
	Conflict Code = "Conflict"
	// Unauthorized: it is not known who asks, or no longer good.
	Unauthorized Code = "Unauthorized"
	// Forbidden: who asks may not.
	Forbidden Code = "Forbidden"
	// Unavailable: the mesh or this host cannot do it now; trying later can help.
	Unavailable Code = "Unavailable"
	// Unreachable: the host that could do it does not answer.
	Unreachable Code = "Unreachable"
	// UnknownOutcome: it may or may not have happened.
	UnknownOutcome Code = "UnknownOutcome"
	// TooLarge: the request is larger than the mesh takes.
	TooLarge Code = "TooLarge"
	// Internal: a fault of the program or its host.
	Internal Code = "Internal"

	// NotRunning: the instance exists, and its guest does not run.
	NotRunning Code = "NotRunning"
	// NoGuestAgent: the guest agent is not connected.
	NoGuestAgent Code = "NoGuestAgent"

	// TokenInvalid: the join token is not one of this mesh.
	TokenInvalid Code = "TokenInvalid"
	// TokenExpired: the join token has expired.
	TokenExpired Code = "TokenExpired"
	// TokenUsed: another host has joined with the join token.
	TokenUsed Code = "TokenUsed"
	// ClockSkew: the clocks of two hosts are too far apart.
	ClockSkew Code = "ClockSkew"
	// HostTaken: another host bears the name.
	HostTaken Code = "HostTaken"
	// TooOld: the program does not know what the mesh uses.
	TooOld Code = "TooOld"
	// BadProof: a request is not signed by who it says.
	BadProof Code = "BadProof"
	// NoHost: the mesh has no such host.
	NoHost Code = "NoHost"
	// Expelled: the machine was removed from the mesh.
	Expelled Code = "Expelled"
)

// class is how a code looks to HTTP and to the Kubernetes API.
type class struct {
	status int
	reason metav1.StatusReason
	text   string
}

// classOf sorts the codes. What a newer version says is Internal here.
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
	case BadProof:
		return forbidden("the renewal is not signed by a host of this mesh")
	case Expelled:
		return forbidden("the machine was removed from the mesh")
	case Unavailable:
		return class{http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "not available now"}
	case Unreachable:
		return class{http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "host is unreachable"}
	case UnknownOutcome:
		return class{http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "it may or may not have happened"}
	case TooLarge:
		return class{http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, "too large"}
	}
	return class{http.StatusInternalServerError, metav1.StatusReasonInternalError, "internal error"}
}

func forbidden(text string) class {
	return class{http.StatusForbidden, metav1.StatusReasonForbidden, text}
}

// Error is the code in words.
func (c Code) Error() string { return classOf(c).text }

// CodeOf returns the code of err, "" if it is nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return Of(err).Code
}

// codeOfReason is the code of an answer of the Kubernetes API.
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
	}
	return Internal
}
