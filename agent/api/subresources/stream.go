package subresources

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/port/guests"
	machine "virtmesh/agent/vmi"
)

const (
	// plainStream is the WebSocket subprotocol of KubeVirt's streams: binary messages
	// whose boundaries have no meaning.
	plainStream = "plain.kubevirt.io"

	handshakeLimit = 10 * time.Second
	streamChunk    = 64 << 10
	// maxMessage bounds a message of a client, which is also the longest packet.
	maxMessage = 1 << 20

	// forwardSilence is how long the client of a forwarded connection may be silent, in
	// KubeVirt too, and pingInterval how often it is asked whether it is there.
	forwardSilence = time.Minute
	pingInterval   = 10 * time.Second
)

// portForward is the subresource that connects to a port of a guest.
const portForward = "portforward"

// serveConsole serves the first serial port of a guest.
func (i instances) serveConsole(w http.ResponseWriter, r *http.Request, about target) error {
	vmi, err := i.objects.Instance(r.Context(), about.namespace, about.name)
	switch {
	case err != nil:
		return err
	case isFalse(vmi.Spec.Domain.Devices.AutoattachSerialConsole):
		return apierrors.NewBadRequest("No serial consoles are present.")
	case vmi.Status.Phase == kubevirtv1.Failed:
		return conflictError(vmiResource, about.name, "VMI is in failed status")
	case !vmi.IsRunning():
		return apierrors.NewBadRequest(vmiNotRunning)
	}
	return i.carryStream(w, r, about, guests.StreamRequest{Kind: guests.Console})
}

// serveDisplay serves the display of a guest.
func (i instances) serveDisplay(w http.ResponseWriter, r *http.Request, about target) error {
	if err := i.checkDisplay(r, about); err != nil {
		return err
	}
	preserve, _ := strconv.ParseBool(r.URL.Query().Get("preserveSession")) // as in KubeVirt, anything else is false
	return i.carryStream(w, r, about, guests.StreamRequest{Kind: guests.VNC, Preserve: preserve})
}

// serveScreenshot serves a picture of the display of a guest.
func (i instances) serveScreenshot(w http.ResponseWriter, r *http.Request, about target) error {
	if err := i.checkDisplay(r, about); err != nil {
		return err
	}
	wake, _ := strconv.ParseBool(r.URL.Query().Get("moveCursor")) // as above
	picture, err := i.hosts.Screenshot(r.Context(), about.namespace, about.name, wake)
	if err != nil {
		return hostError(about.name, err)
	}
	w.Header().Set("Content-Type", "image/png")
	_, _ = w.Write(picture) // fails only when the client has disconnected
	return nil
}

func (i instances) checkDisplay(r *http.Request, about target) error {
	vmi, err := i.objects.Instance(r.Context(), about.namespace, about.name)
	switch {
	case err != nil:
		return err
	case isFalse(vmi.Spec.Domain.Devices.AutoattachGraphicsDevice):
		return apierrors.NewBadRequest("No graphics devices are present.")
	case !vmi.IsRunning():
		return apierrors.NewBadRequest(vmiNotRunning)
	}
	return nil
}

// serveForward serves a connection to a port of the guest of the instance that find finds.
// The arguments are the port and, if it is not TCP, the protocol.
func (i instances) serveForward(find func(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error)) serveFunc {
	return func(w http.ResponseWriter, r *http.Request, about target) error {
		request, err := forwardRequest(about.arguments)
		if err != nil {
			return err
		}
		vmi, err := find(r.Context(), about.namespace, about.name)
		switch {
		case err != nil:
			return err
		case machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused):
			return conflictError(vmiResource, about.name, vmiPaused)
		case !vmi.IsRunning():
			return apierrors.NewBadRequest(vmiNotRunning)
		}
		return i.carryStream(w, r, about, request)
	}
}

// forwardRequest reads port and protocol.
func forwardRequest(arguments []string) (guests.StreamRequest, error) {
	request := guests.StreamRequest{Kind: guests.Forward, Protocol: guests.TCP}
	if len(arguments) == 0 {
		return request, apierrors.NewBadRequest("port must not be empty")
	}
	port, err := strconv.ParseUint(arguments[0], 10, 16)
	if err != nil || port == 0 {
		return request, apierrors.NewBadRequest(fmt.Sprintf("port must be a number from 1 to 65535, and not %q", arguments[0]))
	}
	request.Port = uint16(port)
	if len(arguments) > 1 {
		request.Protocol = arguments[1]
	}
	if request.Protocol != guests.TCP && request.Protocol != guests.UDP {
		return request, apierrors.NewBadRequest(fmt.Sprintf("protocol must be %s or %s, and not %q", guests.TCP, guests.UDP, request.Protocol))
	}
	return request, nil
}

// carryStream serves a byte stream of a guest as a WebSocket.
func (i instances) carryStream(w http.ResponseWriter, r *http.Request, about target, request guests.StreamRequest) error {
	guest, err := i.hosts.Stream(r.Context(), about.namespace, about.name, request)
	if err != nil {
		return hostError(about.name, err)
	}
	upgrader := &websocket.Upgrader{
		HandshakeTimeout: handshakeLimit,
		ReadBufferSize:   streamChunk,
		WriteBufferSize:  streamChunk,
		Subprotocols:     []string{plainStream},
	}
	client, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		guest.Close()
		return nil //nolint:nilerr // the upgrader has answered
	}
	client.SetReadLimit(maxMessage)
	s := session{client: client, guest: guest, done: make(chan struct{}), packets: request.Protocol == guests.UDP}
	if request.Kind == guests.Forward {
		s.silence = forwardSilence
	}
	s.copyStreams(r.Context().Done())
	return nil
}

// session copies bytes between a client and a guest until either disconnects. The client of
// a console or a display may stop reading for as long as it wants, as a VNC proxy does
// until a viewer attaches; only the keepalive of its TCP connection detects that it is gone.
type session struct {
	client *websocket.Conn
	guest  io.ReadWriteCloser
	// packets says that each message is one packet.
	packets bool
	// silence is how long the client may not answer; 0 for ever.
	silence time.Duration
	once    sync.Once
	done    chan struct{}
}

// copyStreams copies in both directions and returns when both have ended.
func (s *session) copyStreams(cancel <-chan struct{}) {
	s.awaitClient()
	guests.RunTogether(s.toGuest, s.toClient, s.pingClient, func() {
		select {
		case <-cancel:
		case <-s.done:
		}
		s.close()
	})
}

// close closes both sides, so that pending reads and writes return.
func (s *session) close() {
	s.once.Do(func() {
		close(s.done)
		s.guest.Close()
		s.client.Close()
	})
}

// awaitClient lets the client be silent for as long as it may from now on.
func (s *session) awaitClient() {
	if s.silence > 0 {
		_ = s.client.SetReadDeadline(time.Now().Add(s.silence)) // fails only on a closed connection
	}
}

// pingClient asks the client now and then whether it is there; its answers arrive among what
// toGuest reads.
func (s *session) pingClient() {
	if s.silence == 0 {
		return
	}
	defer s.close()
	s.client.SetPongHandler(func(string) error { s.awaitClient(); return nil })
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
			if err := s.client.WriteControl(websocket.PingMessage, nil, time.Now().Add(s.silence)); err != nil {
				return
			}
		}
	}
}

func (s *session) toGuest() {
	defer s.close()
	for {
		_, message, err := s.client.NextReader()
		if err != nil {
			return
		}
		if s.packets {
			packet, err := io.ReadAll(message)
			if err == nil {
				_, err = s.guest.Write(packet)
			}
			if err != nil && len(packet) <= streamChunk {
				return
			}
		} else if _, err := io.Copy(struct{ io.Writer }{s.guest}, awaitedReader{s, message}); err != nil {
			return
		}
		// The guest may have let the client wait.
		s.awaitClient()
	}
}

// awaitedReader reads a message, and does not count the time that the guest took for the
// part before as a silence of the client.
type awaitedReader struct {
	*session
	message io.Reader
}

// Read implements io.Reader.
func (r awaitedReader) Read(p []byte) (int, error) {
	r.awaitClient()
	return r.message.Read(p)
}

func (s *session) toClient() {
	defer s.close()
	buf := make([]byte, streamChunk)
	for {
		n, err := s.guest.Read(buf)
		if n > 0 {
			if err := s.client.WriteMessage(websocket.BinaryMessage, buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			s.sendCloseReason(err)
			return
		}
	}
}

// sendCloseReason tells the client why the stream ends.
func (s *session) sendCloseReason(err error) {
	code, text := websocket.CloseNormalClosure, ""
	if !errors.Is(err, io.EOF) {
		code, text = websocket.CloseInternalServerErr, "the stream to the guest broke"
	}
	_ = s.client.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
}
