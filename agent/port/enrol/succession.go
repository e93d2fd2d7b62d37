package enrol

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strconv"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
)

// The lists of the mesh's voters prove themselves, so anyone may have them from anyone: neither
// side knows who the other is. What they cost is bounded as for every stranger.

// manifestsRequest asks for the lists after a version.
type manifestsRequest struct {
	After uint64 `json:"after"`
}

// manifestsAnswer holds lists, in the order of their versions; more may follow them.
type manifestsAnswer struct {
	Manifests [][]byte `json:"manifests"`
}

// newsRequest tells a host, which may be cut off by what has changed while it was off, that its
// caller has lists of voters at a port of its address.
type newsRequest struct {
	Port uint16 `json:"port"`
}

// checkManifests reads which lists a stranger wants.
func (s *Server) checkManifests(_ context.Context, body []byte, from string) (request, error) {
	var req manifestsRequest
	if err := unmarshalJSON(body, &req); err != nil {
		return request{}, badFieldFault("body", err)
	}
	if s.cfg.Manifests == nil || !s.listings.allow(from) {
		return request{}, ErrUnavailable
	}
	return request{s.strangers, func(ctx context.Context) (any, error) {
		list, err := s.cfg.Manifests(ctx, req.After)
		return manifestsAnswer{list}, err
	}}, nil
}

// checkNews reads where lists can be had. Nobody can name another address than its own.
func (s *Server) checkNews(_ context.Context, body []byte, from string) (request, error) {
	var req newsRequest
	if err := unmarshalJSON(body, &req); err != nil {
		return request{}, badFieldFault("body", err)
	}
	host, _, err := net.SplitHostPort(from)
	if err != nil || req.Port == 0 {
		return request{}, fault.InField("port", "must be that of a mesh port")
	}
	if s.cfg.News == nil || !s.tidings.allow(from) {
		return request{}, ErrUnavailable
	}
	return request{s.strangers, func(context.Context) (any, error) {
		s.cfg.News(net.JoinHostPort(host, strconv.Itoa(int(req.Port))))
		return struct{}{}, nil
	}}, nil
}

// anybody takes any certificate: what is asked for proves itself, and the host that asks may
// trust none of today's CAs.
func anybody([]*x509.Certificate) error { return nil }

// FetchManifests returns the lists of voters after a version that the host at addr has. Nothing
// is known of who has answered.
func FetchManifests(ctx context.Context, id *identity.Identity, version, addr string, after uint64) ([][]byte, error) {
	c := newCaller(addr, port.NewSpeaker(id.Host(), version), anybody)
	defer c.close()
	var answer manifestsAnswer
	if err := c.call(ctx, http.MethodPost, pathManifests, manifestsRequest{after}, &answer); err != nil {
		return nil, err
	}
	return answer.Manifests, nil
}

// TellNews tells the host at addr that the lists of voters can be had at a port of this one.
func TellNews(ctx context.Context, id *identity.Identity, version, addr string, ownPort uint16) error {
	c := newCaller(addr, port.NewSpeaker(id.Host(), version), anybody)
	defer c.close()
	var answer struct{}
	return c.call(ctx, http.MethodPost, pathNews, newsRequest{ownPort}, &answer)
}
