package guests

import (
	"bufio"
	"fmt"
	"mime"
	"net"
	"net/http"

	"virtmesh/agent/fault"
	"virtmesh/agent/port"
)

// path is the end of the request's path at other hosts. Earlier versions skip what they do
// not know of a query.
func (r StreamRequest) path() string {
	switch {
	case r.Kind == Forward:
		return fmt.Sprintf("%s/%s/%d", Forward, r.Protocol, r.Port)
	case r.Preserve:
		return string(r.Kind) + "?preserve=true"
	}
	return string(r.Kind)
}

// readFault returns the fault in another host's error answer. Hosts explain what they
// refuse; so who answers that there is no such path, in no form of ours, is of a version
// that does not know the request.
func readFault(host string, response *http.Response) error {
	unknown := response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); unknown && kind != "application/json" {
		who := port.Speaker{Host: host}
		if speaker, introduced, err := port.SpeakerOf(response.Header); introduced && err == nil {
			who.Version = speaker.Version
		}
		return fault.New(fault.NotImplemented, "%s, where the guest runs, does not know this request", who).WithRemedy("install a newer version there")
	}
	return fmt.Errorf("host %s: %w", host, fault.Read(response))
}

// bufferedConn is a connection whose first bytes were already read into a
// buffer by the HTTP machinery.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
