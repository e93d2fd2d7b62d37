//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
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

// prompt is what the tiny image's shell shows when it waits for a command.
const prompt = "tiny# "

// run types a command at the prompt and returns what the guest printed for it.
// The marks around the answer are put together by the guest's shell, so the
// echo of the command does not contain them. What is typed while a guest boots is
// lost, so the prompt is waited for, and asked for with Enter.
func (c *console) run(t *testing.T, command string, timeout time.Duration) string {
	t.Helper()
	start := len(c.text())
	c.typeEvery(t, 2*time.Second, "\n", timeout, "a prompt", func(text string) bool {
		return strings.HasSuffix(strings.TrimRight(text, "\x1b[6n"), prompt)
	}, start)
	mark := strconv.FormatInt(time.Now().UnixNano(), 10)
	half := len(mark) / 2
	echoed := mark[:half] + "''" + mark[half:]
	start = len(c.text())
	line := fmt.Sprintf("echo begin-%s; %s; echo end-%s\n", echoed, command, echoed)
	c.typeEvery(t, 20*time.Second, line, timeout, "an answer to "+command, func(text string) bool {
		return strings.Contains(text, "end-"+mark)
	}, start)
	_, after, _ := strings.Cut(c.text()[start:], "begin-"+mark)
	answer, _, _ := strings.Cut(after, "end-"+mark)
	return strings.TrimSpace(answer)
}

// typeEvery types keys now and then until what the console shows after start
// satisfies done.
func (c *console) typeEvery(t *testing.T, interval time.Duration, keys string, timeout time.Duration, what string, done func(string) bool, start int) {
	t.Helper()
	var typed time.Time
	eventually(t, timeout, what, func(context.Context) error {
		if done(c.text()[start:]) {
			return nil
		}
		if time.Since(typed) > interval {
			typed = time.Now()
			if err := c.socket.WriteMessage(websocket.BinaryMessage, []byte(keys)); err != nil {
				t.Fatalf("type on the console: %v", err)
			}
		}
		return fmt.Errorf("the console ends with %q", tail(c.text(), 400))
	})
}

func tail(text string, n int) string {
	if len(text) > n {
		return text[len(text)-n:]
	}
	return text
}
