package claims

import (
	"k8s.io/apimachinery/pkg/types"

	machine "virtmesh/agent/vmi"
)

// OfferRequest asks a host whether it would run an instance now, before the instance is
// claimed for it. It is sent as JSON.
type OfferRequest struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	UID       types.UID         `json:"uid"`
	Resources machine.Resources `json:"resources"`
	// CPUModel and CPUFeatures are what the host's processor must support.
	CPUModel    string   `json:"cpuModel,omitempty"`
	CPUFeatures []string `json:"cpuFeatures,omitempty"`
	// Needs is what the host must be able to emulate.
	Needs machine.Needs `json:"needs"`
	// Images are the container disks that the instance needs.
	Images []string `json:"images,omitempty"`
	// Pools are the bytes of volumes that are to be made on the host, by pool.
	Pools map[string]int64 `json:"pools,omitempty"`
}

// Offer is a host's answer to an OfferRequest. It reserves nothing: only a claim does.
type Offer struct {
	// Accepted says that the host would run the instance.
	Accepted bool `json:"accepted"`
	// Reason says, for users, why the host does not accept.
	Reason string `json:"reason,omitempty"`
}
