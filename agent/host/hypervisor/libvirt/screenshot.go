package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// maxPicture bounds a picture as libvirt gives it, which without compression is enough for
// displays of 5120 by 2880 points.
const maxPicture = 48 << 20

// wakeTimeout bounds how long the display may take to see that the pointer moves.
const wakeTimeout = 3 * time.Second

// Screenshot implements hypervisor.Consoles.
func (d *Driver) Screenshot(ctx context.Context, ref hypervisor.Ref, wake bool) ([]byte, error) {
	if wake {
		if err := d.wakeDisplay(ctx, ref); err != nil {
			return nil, err
		}
	}
	return onDomain(ctx, d, d.agents, "take a picture of", ref, nil, func(conn *libvirt.Connect, dom *libvirt.Domain) ([]byte, error) {
		if active, err := dom.IsActive(); err != nil || !active {
			return nil, orNotRunning(err)
		}
		picture, err := readPicture(conn, dom)
		if is(err, libvirt.ERR_OPERATION_INVALID) || is(err, libvirt.ERR_INVALID_ARG) {
			return nil, fmt.Errorf("%w: %w", hypervisor.ErrNoDevice, err)
		}
		if err != nil {
			return nil, err
		}
		return asPNG(picture)
	})
}

func readPicture(conn *libvirt.Connect, dom *libvirt.Domain) ([]byte, error) {
	stream, err := conn.NewStream(0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Free() }()
	// The format is told by the picture itself.
	if _, err := dom.Screenshot(stream, 0, 0); err != nil {
		return nil, err
	}
	var picture bytes.Buffer
	read := readerFunc(func(p []byte) (int, error) {
		n, err := stream.Recv(p)
		if err == nil && n == 0 {
			err = io.EOF
		}
		return n, err
	})
	n, err := io.Copy(&picture, io.LimitReader(read, maxPicture+1))
	if err == nil && n > maxPicture {
		err = fmt.Errorf("the picture has more than %d bytes", maxPicture)
	}
	if err != nil {
		_ = stream.Abort()
		return nil, err
	}
	if err := stream.Finish(); err != nil {
		return nil, err
	}
	return picture.Bytes(), nil
}

type readerFunc func(p []byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// asPNG returns a picture of the display as PNG. libvirt gives it as portable pixmap, and
// newer versions as PNG.
func asPNG(picture []byte) ([]byte, error) {
	if bytes.HasPrefix(picture, []byte("\x89PNG\r\n\x1a\n")) {
		return picture, nil
	}
	img, err := readPixmap(picture)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := encoder.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("encode a picture of the display: %w", err)
	}
	return out.Bytes(), nil
}

// readPixmap reads a portable pixmap (P6) with one byte for each colour of a point, the only
// kind that QEMU writes. The emulator belongs to a guest, so nothing in it is trusted.
func readPixmap(data []byte) (image.Image, error) {
	in := bytes.NewReader(data)
	var width, height, most int
	if _, err := fmt.Fscanf(in, "P6\n%d %d\n%d\n", &width, &height, &most); err != nil {
		return nil, fmt.Errorf("a picture of the display is no portable pixmap: %w", err)
	}
	points := data[len(data)-in.Len():]
	const limit = 1 << 15
	if width <= 0 || height <= 0 || width > limit || height > limit || most != 255 || len(points) != 3*width*height {
		return nil, errors.New("a picture of the display has another size than it says")
	}
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		copy(img.Pix[4*i:], points[3*i:3*i+3])
		img.Pix[4*i+3] = 0xff
	}
	return img, nil
}

// wakeDisplay moves the guest's pointer, as a user of the display does.
func (d *Driver) wakeDisplay(ctx context.Context, ref hypervisor.Ref) error {
	display, err := d.VNC(ctx, ref)
	if err != nil {
		return err
	}
	defer display.Close()
	if err := display.SetDeadline(time.Now().Add(wakeTimeout)); err != nil {
		return fmt.Errorf("move the pointer of %s: %w", ref, err)
	}
	if err := movePointer(display); err != nil {
		return fmt.Errorf("move the pointer of %s: %w", ref, err)
	}
	return nil
}

// movePointer speaks as much RFB (RFC 6143, version 3.8) as it takes to move the pointer by
// a point and back, and waits until the server has seen it. Others stay connected.
func movePointer(display net.Conn) error {
	const (
		versionBytes, initBytes     = 12, 24
		noAuthentication            = 1
		pointerEvent, updateRequest = 5, 3
	)
	in := make([]byte, 256)
	read := func(n int) error {
		_, err := io.ReadFull(display, in[:n])
		return err
	}
	send := func(b ...byte) error {
		_, err := display.Write(b)
		return err
	}
	steps := []func() error{
		func() error { return read(versionBytes) },
		func() error { return send([]byte("RFB 003.008\n")...) },
		func() error { return read(1) }, // how many kinds of authentication there are
		func() error { return read(int(in[0])) },
		func() error { return send(noAuthentication) },
		func() error { return read(4) }, // the result
		func() error {
			if !bytes.Equal(in[:4], []byte{0, 0, 0, 0}) {
				return errors.New("the display asks for authentication")
			}
			return send(1) // others stay
		},
		func() error { return read(initBytes) },
		func() error {
			name := int64(in[22])<<8 | int64(in[23]) // its length; nobody names a display longer
			_, err := io.CopyN(io.Discard, display, name)
			return err
		},
		func() error { return send(pointerEvent, 0, 0, 1, 0, 1) },
		func() error { return send(pointerEvent, 0, 0, 0, 0, 0) },
		func() error { return send(updateRequest, 0, 0, 0, 0, 0, 0, 1, 0, 1) },
		func() error { return read(1) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
