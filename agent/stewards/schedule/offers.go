package schedule

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
	"virtmesh/agent/stewards/schedule/place"
)

// Offers asks hosts.
type Offers interface {
	// Offer asks one host. An error means that it gave no answer; that it does
	// not want the instance is an Offer that is not accepted.
	Offer(ctx context.Context, host string, r claims.OfferRequest) (claims.Offer, error)
}

func newOfferRequest(r *place.Request) claims.OfferRequest {
	return claims.OfferRequest{
		Namespace: r.Namespace, Name: r.Name, UID: types.UID(r.UID), Resources: r.Resources,
		CPUModel: r.CPUModel(), CPUFeatures: r.CPUFeatures(), Needs: r.Needs, Images: r.Images,
	}
}

// ask returns why the host does not take the instance; "" if it does.
func (c *Controller) ask(ctx context.Context, host string, r *place.Request) string {
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
