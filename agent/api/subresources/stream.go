package subresources

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/apiserver/pkg/registry/rest"

	"virtmesh/agent/port/guests"
)

const (
	// plainStream is the WebSocket subprotocol of KubeVirt's streams: binary messages
	// whose boundaries have no meaning.
	plainStream = "plain.kubevirt.io"

	handshakeLimit = 10 * time.Second
	streamChunk    = 32 << 10
)

// serveStream serves a byte stream of a guest as a WebSocket.
func serveStream(i instances, kind guests.StreamKind) rest.Storage {
	upgrader := &websocket.Upgrader{
		HandshakeTimeout: handshakeLimit,
		ReadBufferSize:   streamChunk,
		WriteBufferSize:  streamChunk,
		Subprotocols:     []string{plainStream},
	}
	return connecter{parent{vmiKind}, http.MethodGet, func(w http.ResponseWriter, r *http.Request, namespace, name string) error {
		if err := i.checkStream(r.Context(), namespace, name, kind); err != nil {
			return err
		}
		guest, err := i.hosts.Stream(r.Context(), namespace, name, kind)
		if err != nil {
			return hostError(name, err)
		}
		client, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			guest.Close()
			return nil //nolint:nilerr // the upgrader has answered
		}
		s := session{client: client, guest: guest, done: make(chan struct{})}
		s.copyStreams(r.Context().Done())
		return nil
	}}
}

// session copies bytes between a client and a guest until either disconnects. A client
// may stop reading for as long as it wants, as a VNC proxy does until a viewer
// attaches; only the keepalive of its TCP connection detects that it is gone.
type session struct {
	client *websocket.Conn
	guest  io.ReadWriteCloser
	once   sync.Once
	done   chan struct{}
}

// copyStreams copies in both directions and returns when both have ended.
func (s *session) copyStreams(cancel <-chan struct{}) {
	guests.RunTogether(s.toGuest, s.toClient, func() {
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

func (s *session) toGuest() {
	defer s.close()
	for {
		_, message, err := s.client.NextReader()
		if err != nil {
			return
		}
		if _, err := io.Copy(s.guest, message); err != nil {
			return
		}
	}
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
