package enrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"virtmesh/agent/hostname"
	"virtmesh/agent/identity"
)

const (
	pathJoin     = "/mesh/v1/join"
	pathRenew    = "/mesh/v1/renew"
	pathStanding = "/mesh/v1/standing"
	pathClock    = "/mesh/v1/clock"
	// pathManifests and pathNews are of succession.go. Versions before do not know them.
	pathManifests = "/mesh/v1/manifests"
	pathNews      = "/mesh/v1/news"

	// maxRequest bounds what a server reads from an unknown caller.
	maxRequest = 64 << 10
	// maxAnswer bounds what a client reads. It has room for the members of a large
	// mesh.
	maxAnswer = 4 << 20
	// maxVersion bounds the version string.
	maxVersion = 64
)

// Request is a host's request for membership.
type Request struct {
	TokenID string `json:"tokenID"`
	Secret  []byte `json:"secret"`
	// CSR is a signing request, DER.
	CSR           []byte   `json:"csr"`
	Host          string   `json:"host"`
	MeshAddress   string   `json:"meshAddress"`
	GossipAddress string   `json:"gossipAddress"`
	SANs          []string `json:"sans,omitempty"`
	// Clock is the host's clock when it sent the request.
	Clock   time.Time `json:"clock"`
	Version string    `json:"version"`
	// LowestFeatureLevel and FeatureLevel are the range of feature levels that the host
	// knows.
	LowestFeatureLevel uint32 `json:"lowestFeatureLevel,omitempty"`
	FeatureLevel       uint32 `json:"featureLevel"`
	// GuestNetwork is the range of guests' addresses that the host will use; empty from a
	// version that can use the default one only.
	GuestNetwork string `json:"guestNetwork,omitempty"`
}

// Answer holds what an admitted host needs to be a member.
type Answer struct {
	identity.Issued
	MeshID string `json:"meshID"`
	// CAKey is the private key of the CA, PEM, in a mesh whose state holds it: the host
	// gets it with its replica of the store as well. Empty in a mesh whose voters hold it.
	CAKey      []byte          `json:"caKey,omitempty"`
	GossipKeys [][]byte        `json:"gossipKeys"`
	Members    []identity.Seed `json:"members"`
}

// clockAnswer is the answer to GET /mesh/v1/clock: what a machine must know of the mesh before
// it sends its token.
type clockAnswer struct {
	Host  string    `json:"host"`
	Clock time.Time `json:"clock"`
	// GuestNetwork is the range of guests' addresses; empty if the mesh keeps none.
	GuestNetwork string `json:"guestNetwork,omitempty"`
}

// decodeRequest reads a Request and checks every field that can be checked without the
// store. Its errors are faults that name the field.
func decodeRequest(body []byte) (Request, error) {
	var req Request
	if err := unmarshalJSON(body, &req); err != nil {
		return Request{}, badFieldFault("body", err)
	}
	record := identity.HostRecord{MeshAddress: req.MeshAddress, GossipAddress: req.GossipAddress, SANs: req.SANs, Name: req.Host}
	checks := []struct {
		field string
		err   error
	}{
		{"host", hostname.Validate(req.Host)},
		{"meshAddress", identity.ValidateAddress(req.MeshAddress)},
		{"gossipAddress", identity.ValidateAddress(req.GossipAddress)},
		{"sans", record.Validate()},
		{"clock", checkClock(req.Clock)},
		{"version", checkVersion(req.Version)},
		{"featureLevel", checkLevels(req.LowestFeatureLevel, req.FeatureLevel)},
	}
	for _, c := range checks {
		if c.err != nil {
			return Request{}, badFieldFault(c.field, c.err)
		}
	}
	if _, err := identity.ParseCSR(req.CSR); err != nil {
		return Request{}, badFieldFault("csr", err)
	}
	return req, nil
}

func checkClock(t time.Time) error {
	if t.IsZero() {
		return errors.New("missing")
	}
	return nil
}

func checkVersion(v string) error {
	if len(v) > maxVersion {
		return fmt.Errorf("longer than %d characters", maxVersion)
	}
	for _, c := range []byte(v) {
		if c < ' ' || c > '~' {
			return errors.New("not printable ASCII")
		}
	}
	return nil
}

func checkLevels(lowest, highest uint32) error {
	if lowest > highest {
		return fmt.Errorf("%d to %d is no range", lowest, highest)
	}
	return nil
}

// decodeJSON reads exactly one JSON value of at most limit bytes.
func decodeJSON(r io.Reader, limit int64, value any) error {
	body, err := readBody(r, limit)
	if err != nil {
		return err
	}
	return unmarshalJSON(body, value)
}

// readBody reads all of r and fails if it is longer than limit bytes.
func readBody(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("longer than %d bytes", limit)
	}
	return body, nil
}

// unmarshalJSON decodes exactly one JSON value. It ignores unknown fields, because a
// newer version may send more.
func unmarshalJSON(body []byte, value any) error {
	if err := json.Unmarshal(body, value); err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	return nil
}
