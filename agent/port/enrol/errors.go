package enrol

import (
	"errors"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// ErrUnavailable is returned when no member could answer: none was reached, or the mesh
// has no quorum. Trying again later can help.
var ErrUnavailable = errors.New("the mesh cannot admit hosts now")

// ErrServerCertificate is returned when the server's certificate has ended although the
// clocks agree.
var ErrServerCertificate = errors.New("the certificate of the host that was asked has expired")

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

// clockSkew refuses a host whose clock is too far from the mesh's: certificates and
// leases depend on the clocks.
func clockSkew(joining, mesh time.Time, limit time.Duration) error {
	diff := joining.Sub(mesh).Round(time.Second)
	how := "ahead of"
	if diff < 0 {
		diff, how = -diff, "behind"
	}
	return fault.New(fault.ClockSkew, "the clock of this host (%s) is %s %s the mesh's (%s), at most %s is allowed",
		joining.UTC().Format(time.RFC3339), diff, how, mesh.UTC().Format(time.RFC3339), limit).
		WithRemedy("set the clock and try again")
}

// tooOld refuses a host whose software does not know what the mesh uses.
func tooOld(r Request, want uint32, meshVersion string) error {
	return fault.New(fault.TooOld, "version %s (feature level %d) is too old for this mesh, which needs feature level %d",
		r.Version, r.FeatureLevel, want).WithRemedy("install " + meshVersion)
}

// badField names the field of a request that is missing or malformed.
func badField(field string, err error) error {
	f := fault.New(fault.Invalid, "join request: %s: %w", field, err)
	f.Field = field
	return f
}

// forStrangers is what a caller may learn of err: what is not meant for it becomes
// "unavailable" without its text.
func forStrangers(err error) *fault.Fault {
	if !meant(err) {
		return fault.New(fault.Unavailable, "%w", ErrUnavailable)
	}
	return fault.Of(err)
}

// meant reports whether err was made for the host that asks.
func meant(err error) bool {
	var f *fault.Fault
	var code fault.Code
	return errors.As(err, &f) || errors.As(err, &code)
}

// ofMember is the error that a member answered with. One that has nothing to say about
// this host is unavailable.
func ofMember(addr string, f *fault.Fault) error {
	if f.Code == fault.Unavailable || f.Code == fault.Internal {
		return fmt.Errorf("ask %s: %w", addr, ErrUnavailable)
	}
	return f
}

// final reports whether asking again, here or at another member, cannot help.
func final(err error) bool {
	var pin *PinError
	return errors.As(err, &pin) || meant(err)
}
