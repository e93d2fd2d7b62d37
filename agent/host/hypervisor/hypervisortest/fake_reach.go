package hypervisortest

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"io"
	"net"

	"virtmesh/agent/host/hypervisor"
)

// Console implements hypervisor.Consoles.
func (f *Fake) Console(ctx context.Context, ref hypervisor.Ref) (out io.ReadWriteCloser, err error) {
	err = f.on(ctx, "Console", ref, func(_ *Machine, d *fakeDomain) error {
		if !d.state.Active() {
			return hypervisor.ErrNotRunning
		}
		out = d.serial.open()
		return nil
	})
	return out, err
}

// VNC implements hypervisor.Consoles. The display greets and says no more.
func (f *Fake) VNC(ctx context.Context, ref hypervisor.Ref) (out net.Conn, err error) {
	err = f.on(ctx, "VNC", ref, func(_ *Machine, d *fakeDomain) error {
		if !d.state.Active() {
			return hypervisor.ErrNotRunning
		}
		var server net.Conn
		out, server = net.Pipe()
		// The goroutine ends when the caller reads the greeting or closes its end.
		go func() { _, _ = io.WriteString(server, "RFB 003.008\n") }()
		return nil
	})
	return out, err
}

// Screenshot implements hypervisor.Consoles. The display is one black point.
func (f *Fake) Screenshot(ctx context.Context, ref hypervisor.Ref, _ bool) (out []byte, err error) {
	err = f.on(ctx, "Screenshot", ref, func(_ *Machine, d *fakeDomain) error {
		if !d.state.Active() {
			return hypervisor.ErrNotRunning
		}
		var picture bytes.Buffer
		err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 1, 1)))
		out = picture.Bytes()
		return err
	})
	return out, err
}

// Freeze implements hypervisor.Freezer.
func (f *Fake) Freeze(ctx context.Context, ref hypervisor.Ref) error {
	return f.setFrozen(ctx, "Freeze", ref, true)
}

// Thaw implements hypervisor.Freezer.
func (f *Fake) Thaw(ctx context.Context, ref hypervisor.Ref) error {
	return f.setFrozen(ctx, "Thaw", ref, false)
}

func (f *Fake) setFrozen(ctx context.Context, method string, ref hypervisor.Ref, frozen bool) error {
	return f.on(ctx, method, ref, func(_ *Machine, d *fakeDomain) error {
		switch {
		case !d.state.Active():
			return hypervisor.ErrNotRunning
		case d.agent == nil:
			return hypervisor.ErrNoAgent
		}
		d.frozen = frozen
		return nil
	})
}

// GuestInfo implements hypervisor.Observer.
func (f *Fake) GuestInfo(ctx context.Context, ref hypervisor.Ref) (out hypervisor.GuestInfo, err error) {
	err = f.on(ctx, "GuestInfo", ref, func(_ *Machine, d *fakeDomain) error {
		if d.agent == nil {
			return hypervisor.ErrNoAgent
		}
		out = *d.agent
		return nil
	})
	return out, err
}
