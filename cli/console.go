package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
)

// streamSubprotocol is KubeVirt's: binary frames of plain bytes.
const streamSubprotocol = "plain.kubevirt.io"

// escapeByte is Ctrl+], which ends a console session as in virtctl.
const escapeByte = 0x1d

// stream opens a websocket to a guest's console or display.
func (c *connection) stream(ctx context.Context, name, kind string) (*websocket.Conn, error) {
	tlsConfig, err := rest.TLSConfigFor(c.rest)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	base, err := url.Parse(c.rest.Host)
	if err != nil {
		return nil, fmt.Errorf("read the server's URL: %w", err)
	}
	base.Scheme = strings.Replace(base.Scheme, "http", "ws", 1)
	base.Path = fmt.Sprintf("/apis/%s/namespaces/%s/virtualmachineinstances/%s/%s", subresources, c.namespace, name, kind)
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig, NetDialContext: c.rest.Dial, Subprotocols: []string{streamSubprotocol}}
	socket, response, err := dialer.DialContext(ctx, base.String(), http.Header{"User-Agent": {c.rest.UserAgent}})
	if err != nil {
		return nil, streamError(name, kind, response, err)
	}
	return socket, nil
}

func streamError(name, kind string, response *http.Response, err error) error {
	if response == nil {
		return fmt.Errorf("open the %s of %s: %w", kind, name, err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if message := statusMessage(body); message != "" {
		return errors.New(message)
	}
	return fmt.Errorf("open the %s of %s: %s", kind, name, response.Status)
}

// websocketConn reads and writes a websocket as one stream of bytes. One
// goroutine may read while another writes.
type websocketConn struct {
	*websocket.Conn
	rest io.Reader
}

// Read implements io.Reader.
func (c *websocketConn) Read(p []byte) (int, error) {
	for {
		if c.rest == nil {
			_, reader, err := c.NextReader()
			if err != nil {
				return 0, io.EOF
			}
			c.rest = reader
		}
		n, err := c.rest.Read(p)
		if errors.Is(err, io.EOF) {
			c.rest = nil
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements io.Writer.
func (c *websocketConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func vmConsole(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name one virtual machine")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	socket, err := conn.stream(c.Context, c.Args().First(), "console")
	if err != nil {
		return err
	}
	defer socket.Close()
	stop := context.AfterFunc(c.Context, func() { socket.Close() })
	defer stop()
	if in, ok := c.App.Reader.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("prepare the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(in.Fd()), before) }()
	}
	fmt.Fprintf(c.App.ErrWriter, "Connected to the console of %s. Ctrl+] leaves it.\r\n", c.Args().First())
	guest := &websocketConn{Conn: socket}
	go copyUntilEscape(guest, c.App.Reader)
	_, err = io.Copy(c.App.Writer, guest)
	return err
}

// copyUntilEscape sends what the user types and closes the session at the
// escape byte. The end of the input does not end the session, so that a
// script can type and then read on.
func copyUntilEscape(guest *websocketConn, in io.Reader) {
	buffer := make([]byte, 1024)
	for {
		n, err := in.Read(buffer)
		typed, _, escaped := strings.Cut(string(buffer[:n]), string(rune(escapeByte)))
		if len(typed) > 0 {
			if _, err := guest.Write([]byte(typed)); err != nil {
				return
			}
		}
		if escaped {
			guest.Close()
			return
		}
		if err != nil {
			return
		}
	}
}

func vmVNC(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name one virtual machine")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	client, err := conn.dynamic()
	if err != nil {
		return fmt.Errorf("connect to the mesh: %w", err)
	}
	instance, err := client.Resource(vmiResource).Namespace(conn.namespace).Get(c.Context, c.Args().First(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	if phase, _, _ := unstructured.NestedString(instance.Object, "status", "phase"); phase != string(kubevirtv1.Running) {
		return fmt.Errorf("%s has no display yet: %w", c.Args().First(), fault.NotRunning)
	}
	listener, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", c.String("listen"))
	if err != nil {
		return fmt.Errorf("listen for a viewer: %w", err)
	}
	defer listener.Close()
	stop := context.AfterFunc(c.Context, func() { listener.Close() })
	defer stop()
	fmt.Fprintf(c.App.Writer, "The display of %s is at %s, for example: remote-viewer vnc://%s\n", c.Args().First(), listener.Addr(), listener.Addr())
	for {
		viewer, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a viewer: %w", err)
		}
		if err := joinDisplay(c, conn, viewer); err != nil {
			fmt.Fprintln(c.App.ErrWriter, explain(err))
		}
	}
}

// joinDisplay connects one viewer to the display until one side closes. As in
// KubeVirt, only one viewer at a time is connected.
func joinDisplay(c *cli.Context, conn *connection, viewer net.Conn) error {
	defer viewer.Close()
	socket, err := conn.stream(c.Context, c.Args().First(), "vnc")
	if err != nil {
		return err
	}
	defer socket.Close()
	guest := &websocketConn{Conn: socket}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(guest, viewer); socket.Close() })
	both.Go(func() { _, _ = io.Copy(viewer, guest); viewer.Close() })
	both.Wait()
	return nil
}

// statusMessage reads the message of a Kubernetes Status, if data is one.
func statusMessage(data []byte) string {
	var status metav1.Status
	if err := json.Unmarshal(data, &status); err != nil {
		return ""
	}
	return status.Message
}
