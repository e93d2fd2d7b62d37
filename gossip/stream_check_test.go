package gossip

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
)

// streamOf is a net.Conn of which only the bytes to read matter.
type streamOf struct {
	net.Conn
	io.Reader
}

func (s streamOf) Read(b []byte) (int, error) { return s.Reader.Read(b) }

// FuzzStreamCheck: whatever a stream holds, it is passed on whole if its first message was
// made with the key, and not at all otherwise; no more room is asked for than it takes.
func FuzzStreamCheck(f *testing.F) {
	key, mesh := bytes.Repeat([]byte{7}, 16), "mesh"
	good := sealedStream(f, key, mesh, []byte("\x06hello"))
	for _, seed := range [][]byte{good, good[:len(good)-1], append(slices.Clone(good), "more"...), good[2+len(mesh):], {}, {wireLabel}, []byte("\xf4\x04mesh\x0a\xff\xff\xff\xff")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const most = 1 << 16
		released := 0
		c := &checkedConn{
			Conn: streamOf{Reader: bytes.NewReader(text)}, labelled: true, label: []byte(mesh),
			keys: func() [][]byte { return [][]byte{key} },
			reserve: func(size int) (func(), error) {
				if size > most {
					return nil, io.ErrShortBuffer
				}
				return func() { released++ }, nil
			},
		}
		got, err := io.ReadAll(c)
		if ours := bytes.HasPrefix(text, good); ours != (err == nil && len(got) > 0) {
			t.Fatalf("passed on %d bytes, %v", len(got), err)
		}
		if len(got) > 0 && !bytes.Equal(got, text) {
			t.Error("not passed on as it was")
		}
		if released > 1 {
			t.Error("gave back more than it took")
		}
	})
}

// sealedStream is a stream as memberlist writes it.
func sealedStream(tb testing.TB, key []byte, mesh string, plain []byte) []byte {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	nonce := make([]byte, wireNonce)
	head := append([]byte{wireEncrypted}, binary.BigEndian.AppendUint32(nil, uint32(1+len(nonce)+len(plain)+gcm.Overhead()))...)
	sealed := gcm.Seal(append([]byte{wireCryptVersion}, nonce...), nonce, plain, slices.Concat(head, []byte(mesh)))
	return slices.Concat([]byte{wireLabel, byte(len(mesh))}, []byte(mesh), head, sealed)
}
