package executor

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/guests"
)

const (
	// dialTimeout bounds how long a guest may take to accept a forwarded connection.
	dialTimeout = 10 * time.Second
	// maxForwards bounds the forwarded connections of a guest, maxHostForwards those of a host.
	maxForwards     = 256
	maxHostForwards = 4096
)

// Stream implements guests.Instances.
func (g Guests) Stream(ctx context.Context, namespace, name string, request guests.StreamRequest) (io.ReadWriteCloser, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	ref := domain.Owner.Ref
	var stream io.ReadWriteCloser
	switch request.Kind {
	case guests.Console:
		stream, err = g.executor.consoles.openSession(ref.UID, false, func() (io.ReadWriteCloser, error) {
			return g.executor.Hypervisor.Console(ctx, ref)
		})
	case guests.VNC:
		stream, err = g.executor.displays.openSession(ref.UID, request.Preserve, func() (io.ReadWriteCloser, error) {
			return g.executor.Hypervisor.VNC(ctx, ref)
		})
	case guests.Forward:
		return g.forward(ctx, domain, request)
	default:
		return nil, fault.New(fault.Invalid, "unknown stream kind %q", request.Kind)
	}
	if errors.Is(err, errInUse) {
		return nil, fault.New(fault.Conflict, "%w", errInUse).About(ref.String())
	}
	if err != nil {
		return nil, translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return stream, nil
}

// Screenshot implements guests.Instances.
func (g Guests) Screenshot(ctx context.Context, namespace, name string, wake bool) ([]byte, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	uid := domain.Owner.Ref.UID
	if !g.executor.pictures.begin(uid) {
		return nil, fault.New(fault.TooMany, "instance %s/%s: pictures of its display are being taken: of a guest at most %d at once, and of all guests of its host %d",
			namespace, name, maxPictures, maxHostPictures).About(namespace + "/" + name).WithRemedy("try again in a moment")
	}
	defer g.executor.pictures.end(uid)
	picture, err := g.executor.Hypervisor.Screenshot(ctx, domain.Owner.Ref, wake)
	if err != nil {
		return nil, translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return picture, nil
}

// forward connects to a port of the guest, at the first address that this host has given it.
// What the guest itself calls its address does not count: it could name a service of the
// host, or of another guest.
func (g Guests) forward(ctx context.Context, domain hypervisor.Domain, request guests.StreamRequest) (io.ReadWriteCloser, error) {
	ref := domain.Owner.Ref
	switch {
	case request.Protocol != guests.TCP && request.Protocol != guests.UDP:
		return nil, fault.InField("protocol", "must be %s or %s", guests.TCP, guests.UDP)
	case request.Port == 0:
		return nil, fault.InField("port", "must be a number from 1 to 65535")
	case domain.State == hypervisor.StatePaused:
		return nil, pausedFault(ref.Namespace, ref.Name)
	}
	address := g.givenAddress(ref)
	if address == "" {
		return nil, fault.New(fault.Invalid, "instance %s has no address that its host has given it", ref).About(ref.String()).
			WithRemedy("connect it to the default network (pod: {}), or reach it over its own network")
	}
	target := net.JoinHostPort(address, strconv.Itoa(int(request.Port)))
	conn, err := g.executor.forwards.dial(ctx, ref.UID, g.executor.GuestDevice, request.Protocol, target)
	if errors.Is(err, errTooManyForwards) {
		return nil, fault.New(fault.TooMany, "instance %s: %w", ref, err).About(ref.String()).WithRemedy("close some")
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "instance %s does not accept the connection: %w", ref, err).About(ref.String())
	}
	return conn, nil
}

// givenAddress returns the first address of an instance that this host has given it; empty
// if there is none.
func (g Guests) givenAddress(ref hypervisor.Ref) string {
	vmi, ok := g.executor.Instances.Get(objects.Key{Namespace: ref.Namespace, Name: ref.Name})
	if !ok || string(vmi.UID) != ref.UID {
		return ""
	}
	for _, card := range g.executor.Network.Interfaces(vmi) {
		if card.IP != "" {
			return card.IP
		}
	}
	return ""
}
