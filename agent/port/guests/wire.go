package guests

import (
	"bufio"
	"fmt"
	"net"
	"net/http"

	"virtmesh/agent/fault"
)

// readFault returns the fault in another host's error answer.
func readFault(host string, response *http.Response) error {
	return fmt.Errorf("host %s: %w", host, fault.Read(response))
}

// bufferedConn is a connection whose first bytes were already read into a
// buffer by the HTTP machinery.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
