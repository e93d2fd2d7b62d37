//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/rest"
)

// console is a guest's serial console, opened with the protocol that virtctl
// speaks.
type console struct {
	socket *websocket.Conn

	mu   sync.Mutex
	seen strings.Builder
}

func openConsole(t *testing.T, host, namespace, name string) *console {
	t.Helper()
	a := connect(t, host)
	tlsConfig, err := rest.TLSConfigFor(a.config)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(a.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme = "wss"
	u.Path = fmt.Sprintf("/apis/subresources.kubevirt.io/v1/namespaces/%s/virtualmachineinstances/%s/console", namespace, name)
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: []string{"plain.kubevirt.io"}}
	socket, response, err := dialer.DialContext(t.Context(), u.String(), http.Header{})
	if err != nil {
		t.Fatalf("open the console of %s/%s at %s: %v (%v)", namespace, name, host, err, response)
	}
	c := &console{socket: socket}
	go c.read()
	t.Cleanup(func() { socket.Close() })
	return c
}

func (c *console) read() {
	for {
		_, data, err := c.socket.ReadMessage()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.seen.Write(data)
		c.mu.Unlock()
	}
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.String()
}

// run types a command and returns what the guest printed for it. The marker is
// computed by the guest, so the echo of the command does not contain it. A
// guest that is still booting gets the command again.
func (c *console) run(t *testing.T, command string, timeout time.Duration) string {
	t.Helper()
	marker := fmt.Sprintf("%d", time.Now().UnixNano())
	half := len(marker) / 2
	line := fmt.Sprintf("%s; echo end-%s''%s\n", command, marker[:half], marker[half:])
	typed := time.Time{}
	var answer string
	eventually(t, timeout, "an answer on the console", func(context.Context) error {
		if text := c.text(); strings.Contains(text, "end-"+marker) {
			before, _, _ := strings.Cut(text, "end-"+marker)
			if _, after, ok := strings.Cut(before, marker[:half]+"''"+marker[half:]); ok {
				answer = strings.TrimSpace(after)
			}
			return nil
		}
		if time.Since(typed) > 5*time.Second {
			typed = time.Now()
			if err := c.socket.WriteMessage(websocket.BinaryMessage, []byte(line)); err != nil {
				t.Fatalf("type on the console: %v", err)
			}
		}
		return fmt.Errorf("console shows %q", tail(c.text(), 400))
	})
	return answer
}

func tail(text string, n int) string {
	if len(text) > n {
		return text[len(text)-n:]
	}
	return text
}
