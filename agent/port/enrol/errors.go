package enrol

import (
	"errors"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// ErrUnavailable is returned when no member could answer: none was reached, or the mesh
// has no quorum. A later attempt can succeed.
var ErrUnavailable = errors.New("the mesh cannot admit hosts now")

// unreachedError is returned when no connection to a member could be made. It is
// ErrUnavailable, in other words: the mesh did not refuse anything.
type unreachedError struct{ cause error }

// Error says that the host does not answer.
func (e *unreachedError) Error() string {
	return fmt.Sprintf("no host answers there (%s); check the address and that its agent runs", e.cause)
}

// Unwrap returns why there is no connection.
func (e *unreachedError) Unwrap() error { return e.cause }

// Is makes the error ErrUnavailable.
func (e *unreachedError) Is(target error) bool { return target == ErrUnavailable }

// ErrServerCertificate is returned when the server's certificate has expired although
// the clocks agree.
var ErrServerCertificate = errors.New("the certificate of the host that was asked has expired")

// PinError is returned when the server is not a host of the mesh that the token is for.
// The token was not sent.
type PinError struct {
	Addr string
	Want identity.Pin
}

// Error names the address of the server and the CA pin of the token.
func (e *PinError) Error() string {
	return fmt.Sprintf("%s is not a host of the mesh that the token is for (CA pin %s)", e.Addr, e.Want)
}

// clockSkewFault refuses a host whose clock differs too much from the mesh's:
// certificates and leases depend on the clocks.
func clockSkewFault(joining, mesh time.Time, limit time.Duration) error {
	diff := joining.Sub(mesh).Round(time.Second)
	how := "ahead of"
	if diff < 0 {
		diff, how = -diff, "behind"
	}
	return fault.New(fault.ClockSkew, "the clock of this host (%s) is %s %s the mesh's (%s), at most %s is allowed",
		joining.UTC().Format(time.RFC3339), diff, how, mesh.UTC().Format(time.RFC3339), limit).
		WithRemedy("set the clock and try again")
}

// badFieldFault names the field of a request that is missing or malformed.
func badFieldFault(field string, err error) error {
	f := fault.New(fault.Invalid, "join request: %s: %w", field, err)
	f.Field = field
	return f
}

// publicFault returns what an unauthenticated caller may learn of err. An error that
// was not made for the caller becomes "unavailable", without its text.
func publicFault(err error) *fault.Fault {
	if !isPublic(err) {
		return fault.New(fault.Unavailable, "%w", ErrUnavailable)
	}
	return fault.Of(err)
}

// isPublic reports whether err was made for the caller: it is or wraps a fault.
func isPublic(err error) bool {
	var f *fault.Fault
	var code fault.Code
	return errors.As(err, &f) || errors.As(err, &code)
}

// memberError returns the error that a member answered with. If the answer says nothing
// about this host, the error is ErrUnavailable.
func memberError(addr string, f *fault.Fault) error {
	if f.Code == fault.Unavailable || f.Code == fault.Internal {
		return fmt.Errorf("ask %s: %w", addr, ErrUnavailable)
	}
	return f
}

// isFinal reports whether asking again cannot help, neither here nor at another member.
func isFinal(err error) bool {
	var pin *PinError
	return errors.As(err, &pin) || isPublic(err)
}
