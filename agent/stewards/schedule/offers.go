package schedule

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
	"virtmesh/agent/stewards/schedule/place"
)

// Offers asks hosts whether they would take an instance.
type Offers interface {
	// Offer asks one host. An error means that the host gave no answer. A host
	// that refuses the instance returns an Offer that is not accepted.
	Offer(ctx context.Context, host string, r claims.OfferRequest) (claims.Offer, error)
}

func newOfferRequest(r *place.Request) claims.OfferRequest {
	return claims.OfferRequest{
		Namespace: r.Namespace, Name: r.Name, UID: types.UID(r.UID), Resources: r.Resources,
		CPUModel: r.CPUModel(), CPUFeatures: r.CPUFeatures(), Needs: r.Needs, Images: r.Images, Pools: r.Pools,
	}
}

// askForOffer returns the reason why the host refuses the instance, or "" if it
// accepts.
func (c *Controller) askForOffer(ctx context.Context, host string, r *place.Request) string {
	if c.cfg.Offers == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.OfferTimeout)
	defer cancel()
	offer, err := c.cfg.Offers.Offer(ctx, host, newOfferRequest(r))
	switch {
	case err != nil:
		c.log.Warn("a host gave no offer", "host", host, "instance", r.Namespace+"/"+r.Name, "err", err)
		return "gave no offer"
	case offer.Accepted:
		return ""
	case offer.Reason == "":
		return "refused"
	}
	return fmt.Sprintf("refused (%s)", offer.Reason)
}
