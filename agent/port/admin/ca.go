package admin

import (
	"context"
	"net/http"
	"time"

	"virtmesh/agent/fault"
)

// CAPath is where it is read which CA signs; a POST below it replaces the CA.
const CAPath = "/mesh/v1/ca"

// Limits of the time for which hosts that were off can be let in by the CA that was replaced.
const (
	// DefaultCADeadline holds unless the administrator says otherwise.
	DefaultCADeadline = 7 * 24 * time.Hour
	// MinCADeadline and MaxCADeadline bound what the administrator can say.
	MinCADeadline, MaxCADeadline = time.Minute, 30 * 24 * time.Hour
)

// CA implements what concerns the mesh's CA.
type CA interface {
	// CA says which CA signs, how far a replacement is, and for whom it waits.
	CA(ctx context.Context) (*CAStatus, error)
	// RotateCA replaces the CA, in the name of by. Hosts that are off are let in by the one
	// before for deadline after the replacement. It waits for the end of the operation, which
	// goes on if ctx ends before.
	RotateCA(ctx context.Context, by string, deadline time.Duration) error
}

// CARotationRequest asks to replace the mesh's CA.
type CARotationRequest struct {
	// Deadline is for how long hosts that are off are let in by the CA that is replaced, in
	// nanoseconds; zero stands for DefaultCADeadline.
	Deadline time.Duration `json:"deadline,omitempty"`
}

// CAStatus says which CA signs, how far a replacement is, and for whom it waits.
type CAStatus struct {
	// Signing is the CA that signs now.
	Signing CACertificate `json:"signing"`
	// Next is the CA that will sign; nil if no replacement is on its way.
	Next *CACertificate `json:"next,omitempty"`
	// Stage is the identity.CAStage of the last replacement: Wanted, Given, Signing or
	// Replaced. Empty before the first.
	Stage string `json:"stage,omitempty"`
	// Operation names the operation that replaces the CA now; empty if none does.
	Operation string `json:"operation,omitempty"`
	// Have are the hosts that are as the stage asks for, Waiting those that are heard and are
	// not yet, and Off those that are not heard: they follow when they come back.
	Have    []string `json:"have"`
	Waiting []string `json:"waiting,omitempty"`
	Off     []string `json:"off,omitempty"`
	// Former are the CAs that were replaced and that let hosts in still, the latest first.
	Former []FormerCA `json:"former,omitempty"`
	// KeyInState reports whether the key of the CA is in the mesh's state: then it can be
	// replaced only after a recovery bundle was made.
	KeyInState bool `json:"keyInState,omitempty"`
}

// CACertificate is the certificate of a CA.
type CACertificate struct {
	// Fingerprint is the SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal.
	Fingerprint string `json:"fingerprint"`
	// Subject is the name in it.
	Subject string    `json:"subject"`
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
}

// FormerCA is a CA that was replaced.
type FormerCA struct {
	CACertificate
	// Vouched reports whether servers show the CA that signs as signed by this one, so that
	// kubeconfigs of its time still know the hosts.
	Vouched bool `json:"vouched,omitempty"`
	// Until is when it ceases to let in hosts that were off, and people whose listed
	// certificates it has signed.
	Until time.Time `json:"until"`
	// Certificates are the listed certificates of people that were signed under it and are
	// neither ended nor revoked.
	Certificates []Certificate `json:"certificates,omitempty"`
}

// handleCA serves what concerns the mesh's CA.
func handleCA(mux *http.ServeMux, mesh CA, authenticate func(*http.Request) (user string, allowed bool)) {
	mux.HandleFunc("GET "+CAPath, replySoon(func(r *http.Request) (any, error) { return mesh.CA(r.Context()) }))
	mux.HandleFunc("POST "+CAPath+"/rotation", replyJSON(func(r *http.Request) (any, error) {
		var request CARotationRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		if request.Deadline == 0 {
			request.Deadline = DefaultCADeadline
		}
		if request.Deadline < MinCADeadline || request.Deadline > MaxCADeadline {
			return nil, fault.InField("deadline", "must be from %s to %s, not %s", MinCADeadline, MaxCADeadline, request.Deadline)
		}
		user, _ := authenticate(r)
		return nil, mesh.RotateCA(r.Context(), user, request.Deadline)
	}))
}
