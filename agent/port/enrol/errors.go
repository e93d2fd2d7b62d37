package enrol

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"virtmesh/agent/identity"
)

// ErrUnavailable is returned when no member could answer: none was reached, or the mesh
// has no quorum. Trying again later can help.
var ErrUnavailable = errors.New("the mesh cannot admit hosts now")

// ErrServerCertificate is returned when the server's certificate has ended although the
// clocks agree.
var ErrServerCertificate = errors.New("the certificate of the host that was asked has expired")

// ClockSkewError is returned when the clocks of the two hosts are too far apart:
// certificates and leases depend on them.
type ClockSkewError struct {
	// Joining is the clock of the host that wants to join, Mesh that of the member.
	Joining time.Time     `json:"joining"`
	Mesh    time.Time     `json:"mesh"`
	Limit   time.Duration `json:"limit"`
}

// Error tells both clocks.
func (e *ClockSkewError) Error() string {
	diff := e.Joining.Sub(e.Mesh).Round(time.Second)
	how := "ahead of"
	if diff < 0 {
		diff, how = -diff, "behind"
	}
	return fmt.Sprintf("the clock of this host (%s) is %s %s the mesh's (%s), at most %s is allowed: set the clock and try again",
		e.Joining.UTC().Format(time.RFC3339), diff, how, e.Mesh.UTC().Format(time.RFC3339), e.Limit)
}

// VersionError is returned to a host whose software does not know what the mesh uses.
type VersionError struct {
	// Version and Level are those of the joining host; Want is the lowest feature level
	// that the mesh admits and MeshVersion what the asked member runs.
	Version     string `json:"version"`
	Level       uint32 `json:"level"`
	Want        uint32 `json:"want"`
	MeshVersion string `json:"meshVersion"`
}

// Error says which version would do.
func (e *VersionError) Error() string {
	return fmt.Sprintf("version %s (feature level %d) is too old for this mesh, which needs feature level %d: install %s",
		e.Version, e.Level, e.Want, e.MeshVersion)
}

// RequestError names the field of a request that is missing or malformed.
type RequestError struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Error names the field.
func (e *RequestError) Error() string { return fmt.Sprintf("join request: %s: %s", e.Field, e.Reason) }

// PinError is returned when the server is not a host of the mesh that the token is for.
// The token was not sent.
type PinError struct {
	Addr string
	Want identity.Pin
}

// Error says where the stranger is.
func (e *PinError) Error() string {
	return fmt.Sprintf("%s is not a host of the mesh that the token is for (CA pin %s)", e.Addr, e.Want)
}

// Codes of the errors that cross the wire.
const (
	codeTokenInvalid = "TokenInvalid"
	codeTokenExpired = "TokenExpired"
	codeTokenUsed    = "TokenUsed"
	codeClockSkew    = "ClockSkew"
	codeHostTaken    = "HostTaken"
	codeVersion      = "Version"
	codeRequest      = "Request"
	codeProof        = "Proof"
	codeNoHost       = "NoHost"
	codeExpelled     = "Expelled"
	codeUnavailable  = "Unavailable"
)

// wireError is an error as it crosses the wire. The fields besides Code and Message
// carry the parts of the typed errors.
type wireError struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Host    string          `json:"host,omitempty"`
	Skew    *ClockSkewError `json:"skew,omitempty"`
	Version *VersionError   `json:"version,omitempty"`
	Request *RequestError   `json:"request,omitempty"`
}

// toWire sorts an error and returns its HTTP status. What is not meant for the caller
// becomes "unavailable" without its text.
func toWire(err error) (int, wireError) {
	var (
		skew      *ClockSkewError
		taken     *identity.HostTakenError
		version   *VersionError
		request   *RequestError
		candidate *identity.CandidateError
	)
	w := wireError{Message: err.Error()}
	status := http.StatusForbidden
	switch {
	case errors.As(err, &skew):
		w.Code, w.Skew = codeClockSkew, skew
	case errors.As(err, &taken):
		status, w.Code, w.Host = http.StatusConflict, codeHostTaken, taken.Host
	case errors.As(err, &version):
		w.Code, w.Version = codeVersion, version
	case errors.As(err, &request):
		status, w.Code, w.Request = http.StatusBadRequest, codeRequest, request
	case errors.As(err, &candidate):
		status, w.Code = http.StatusBadRequest, codeRequest
		w.Request = &RequestError{Field: "host", Reason: candidate.Error()}
	case errors.Is(err, identity.ErrTokenInvalid):
		w.Code = codeTokenInvalid
	case errors.Is(err, identity.ErrTokenExpired):
		w.Code = codeTokenExpired
	case errors.Is(err, identity.ErrTokenUsed):
		w.Code = codeTokenUsed
	case errors.Is(err, identity.ErrProof):
		w.Code = codeProof
	case errors.Is(err, identity.ErrNoHost):
		w.Code = codeNoHost
	case errors.Is(err, identity.ErrExpelled):
		w.Code = codeExpelled
	default:
		return http.StatusServiceUnavailable, wireError{Code: codeUnavailable, Message: ErrUnavailable.Error()}
	}
	return status, w
}

// remoteError gives a sentinel the words of the server, which may know more.
type remoteError struct {
	kind error
	text string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// err is the inverse of toWire.
func (w wireError) err() error {
	switch {
	case w.Code == codeClockSkew && w.Skew != nil:
		return w.Skew
	case w.Code == codeHostTaken:
		return &identity.HostTakenError{Host: w.Host}
	case w.Code == codeVersion && w.Version != nil:
		return w.Version
	case w.Code == codeRequest && w.Request != nil:
		return w.Request
	}
	kinds := map[string]error{
		codeTokenInvalid: identity.ErrTokenInvalid,
		codeTokenExpired: identity.ErrTokenExpired,
		codeTokenUsed:    identity.ErrTokenUsed,
		codeProof:        identity.ErrProof,
		codeNoHost:       identity.ErrNoHost,
		codeExpelled:     identity.ErrExpelled,
	}
	if kind := kinds[w.Code]; kind != nil && w.Message != "" {
		return &remoteError{kind: kind, text: w.Message}
	}
	return ErrUnavailable
}

// final reports whether asking again, here or at another member, cannot help.
func final(err error) bool {
	var pin *PinError
	if errors.As(err, &pin) {
		return true
	}
	_, w := toWire(err)
	return w.Code != codeUnavailable
}
